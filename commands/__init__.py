"""The command line: ``python app_advanced.py [run|serve|worker|migrate|token|create-user|demo|openapi]``.

Each command is a module of its own with ``add_arguments(parser)`` and ``run(arguments, settings) -> int``, imported
only when it is called: what a supervising process does not need costs it neither time nor memory.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from importlib import import_module
from typing import NamedTuple

from foundation.errors import DomainError, SettingsError
from foundation.settings import load_settings

PROGRAM = "advanced-alerting"
EXIT_FAILED = 1
EXIT_USAGE = 2


class Command(NamedTuple):
    """A word of the command line: where it is, and what it does."""

    module: str
    summary: str


COMMANDS = {
    "run": Command("commands.run", "everything together: database, web, worker (the default)"),
    "serve": Command("commands.serve", "the web processes alone"),
    "worker": Command("commands.work", "the background worker alone"),
    "migrate": Command("commands.migrate", "bring the database up to date"),
    "token": Command("commands.token", "print a token for the API"),
    "create-user": Command("commands.create_user", "add a user"),
    "demo": Command("commands.demo", "play readings of machines, and show the pages that they cause"),
    "openapi": Command("commands.openapi", "print the API's specification"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command that ``argv`` names and return the exit code; a wrong setting is one line and exit code 1."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["-h"], ["--help"]):
        write_line(describe_usage())
        return 0
    name, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else ("run", words)
    if name not in COMMANDS:
        complain(f"there is no command {name!r}\n{describe_usage()}")
        return EXIT_USAGE
    module = import_module(COMMANDS[name].module)
    parser = ArgumentParser(prog=f"{PROGRAM} {name}", description=COMMANDS[name].summary)
    module.add_arguments(parser)
    arguments = parser.parse_args(rest)
    try:
        return int(module.run(arguments, load_settings()))
    except SettingsError as error:
        complain(str(error))
    except DomainError as error:
        complain(error.message)
    except KeyboardInterrupt:
        complain("interrupted")
    return EXIT_FAILED


def describe_usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([f"usage: {PROGRAM} [command] [--help]", *lines])


def write_line(text: str) -> None:
    """Print a line for the person, or the program, that called."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Print one line on standard error."""
    sys.stderr.write(f"{PROGRAM}: {text}\n")
