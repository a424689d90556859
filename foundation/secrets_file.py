"""Generated secrets: made once in the data folder, the same for every process that asks."""

from __future__ import annotations

import base64
import os
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foundation.data_folder import prepare_data_folder
from foundation.errors import SettingsError
from foundation.settings import MINIMUM_SECRET_BYTES, WEBHOOK_SECRET_PREFIX, Settings, check_webhook_secret

SECRET_BYTES = 48
WEBHOOK_KEY_BYTES = 32


def _check_jwt_secret(secret: str) -> None:
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise ValueError(f"holds no secret of {MINIMUM_SECRET_BYTES} bytes")


def _make_webhook_secret() -> str:
    return WEBHOOK_SECRET_PREFIX + base64.b64encode(secrets.token_bytes(WEBHOOK_KEY_BYTES)).decode()


@dataclass(frozen=True)
class SecretKind:
    """A secret by the name of its file: how it is made, and what it must look like (else ValueError)."""

    name: str
    make: Callable[[], str]
    check: Callable[[str], None]


JWT_SECRET = SecretKind("jwt_secret", lambda: secrets.token_urlsafe(SECRET_BYTES), _check_jwt_secret)
WEBHOOK_SECRET = SecretKind("webhook_secret", _make_webhook_secret, check_webhook_secret)


def add_generated_secrets(settings: Settings) -> Settings:
    """Return the settings with every secret: one that is not set is taken from, or made in, DATA_DIR.

    With a DATABASE_URL nothing is made: the nodes of an installation would each have their own.

    Raises:
        SettingsError: DATA_DIR cannot be written, or a secret in it cannot be read.
    """
    if not settings.is_embedded:
        return settings
    made = {
        kind.name: ensure_secret(settings.data_dir, kind)
        for kind in (JWT_SECRET, WEBHOOK_SECRET)
        if not getattr(settings, kind.name)
    }
    return settings.model_copy(update=made) if made else settings


def ensure_secret(data_dir: Path, kind: SecretKind) -> str:
    """Return the secret of a kind, made at the first call.

    Any number of processes may call at once and get the same secret.

    Raises:
        SettingsError: DATA_DIR cannot be written, or the secret in it cannot be read or is damaged.
    """
    path = prepare_data_folder(data_dir) / kind.name
    try:
        if not path.exists():
            _create_secret(path, kind.make())
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"DATA_DIR: {path} cannot be read or written ({error})") from error
    try:
        kind.check(secret)
    except ValueError as error:
        raise SettingsError(f"DATA_DIR: {path} {error}; remove it for a new one") from error
    return secret


def _create_secret(path: Path, secret: str) -> None:
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: of two processes the second must find the first one's secret, not replace it.
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        Path(draft).unlink()
