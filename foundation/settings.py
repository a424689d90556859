"""All settings of the service: the environment, or a ``.env`` file in the working folder."""

from __future__ import annotations

import base64
import os
import re
from email.utils import parseaddr
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foundation.errors import SettingsError

MINIMUM_SECRET_BYTES = 32
MINIMUM_WEBHOOK_SECRET_BYTES = 24
WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105  # a prefix, no secret


def default_data_dir() -> Path:
    """Return the default DATA_DIR: not under a home folder for root.

    The embedded server runs under an account of its own then and needs a way in, which nobody wants to open
    through a home folder.
    """
    return Path("/var/lib/advanced-alerting") if os.geteuid() == 0 else Path("data")


class Settings(BaseSettings):
    """The settings, checked; ``docs/settings.md`` explains each."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    database_url: str = ""
    data_dir: Path = Field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = Field(default=5002, ge=1, le=65535)
    web_workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=64)
    web_threads: int = Field(default=4, ge=1, le=100)
    database_pool_size: int = Field(default=8, ge=1, le=100)
    database_wait_seconds: float = Field(default=2.0, gt=0, le=60)
    statement_timeout_seconds: int = Field(default=30, ge=1, le=3600)
    jwt_secret: str = ""
    jwt_public_key: str = ""
    jwt_jwks_url: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    public_url: str = ""
    trusted_proxies: int = Field(default=0, ge=0, le=10)
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    telemetry_days: int = Field(default=30, ge=1, le=366)
    ml_hot_models: int = Field(default=1000, ge=1, le=100_000)
    sensor_silence_steps: int = Field(default=10, ge=0, le=10_000)
    group_window_seconds: int = Field(default=300, ge=1, le=86400)
    renotify_minutes: int = Field(default=60, ge=1, le=10080)
    notification_lease_seconds: int = Field(default=30, ge=1, le=600)
    smtp_url: str = ""
    email_from: str = ""
    twilio_account_sid: str = ""
    twilio_auth_token: str = ""
    twilio_from_number: str = ""
    twilio_api_base_url: str = ""
    sms_max_per_hour: int = Field(default=10, ge=1, le=1000)
    webhook_secret: str = ""
    webhook_allow_private: bool = False
    rate_limit: str = ""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(origin.strip().rstrip("/") for origin in value.split(",") if origin.strip())
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _check_secret_length(cls, value: str) -> str:
        if value and len(value.encode()) < MINIMUM_SECRET_BYTES:
            raise ValueError(f"must have at least {MINIMUM_SECRET_BYTES} bytes")
        return value

    @field_validator("rate_limit")
    @classmethod
    def _check_rate_limit(cls, value: str) -> str:
        if value:
            from limits import parse_many

            parse_many(value)
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        if value and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _check_smtp_url(cls, value: str) -> str:
        if value:
            check_smtp_url(value)
        return value

    @field_validator("email_from")
    @classmethod
    def _check_email_from(cls, value: str) -> str:
        address = parseaddr(value)[1]
        is_good = value.isprintable() and address.isascii() and re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", address)
        if value and not is_good:
            raise ValueError("must be an address such as alerts@example.com or Alerts <alerts@example.com>")
        return value

    @field_validator("twilio_from_number")
    @classmethod
    def _check_twilio_sender(cls, value: str) -> str:
        if value and re.fullmatch(r"\+[0-9]{4,15}|[0-9]{3,8}|[A-Za-z0-9 ]{1,11}", value) is None:
            raise ValueError("must be a number such as +33612345678, a short code or a sender's name")
        return value

    @field_validator("twilio_api_base_url")
    @classmethod
    def _check_twilio_address(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(cls, value: str) -> str:
        if value:
            check_webhook_secret(value)
        return value

    @model_validator(mode="after")
    def _require_whole_channels(self) -> Settings:
        if self.smtp_url and not self.email_from:
            raise ValueError("EMAIL_FROM is required when SMTP_URL is set")
        credentials = {
            "TWILIO_ACCOUNT_SID": self.twilio_account_sid,
            "TWILIO_AUTH_TOKEN": self.twilio_auth_token,
            "TWILIO_FROM_NUMBER": self.twilio_from_number,
        }
        missing = [name for name, value in credentials.items() if not value]
        if missing and len(missing) < len(credentials):
            present = next(name for name in credentials if name not in missing)
            raise ValueError(f"{missing[0]} is required when {present} is set")
        return self

    @model_validator(mode="after")
    def _require_secret_with_own_database(self) -> Settings:
        if self.database_url and not self.jwt_secret:
            raise ValueError("JWT_SECRET is required when DATABASE_URL is set")
        return self

    @property
    def base_url(self) -> str:
        """The address that people reach, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url.rstrip("/") or f"http://{host}:{self.port}"

    @property
    def is_embedded(self) -> bool:
        """Whether the service brings its own PostgreSQL server."""
        return not self.database_url


def check_smtp_url(url: str) -> None:
    """Check the form of SMTP_URL: smtp://user:password@host:port?starttls or smtps://…

    Raises:
        ValueError: it has another form, or would send the password in clear to another machine.
    """
    form = "must be smtp://[user:password@]host[:port][?starttls] or smtps://[user:password@]host[:port]"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(form) from error
    is_good = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and port != 0
    if not is_good or parts.path.strip("/") or parts.query not in ("", "starttls"):
        raise ValueError(form)
    is_clear = parts.scheme == "smtp" and not parts.query
    if parts.password and is_clear and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("a password needs TLS: add ?starttls, or use smtps://")


def check_webhook_secret(secret: str) -> None:
    """Check the form of WEBHOOK_SECRET, which Standard Webhooks sets.

    Raises:
        ValueError: it has another form, or is shorter than the standard's 24 bytes.
    """
    try:
        key = base64.b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(WEBHOOK_SECRET_PREFIX) or len(key) < MINIMUM_WEBHOOK_SECRET_BYTES:
        raise ValueError(
            f"must be {WEBHOOK_SECRET_PREFIX} and then at least {MINIMUM_WEBHOOK_SECRET_BYTES} random bytes in base64"
        )


def load_settings(**overrides: object) -> Settings:
    """Return the settings of this process; ``overrides`` win over the environment.

    Raises:
        SettingsError: naming the first wrong setting and what is wrong with it.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks what the command line brings
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]).upper()
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name}: {message}" if name else message) from error
