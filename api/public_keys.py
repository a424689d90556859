"""Public keys of an identity provider: one from the settings, or a set behind a JWKS address."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from foundation.clock import Clock
from foundation.errors import SettingsError, Unavailable
from foundation.settings import Settings

logger = logging.getLogger(__name__)

MINIMUM_RSA_BITS = 2048

FRESH_FOR = timedelta(minutes=5)
USABLE_FOR = timedelta(hours=1)
PAUSE_SECONDS = 10
TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True)
class PublicKey:
    """A key together with the one algorithm it may be used with."""

    key: RSAPublicKey | EllipticCurvePublicKey
    algorithm: str


class PublicKeys(Protocol):
    """Where public keys come from."""

    def find_key(self, key_id: object) -> PublicKey | None:
        """Return the key that a token's ``kid`` names, or None.

        Raises:
            Unavailable: the key may exist, but its source cannot be reached.
        """


def read_public_keys(settings: Settings, clock: Clock) -> PublicKeys | None:
    """Return the source of public keys that the settings name, or None.

    Raises:
        SettingsError: both sources are set, or the one that is set is of no use.
    """
    if settings.jwt_public_key and settings.jwt_jwks_url:
        raise SettingsError("JWT_PUBLIC_KEY: set either this or JWT_JWKS_URL")
    if settings.jwt_public_key:
        return SinglePublicKey(read_pem(settings.jwt_public_key))
    if settings.jwt_jwks_url:
        return KeySet(settings.jwt_jwks_url, clock)
    return None


def read_pem(setting: str) -> PublicKey:
    r"""Return the key in a PEM text, where ``\n`` may stand for a line end, or in the PEM file of that path.

    Raises:
        SettingsError: there is no such file, or no RSA or P-256 public key in it.
    """
    try:
        if setting.lstrip().startswith("-----BEGIN"):
            pem = setting.replace("\\n", "\n").encode()
        else:
            pem = Path(setting).read_bytes()
        return describe_key(load_pem_public_key(pem))
    except OSError as error:
        raise SettingsError(f"JWT_PUBLIC_KEY: the file cannot be read ({error.strerror})") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError("JWT_PUBLIC_KEY: must be an RSA (2048 bits or more) or P-256 public key in PEM") from error


def describe_key(key: object) -> PublicKey:
    """Return the key with its algorithm.

    Raises:
        ValueError: it is neither an RSA key of 2048 bits or more nor one on the curve P-256.
    """
    if isinstance(key, RSAPublicKey) and key.key_size >= MINIMUM_RSA_BITS:
        return PublicKey(key, "RS256")
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return PublicKey(key, "ES256")
    raise ValueError("neither RS256 nor ES256 can be verified with this key")


class SinglePublicKey:
    """The one key of JWT_PUBLIC_KEY, whatever a token calls it."""

    def __init__(self, key: PublicKey) -> None:
        self._key = key

    def find_key(self, key_id: object) -> PublicKey | None:  # the protocol's argument
        """Return the key."""
        return self._key


class KeySet:
    """The keys behind JWT_JWKS_URL, fetched when first needed, after five minutes and for an unknown ``kid``.

    The endpoint is asked at most every ten seconds, whatever tokens bring, and also while it is away: the
    cooldown of PyJWKClient begins at a success only, so that every request would wait for the timeout. Keys
    already known go on verifying for an hour while the endpoint is away, and who brings one never waits.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        if not url.startswith(("https://", "http://")):
            raise SettingsError("JWT_JWKS_URL: must begin with https:// or http://")
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=TIMEOUT_SECONDS)
        self._clock = clock
        self._keys: dict[str, PublicKey] = {}
        self._fetched_at: datetime | None = None
        self._asked_at: datetime | None = None
        self._is_away = False
        self._lock = threading.Lock()

    def find_key(self, key_id: object) -> PublicKey | None:
        """Return the key with this ``kid``, or None."""
        if not isinstance(key_id, str):
            return None
        known = self._keys.get(key_id)
        if known is not None and self._age() < FRESH_FOR:
            return known
        if self._lock.acquire(blocking=known is None):
            try:
                self._ask_when_due()
            finally:
                self._lock.release()
        found = self._keys.get(key_id) if self._age() < USABLE_FOR else None
        if found is None and self._is_away:
            raise Unavailable("the identity provider's keys cannot be fetched", retry_after_seconds=PAUSE_SECONDS)
        return found

    def _age(self) -> timedelta:
        return timedelta.max if self._fetched_at is None else self._clock.now() - self._fetched_at

    def _ask_when_due(self) -> None:
        now = self._clock.now()
        if self._asked_at is not None and now - self._asked_at < timedelta(seconds=PAUSE_SECONDS):
            return
        self._asked_at = now
        try:
            self._keys = self._fetch_keys()
        except (jwt.PyJWTError, OSError, ValueError, HTTPException) as error:
            self._is_away = True
            logger.warning("JWT_JWKS_URL: the keys cannot be fetched: %s", error)
        else:
            self._fetched_at, self._is_away = now, False

    def _fetch_keys(self) -> dict[str, PublicKey]:
        keys = {}
        for key in self._client.get_signing_keys(refresh=True):
            try:
                described = describe_key(key.key)
            except ValueError:
                # Providers publish keys for other algorithms beside those that count here.
                continue
            if key.algorithm_name == described.algorithm:
                keys[str(key.key_id)] = described
        return keys
