"""``openapi``: print the API's specification."""

from __future__ import annotations

import json
import secrets
from argparse import ArgumentParser, Namespace

from commands import write_line
from foundation.settings import MINIMUM_SECRET_BYTES, Settings


def add_arguments(parser: ArgumentParser) -> None:
    """Take no arguments."""


def run(arguments: Namespace, settings: Settings) -> int:
    """Print the specification as JSON; neither a database nor a secret is needed."""
    from api.openapi import build_specification
    from app_advanced import create_app

    secret = settings.jwt_secret or secrets.token_urlsafe(MINIMUM_SECRET_BYTES)
    application = create_app(settings.model_copy(update={"jwt_secret": secret}))
    write_line(json.dumps(build_specification(application), indent=2))
    return 0
