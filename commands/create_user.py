"""``create-user``: add a user, also while ``run`` is up."""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser, Namespace

from commands import write_line
from commands.database_access import reach_database
from foundation.errors import ValidationFailed
from foundation.logging import configure_logging
from foundation.migrator import migrate
from foundation.settings import Settings


def add_arguments(parser: ArgumentParser) -> None:
    """Take the fields of an account; the password never stands on the command line, where others can read it."""
    from api.auth import ROLES

    parser.add_argument("--email", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--role", required=True, choices=sorted(ROLES))
    parser.add_argument(
        "--password-stdin", action="store_true", help="read the password from standard input, not from the terminal"
    )


def run(arguments: Namespace, settings: Settings) -> int:
    """Add the user and print its id."""
    from wiring import build_services

    configure_logging(settings)
    password = sys.stdin.readline().rstrip("\r\n") if arguments.password_stdin else _ask_password()
    with reach_database(settings) as reached:
        migrate(reached.database_url)
        services = build_services(reached)
        try:
            user = services.accounts.create_user(
                email=arguments.email, name=arguments.name, role=arguments.role, password=password
            )
        finally:
            services.database.close()
    write_line(str(user.user_id))
    return 0


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise ValidationFailed.of("password", "is asked for at a terminal; give it with --password-stdin here")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise ValidationFailed.of("password", "was not the same twice")
    return password
