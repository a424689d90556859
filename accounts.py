"""The people who use the service: their accounts, and how they log in.

Passwords are kept as scrypt hashes (RFC 7914) with werkzeug's parameters: 32 MiB of memory and about a tenth
of a second each. ``docs/authentication.md`` tells how failed logins are counted.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from werkzeug.security import check_password_hash, generate_password_hash

from account_rules import ADMINISTRATOR, check_account
from foundation.clock import Clock
from foundation.database import Connection, Database
from foundation.errors import Conflict, NotAuthenticated, NotFound, TooManyRequests, Unavailable
from foundation.paging import Page, PageRequest, build_page
from foundation.queries import load_queries

FIRST_ADMINISTRATOR = "admin@alerting.local"

HASH_METHOD = "scrypt:32768:8:1"
HASH_WAIT_SECONDS = 5.0
# Checked in place of a hash that does not exist, so that an unknown user costs the time of a wrong password.
NOBODYS_HASH = f"{HASH_METHOD}${'0' * 16}${'0' * 128}"

FAILURE_WINDOW_SECONDS = 15 * 60
FAILURES_PER_EMAIL = 5
FAILURES_PER_ADDRESS = 50

SESSION_AGE = timedelta(seconds=10)
REMEMBERED_SESSIONS = 10_000


@dataclass(frozen=True)
class User:
    """One account.

    ``phone`` is an E.164 number, ``time_zone`` an IANA name. ``session_number`` counts up with each new
    password. ``opted_out_of_sms_at`` says since when the phone refuses our SMS, None where it does not.
    """

    user_id: int
    email: str
    name: str
    role: str
    phone: str | None
    time_zone: str
    session_number: int
    created_at: datetime
    updated_at: datetime
    opted_out_of_sms_at: datetime | None


@dataclass(frozen=True)
class Session:
    """What a token from a login depends on."""

    number: int
    role: str


class Accounts:
    """The accounts in the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._queries = load_queries("accounts")
        # One hash at a time per process: each takes 32 MiB, and parallel guesses come one after the other.
        self._hashing = threading.BoundedSemaphore(1)
        self._sessions: dict[int, tuple[Session | None, datetime]] = {}

    def ensure_administrator(self) -> tuple[str, str] | None:
        """Make an administrator where there is no user at all; return e-mail and password, or None.

        Of two processes that start at once, one makes it and the other gets None.
        """
        with self._database.autocommit() as connection:
            if self._queries.count_users(connection):
                return None
        password = secrets.token_urlsafe(12)
        password_hash = self._hash(password)
        with self._database.autocommit() as connection:
            user_id = self._queries.insert_first_administrator(
                connection, email=FIRST_ADMINISTRATOR, name="Administrator", password_hash=password_hash
            )
        return None if user_id is None else (FIRST_ADMINISTRATOR, password)

    def create_user(
        self,
        *,
        email: str,
        name: str,
        role: str,
        password: str,
        phone: str | None = None,
        time_zone: str = "UTC",
    ) -> User:
        """Add an account.

        Raises:
            ValidationFailed: naming every field that breaks a rule.
            Conflict: the e-mail is taken.
        """
        fields = {"email": email, "name": name, "role": role, "phone": phone, "time_zone": time_zone}
        checked = check_account({**fields, "password": password})
        password_hash = self._hash(checked.pop("password") or "")
        with self._database.autocommit() as connection:
            return User(**self._queries.insert_user(connection, **checked, password_hash=password_hash))

    def get_user(self, user_id: int) -> User:
        """Return one account.

        Raises:
            NotFound: there is no such user.
        """
        user = self.find_user(user_id)
        if user is None:
            raise NotFound("user", user_id)
        return user

    def find_user(self, user_id: int) -> User | None:
        """Return one account, or None."""
        with self._database.autocommit() as connection:
            return self.read_user(connection, user_id)

    def read_user(self, connection: Connection, user_id: int) -> User | None:
        """Return one account, or None, on the caller's connection."""
        row = self._queries.get_user(connection, user_id=user_id)
        return None if row is None else User(**row)

    def list_users(self, page: PageRequest) -> Page:
        """Return a page of accounts as rows with the fields of ``User``, newest first."""
        with self._database.autocommit() as connection:
            rows = list(self._queries.list_users(connection, **page.parameters()))
            total = int(self._queries.count_users(connection))
        return build_page(rows, page, total, "created_at", "user_id", is_estimate=False)

    def update_user(self, user_id: int, changes: Mapping[str, str | None]) -> User:
        """Change the named fields of an account; ``phone`` may be taken away with None.

        A new role takes effect on tokens from a login within ten seconds, a new password ends them.

        Raises:
            ValidationFailed: naming every field that breaks a rule.
            NotFound: there is no such user.
            Conflict: the e-mail is taken, or the last administrator would be gone.
        """
        checked = check_account(changes)
        password = checked.pop("password", None)
        password_hash = None if password is None else self._hash(password)

        def write(connection: Connection) -> User:
            user = self._lock_user(
                connection, user_id, to_remove="role" in checked and checked["role"] != ADMINISTRATOR
            )
            values = vars(replace(user, **checked))  # type: ignore[arg-type]  # check_account returns fields only
            return User(**self._queries.update_user(connection, **values, password_hash=password_hash))

        updated = self._database.run(write)
        self._sessions.pop(user_id, None)
        return updated

    def delete_user(self, user_id: int, by_user_id: int | None = None) -> User:
        """Remove an account and return it as it was.

        Tokens from a login end within ten seconds; alerts and their history keep the identifier.

        Raises:
            NotFound: there is no such user.
            Conflict: it is the last administrator, or the account of who asks.
        """
        if user_id == by_user_id:
            raise Conflict("nobody can delete their own account: ask another administrator")

        def remove(connection: Connection) -> User:
            user = self._lock_user(connection, user_id, to_remove=True)
            self._queries.delete_user(connection, user_id=user_id)
            return user

        removed = self._database.run(remove)
        self._sessions.pop(user_id, None)
        return removed

    def exists(self, user_id: int) -> bool:
        """Return whether there is such a user."""
        with self._database.autocommit() as connection:
            return user_exists(connection, user_id)

    def authenticate(self, email: str, password: str, address: str) -> User:
        """Return the user with this e-mail and password; ``address`` is where the attempt comes from.

        Raises:
            NotAuthenticated: no such user or a wrong password, told apart neither by text nor by time.
            TooManyRequests: too many failures for this e-mail or from this address; nothing was checked.
            Unavailable: too many logins at once.
        """
        email = email.strip().lower()
        throttles = name_throttles(email, address)
        self._refuse_throttled(throttles)
        with self._take_turn():
            # Again, now that it is this one's turn: guesses sent side by side have been counted by now.
            self._refuse_throttled(throttles)
            user = self._check_credentials(email, password)
            with self._database.autocommit() as connection:
                if user is not None:
                    self._queries.clear_login_failures(connection, throttle=throttles["email_throttle"])
                    return user
                self._queries.record_login_failure(connection, **throttles, window_seconds=FAILURE_WINDOW_SECONDS)
        raise NotAuthenticated("the e-mail or the password is wrong")

    def find_session(self, user_id: int) -> Session | None:
        """Return what tokens of a user depend on, at most ten seconds old; None when the user is gone."""
        now = self._clock.now()
        remembered = self._sessions.get(user_id)
        if remembered is not None and now < remembered[1]:
            return remembered[0]
        with self._database.autocommit() as connection:
            row = self._queries.get_session(connection, user_id=user_id)
        session = None if row is None else Session(**row)
        if len(self._sessions) >= REMEMBERED_SESSIONS:
            self._sessions.clear()
        self._sessions[user_id] = (session, now + SESSION_AGE)
        return session

    def _lock_user(self, connection: Connection, user_id: int, *, to_remove: bool) -> User:
        """Lock an account; where it is to lose its role, see that an administrator is left."""
        administrators = self._queries.lock_administrators(connection) if to_remove else ()
        others = {row["user_id"] for row in administrators} - {user_id}
        row = self._queries.lock_user(connection, user_id=user_id)
        if row is None:
            raise NotFound("user", user_id)
        if to_remove and row["role"] == ADMINISTRATOR and not others:
            raise Conflict("the last administrator cannot be deleted or lose the role")
        return User(**row)

    def _check_credentials(self, email: str, password: str) -> User | None:
        with self._database.autocommit() as connection:
            row: Mapping[str, Any] | None = self._queries.get_credentials(connection, email=email)
        fields = dict(row or {})
        password_hash = fields.pop("password_hash", None)
        matches = check_password_hash(password_hash or NOBODYS_HASH, password)
        return User(**fields) if matches and password_hash is not None else None

    def _refuse_throttled(self, throttles: Mapping[str, str]) -> None:
        with self._database.autocommit() as connection:
            pause_seconds = self._queries.get_login_pause(
                connection,
                **throttles,
                email_failures=FAILURES_PER_EMAIL,
                address_failures=FAILURES_PER_ADDRESS,
                window_seconds=FAILURE_WINDOW_SECONDS,
            )
        if pause_seconds is not None:
            raise TooManyRequests("too many failed logins: wait before trying again", max(1, pause_seconds))

    def _hash(self, password: str) -> str:
        with self._take_turn():
            return generate_password_hash(password, HASH_METHOD)

    @contextmanager
    def _take_turn(self) -> Iterator[None]:
        if not self._hashing.acquire(timeout=HASH_WAIT_SECONDS):
            raise Unavailable("too many logins at once")
        try:
            yield
        finally:
            self._hashing.release()


def user_exists(connection: Connection, user_id: int) -> bool:
    """Return whether there is such a user, seen from inside a transaction."""
    return bool(load_queries("accounts").user_exists(connection, user_id=user_id))


def name_throttles(email: str, address: str) -> dict[str, str]:
    """Return under which names failures are counted.

    The e-mail is kept as a hash, for people type passwords into the wrong field. An IPv6 address counts as
    its /64 network, of which a single host has every address to itself.
    """
    try:
        parsed = ipaddress.ip_address(address)
        network = str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
    except ValueError:
        network = "unknown"
    return {
        "email_throttle": f"email:{hashlib.sha256(email.encode()).hexdigest()}",
        "address_throttle": f"address:{network}",
    }
