"""All settings of the service: the environment, or a ``.env`` file in the working folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from foundation.errors import SettingsError

MINIMUM_SECRET_BYTES = 32


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
    database_pool_size: int = Field(default=8, ge=1, le=100)
    database_wait_seconds: float = Field(default=2.0, gt=0, le=60)
    statement_timeout_seconds: int = Field(default=30, ge=1, le=3600)
    jwt_secret: str = ""
    jwt_public_key: str = ""
    jwt_jwks_url: str = ""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    public_url: str = ""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    group_window_seconds: int = Field(default=300, ge=1, le=86400)
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
