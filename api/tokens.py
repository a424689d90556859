"""Tokens: issued with the service's secret, verified by it or by the public keys of an identity provider.

The key decides which algorithm may be used, never the token alone: HS256 goes with the secret only, RS256 and
ES256 with public keys only (RFC 8725, sections 3.1 and 3.2), so that a public key cannot pass for a secret.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from api.auth import ROLES, Caller
from api.parsing import check_text, parse_identifier
from api.public_keys import read_public_keys
from foundation.clock import Clock
from foundation.errors import NotAuthenticated, SettingsError
from foundation.settings import Settings

SHARED_KEY_ALGORITHM = "HS256"
PUBLIC_KEY_ALGORITHMS = ("RS256", "ES256")
CLOCK_SKEW_SECONDS = 30
TOKEN_LENGTH_LIMIT = 8192

CACHED_TOKENS = 4096
CACHED_TOKEN_AGE = timedelta(minutes=5)

_LAST_INSTANT = datetime.max.replace(tzinfo=UTC).timestamp() - 86400
_REFUSED = "the token is not valid"


def issue_token(  # one argument per claim, all named
    settings: Settings,
    *,
    subject: str,
    role: str,
    hours: float,
    name: str | None = None,
    permissions: Sequence[str] | None = None,
    session_number: int | None = None,
    clock: Clock | None = None,
) -> str:
    """Return an HS256 token for ``subject`` that holds for ``hours`` from now.

    ``permissions`` replace the role's. ``session_number`` binds the token to the account whose identifier is
    the subject: it ends with the account or its password, and follows its role.

    Raises:
        SettingsError: there is no JWT_SECRET to sign with.
    """
    if not settings.jwt_secret:
        raise SettingsError("JWT_SECRET: is needed to issue tokens")
    now = (clock or Clock()).now()
    claims: dict[str, Any] = {
        "sub": subject,
        "role": role,
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(hours=hours)).timestamp()),
    }
    optional = {
        "name": name,
        "permissions": None if permissions is None else list(permissions),
        "session": session_number,
        "iss": settings.jwt_issuer or None,
        "aud": settings.jwt_audience or None,
    }
    claims.update({claim: value for claim, value in optional.items() if value is not None})
    return jwt.encode(claims, settings.jwt_secret, algorithm=SHARED_KEY_ALGORITHM)


class TokenVerifier:
    """Verifies bearer tokens; safe to share between threads.

    A token that held is remembered for at most five minutes and never past its ``exp``: a second look costs
    about a microsecond. Only tokens that held are remembered, so nobody can fill the memory with rubbish.

    Raises:
        SettingsError: JWT_PUBLIC_KEY or JWT_JWKS_URL is of no use.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        # Wall time on purpose where no clock is given: simulations freeze the clock of the domain, not trust.
        self._clock = clock or Clock()
        self._secret = settings.jwt_secret
        self._issuer = settings.jwt_issuer or None
        self._audience = settings.jwt_audience or None
        self._public_keys = read_public_keys(settings, self._clock)
        self._remembered: dict[str, _Remembered] = {}
        self._lock = threading.Lock()

    def verify(self, token: str) -> Caller:
        """Return who the token speaks for.

        Raises:
            NotAuthenticated: malformed, expired, wrongly signed, of another issuer or audience.
            Unavailable: its key has to be fetched from the JWKS endpoint, which cannot be reached.
        """
        now = self._clock.now()
        remembered = self._remembered.get(token)
        if remembered is not None and now < remembered.until:
            return remembered.caller
        fresh = self._verify_anew(token, now)
        with self._lock:
            self._remembered.pop(token, None)
            if len(self._remembered) >= CACHED_TOKENS:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[token] = fresh
        return fresh.caller

    def _verify_anew(self, token: str, now: datetime) -> _Remembered:
        if len(token) > TOKEN_LENGTH_LIMIT:
            raise NotAuthenticated(_REFUSED)
        try:
            key, algorithm = self._choose_key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=CLOCK_SKEW_SECONDS,
                # A subject may be a number here, and `exp` is checked below, at every use and without leeway.
                options={"require": ["exp"], "verify_aud": self._audience is not None, "verify_sub": False},
            )
            expires_at = read_expiry(claims["exp"])
        except jwt.ExpiredSignatureError as error:
            raise NotAuthenticated("the token has expired") from error
        except (jwt.PyJWTError, ValueError, OverflowError, TypeError, RecursionError) as error:
            raise NotAuthenticated(_REFUSED) from error
        if expires_at <= now:
            raise NotAuthenticated("the token has expired")
        caller = read_caller(claims, is_local=algorithm == SHARED_KEY_ALGORITHM)
        return _Remembered(caller, min(expires_at, now + CACHED_TOKEN_AGE))

    def _choose_key(self, header: Mapping[str, Any]) -> tuple[Any, str]:
        algorithm = header.get("alg")
        if algorithm == SHARED_KEY_ALGORITHM and self._secret:
            return self._secret, SHARED_KEY_ALGORITHM
        if algorithm in PUBLIC_KEY_ALGORITHMS and self._public_keys is not None:
            found = self._public_keys.find_key(header.get("kid"))
            if found is not None and found.algorithm == algorithm:
                return found.key, found.algorithm
        raise NotAuthenticated(_REFUSED)


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    until: datetime


def read_expiry(claim: object) -> datetime:
    """Return the instant of an ``exp`` claim; one beyond the calendar is the end of the calendar.

    Raises:
        ValueError: it is no JSON number.
    """
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        raise ValueError("exp is no number")
    return datetime.fromtimestamp(min(int(claim), _LAST_INSTANT), UTC)


def read_caller(claims: Mapping[str, Any], *, is_local: bool) -> Caller:
    """Return the caller that verified claims describe.

    Raises:
        NotAuthenticated: a claim has a type it cannot have.
    """
    subject, role = claims.get("sub"), claims.get("role", "")
    if isinstance(subject, int) and not isinstance(subject, bool):
        subject = str(subject)
    if not isinstance(subject, str) or not subject or check_text(subject) or not isinstance(role, str):
        raise NotAuthenticated(_REFUSED)
    permissions: object = claims.get("permissions", ROLES.get(role, frozenset()))
    if not isinstance(permissions, list | frozenset) or not all(isinstance(p, str) for p in permissions):
        raise NotAuthenticated(_REFUSED)
    name, session_number = claims.get("name"), claims.get("session")
    return Caller(
        subject=subject,
        role=role,
        permissions=frozenset(permissions),
        user_id=parse_identifier(subject),
        name=name if isinstance(name, str) and name and not check_text(name) else subject,
        # The claim counts in our own tokens only: an identity provider may use the word for something else.
        session_number=session_number if is_local and isinstance(session_number, int) else None,
        is_local=is_local,
    )
