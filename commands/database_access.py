"""How a command reaches the database: the one that is set, the one of a ``run`` beside it, or its own for a moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundation.data_folder import (
    RunningService,
    hold_data_folder,
    is_data_folder_held,
    prepare_data_folder,
    read_running_service,
)
from foundation.embedded_postgres import EmbeddedPostgres
from foundation.errors import SettingsError
from foundation.processes import await_condition
from foundation.secrets_file import add_generated_secrets
from foundation.settings import Settings

SOURCE_FOLDER = Path(__file__).resolve().parent.parent
# A `run` beside us that has just begun: its first start takes a few seconds until the database is migrated.
STARTING_SECONDS = 30.0


@contextmanager
def reach_database(settings: Settings) -> Iterator[Settings]:
    """Yield settings with the address of a database and every secret; a server of our own ends with the block.

    Raises:
        SettingsError: DATA_DIR cannot be used, or the embedded server does not start.
    """
    if not settings.is_embedded:
        yield settings
        return
    settings = add_generated_secrets(settings)
    folder = prepare_data_folder(settings.data_dir)
    running = find_running_service(folder)
    if running is not None:
        yield settings.model_copy(update={"database_url": running.database_url})
        return
    with hold_data_folder(folder):
        server = EmbeddedPostgres(folder)
        try:
            yield settings.model_copy(update={"database_url": server.start()})
        finally:
            server.stop()


def require_database(settings: Settings) -> Settings:
    """Return settings with the address of a database that runs already, and every secret.

    Raises:
        SettingsError: no DATABASE_URL is set, and no ``run`` is up on DATA_DIR.
    """
    if not settings.is_embedded:
        return settings
    folder = prepare_data_folder(settings.data_dir)
    running = find_running_service(folder)
    if running is None:
        raise SettingsError("DATABASE_URL: is not set, and only `run` brings the embedded database")
    return add_generated_secrets(settings).model_copy(update={"database_url": running.database_url})


def find_running_service(folder: Path) -> RunningService | None:
    """Return what the ``run`` that holds the folder told, after waiting for one that is just starting."""
    found: list[RunningService | None] = [None]

    def has_settled() -> bool:
        if not is_data_folder_held(folder):
            found[0] = None
            return True
        found[0] = read_running_service(folder)
        return found[0] is not None

    await_condition(has_settled, STARTING_SECONDS)
    return found[0]


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a child process: secrets go this way, never onto a command line."""
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "JWT_SECRET": settings.jwt_secret,
        "WEBHOOK_SECRET": settings.webhook_secret,
        "DATA_DIR": str(settings.data_dir.expanduser().resolve()),
        "PYTHONPATH": str(SOURCE_FOLDER),
    }
