"""``token``: print a token for the API, and nothing else."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from commands import PROGRAM, write_line
from foundation.secrets_file import add_generated_secrets
from foundation.settings import Settings

DEFAULT_HOURS = 12.0
LONGEST_HOURS = 24.0 * 366 * 10


def add_arguments(parser: ArgumentParser) -> None:
    """Take the claims."""
    from api.auth import ROLES

    parser.add_argument("--role", required=True, choices=sorted(ROLES), help="what the bearer may do")
    parser.add_argument("--user", metavar="ID", default=PROGRAM, help="the subject: a user's id, or a device's name")
    parser.add_argument("--hours", type=_parse_hours, default=DEFAULT_HOURS, help="how long it holds (%(default)s)")


def run(arguments: Namespace, settings: Settings) -> int:
    """Print a token signed with the secret of the service; it need not be running."""
    from api.tokens import issue_token

    write_line(
        issue_token(add_generated_secrets(settings), subject=arguments.user, role=arguments.role, hours=arguments.hours)
    )
    return 0


def _parse_hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no number") from error
    if not 0 < hours <= LONGEST_HOURS:
        raise ArgumentTypeError(f"must be more than 0 and at most {LONGEST_HOURS:.0f}")
    return hours
