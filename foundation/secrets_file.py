"""Generated secrets: made once in the data folder, the same for every process that asks."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from foundation.data_folder import prepare_data_folder
from foundation.errors import SettingsError
from foundation.settings import MINIMUM_SECRET_BYTES, Settings

JWT_SECRET_NAME = "jwt_secret"  # noqa: S105  # the name of a file
SECRET_BYTES = 48


def add_generated_secrets(settings: Settings) -> Settings:
    """Return the settings with every secret: one that is not set is taken from, or made in, DATA_DIR.

    Raises:
        SettingsError: DATA_DIR cannot be written, or the secret in it cannot be read.
    """
    if settings.jwt_secret or not settings.is_embedded:
        return settings
    return settings.model_copy(update={"jwt_secret": ensure_jwt_secret(settings.data_dir)})


def ensure_jwt_secret(data_dir: Path) -> str:
    """Return the secret that signs tokens, made at the first call.

    Any number of processes may call at once and get the same secret.

    Raises:
        SettingsError: DATA_DIR cannot be written, or the secret in it cannot be read or is damaged.
    """
    path = prepare_data_folder(data_dir) / JWT_SECRET_NAME
    try:
        if not path.exists():
            _create_secret(path)
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"DATA_DIR: {path} cannot be read or written ({error})") from error
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise SettingsError(
            f"DATA_DIR: {path} holds no secret of {MINIMUM_SECRET_BYTES} bytes; remove it for a new one"
        )
    return secret


def _create_secret(path: Path) -> None:
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: of two processes the second must find the first one's secret, not replace it.
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        Path(draft).unlink()
