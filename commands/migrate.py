"""``migrate``: bring the database up to date."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from commands import write_line
from commands.database_access import reach_database
from foundation.logging import configure_logging
from foundation.migrator import migrate
from foundation.settings import Settings


def add_arguments(parser: ArgumentParser) -> None:
    """Take no arguments."""


def run(arguments: Namespace, settings: Settings) -> int:
    """Run the migrations that have not run yet, and print their names."""
    configure_logging(settings)
    with reach_database(settings) as reached:
        applied = migrate(reached.database_url)
    for migration in applied:
        write_line(f"{migration.number:04d} {migration.name}")
    write_line(f"{len(applied)} migrations applied" if applied else "the database is up to date")
    return 0
