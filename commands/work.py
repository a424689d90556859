"""``worker``: the background worker alone."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from commands.database_access import require_database
from foundation.logging import configure_logging
from foundation.settings import Settings


def add_arguments(parser: ArgumentParser) -> None:
    """Take no arguments."""


def run(arguments: Namespace, settings: Settings) -> int:
    """Work until SIGTERM or Ctrl-C."""
    from worker import run_worker

    configure_logging(settings)
    run_worker(require_database(settings))
    return 0
