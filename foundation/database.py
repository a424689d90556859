"""Connections to PostgreSQL: a bounded pool, one kind of transaction, and errors told apart.

Stores take a connection and never commit; ``Database.transaction()`` does. ``Database.autocommit()`` is for the
hot path, where one statement is one transaction and one round trip.
"""

from __future__ import annotations

import json
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import Any, TypeVar

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from pydantic_core import from_json

from foundation.clock import Clock
from foundation.errors import (
    Conflict,
    DomainError,
    IllegalTransition,
    NotFound,
    Unavailable,
    ValidationFailed,
)
from foundation.queries import Shape, load_queries

Result = TypeVar("Result")

TRANSACTION_ATTEMPTS = 4
RETRY_PAUSE_SECONDS = 0.02
CONNECT_TIMEOUT_SECONDS = 5
LONG_NUMBER = re.compile(r"[0-9]{19}")
INT64 = range(-(2**63), 2**63)


class Connection(psycopg2.extensions.connection):
    """A connection that knows which statements were prepared on it, by their shape."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.prepared: dict[Shape, str] = {}
        self.statement_numbers = count(1)


class Database:
    """A pool of at most ``pool_size`` connections that waits a bounded time for a free one."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        pool_size: int = 8,
        wait_seconds: float = 2.0,
        window_seconds: int = 300,
        renotify_minutes: int = 60,
        statement_timeout_seconds: int = 30,
        application_name: str = "advanced-alerting",
    ) -> None:
        self.clock = clock or Clock()
        self.pool_size = pool_size
        self._wait_seconds = wait_seconds
        self._slots = threading.BoundedSemaphore(pool_size)
        self._in_use = 0
        self._counting = threading.Lock()
        self.on_use_changed: Callable[[int], None] | None = None
        options = (
            f"-c statement_timeout={statement_timeout_seconds}s -c app.window_seconds={window_seconds}"
            f" -c app.renotify_minutes={renotify_minutes} -c timezone=UTC -c jit=off"
        )
        self._connect_arguments: dict[str, Any] = {
            "options": options,
            "connection_factory": Connection,
            "cursor_factory": psycopg2.extras.DictCursor,
            "application_name": application_name,
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "keepalives_idle": 30,
            "target_session_attrs": "read-write",
        }
        self._url = url
        # Not psycopg2's pool: it connects while it holds its lock, so that one server that does not answer would
        # make every thread wait in line for a refusal.
        self._idle: list[Connection] = []
        self._is_closed = False

    @property
    def connections_in_use(self) -> int:
        """How many connections are handed out at this moment."""
        return self._in_use

    def close(self) -> None:
        """Close every idle connection now, and the others when they come back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def autocommit(self) -> _Loan:
        """Lend a connection on which every statement is a transaction of its own."""
        return _Loan(self, is_autocommit=True)

    def transaction(self) -> _Loan:
        """Lend a connection; commit at the end of the block, roll back when it raises."""
        return _Loan(self, is_autocommit=False)

    def run(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work`` in a transaction, again after a deadlock or a serialisation failure.

        Raises:
            Unavailable: the conflict was still there at the fourth attempt, or the database is away.
        """
        for attempt in range(1, TRANSACTION_ATTEMPTS + 1):
            try:
                with self.transaction() as connection:
                    return work(connection)
            except RetryableConflict:
                if attempt == TRANSACTION_ATTEMPTS:
                    raise
                time.sleep(RETRY_PAUSE_SECONDS * attempt)
        raise AssertionError("unreachable")

    def lend(self) -> Connection:
        """Return a connection, after a bounded wait for a free one; it is to be taken back."""
        if not self._slots.acquire(timeout=self._wait_seconds):
            raise Unavailable("the database is busy: no connection came free in time")
        connection: Connection | None = None
        try:
            with translate_errors():
                connection = self._checkout()
                self._carry_clock(connection)
        except BaseException:
            if connection is not None:
                self._give_back(connection)
            self._slots.release()
            raise
        return connection

    def take_back(self, connection: Connection) -> None:
        """Take back what was lent."""
        try:
            self._give_back(connection)
        finally:
            self._slots.release()

    def _checkout(self) -> Connection:
        connection = self._take_idle() or self._connect()
        self._count_use(1)
        return connection

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not _was_closed_by_server(connection):
                return connection
            connection.close()
        return None

    def _connect(self) -> Connection:
        connection: Connection = psycopg2.connect(self._url, **self._connect_arguments)
        return connection

    def _carry_clock(self, connection: Connection) -> None:
        frozen_at = self.clock.frozen_at()
        if frozen_at is not None:
            connection.autocommit = True
            load_queries("database").set_clock(connection, now=frozen_at.isoformat())

    def _count_use(self, change: int) -> None:
        with self._counting:
            self._in_use += change
        if self.on_use_changed is not None:
            self.on_use_changed(self._in_use)

    def _give_back(self, connection: Connection) -> None:
        self._count_use(-1)
        is_idle = connection.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        # A connection that broke or hangs in a transaction is closed, never lent again.
        if is_idle and not connection.closed and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.close()


def load_json(text: str) -> Any:
    """Return what jsonb holds; its numbers know no floats, so one beyond 64 bits comes back as the float it was."""
    if LONG_NUMBER.search(text):
        return json.loads(text, parse_int=_load_whole_number)
    # A decoder with a rule of its own is made anew for every value: a page of alerts spent half its time there.
    return from_json(text)


def _load_whole_number(digits: str) -> int | float:
    # int() refuses thousands of digits; 20 with a sign are the most that 64 bits hold.
    number = int(digits) if len(digits) <= 20 else None
    return number if number is not None and number in INT64 else float(digits)


psycopg2.extras.register_default_jsonb(globally=True, loads=load_json)


def _was_closed_by_server(connection: Connection) -> bool:
    """Whether an idle connection has something to read: after a restart of the server, that is its end."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class _Loan:
    """A connection for the length of a block. A class, because three nested generators cost 15 us on the hot path."""

    __slots__ = ("_connection", "_database", "_is_autocommit")

    def __init__(self, database: Database, *, is_autocommit: bool) -> None:
        self._database = database
        self._is_autocommit = is_autocommit

    def __enter__(self) -> Connection:
        self._connection = self._database.lend()
        if self._connection.autocommit is not self._is_autocommit:
            self._connection.autocommit = self._is_autocommit
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._is_autocommit and not self._connection.closed:
                with translate_errors():
                    self._connection.commit() if error is None else self._connection.rollback()
        finally:
            self._database.take_back(self._connection)
        translated = translate_error(error) if isinstance(error, psycopg2.Error) else None
        if translated is not None:
            raise translated from error


class RetryableConflict(Unavailable):
    """A deadlock or a serialisation failure: the same transaction may succeed at once."""


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors of the database driver into the product's own; the one place that knows SQLSTATEs."""
    try:
        yield
    except psycopg2.Error as error:
        translated = translate_error(error)
        if translated is None:
            raise
        raise translated from error


def translate_error(error: psycopg2.Error) -> DomainError | None:
    """Return the domain error for a driver's error, or None for one that is a fault of our own."""
    code = error.pgcode or ""
    if code.startswith("AA"):
        return _translate_own_error(code, error)
    if code in ("40P01", "40001"):
        return RetryableConflict("the database was busy with the same rows")
    if code in ("57014", "55P03") or code.startswith("53"):
        return Unavailable("the database is busy")
    if code == "23505":
        return Conflict(_unique_message(error.diag.constraint_name or ""))
    if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) or code[:2] in ("08", "57"):
        return Unavailable("the database cannot be reached")
    return None


def _translate_own_error(code: str, error: psycopg2.Error) -> DomainError | None:
    message = error.diag.message_primary or ""
    if code == "AA001":
        detail: dict[str, Any] = json.loads(error.diag.message_detail or "{}")
        return IllegalTransition(detail["current_state"], message.rsplit(" ", 1)[-1], detail["allowed"])
    if code == "AA002":
        return ValidationFailed.of("occurred_at", "lies more than 5 minutes ahead")
    if code == "AA003":
        return NotFound("alert", message.split(" ")[1])
    return None


def _unique_message(constraint: str) -> str:
    known = {
        "users_email_unique": "a user with this e-mail exists already",
        "escalation_policies_name_unique": "a policy with this name exists already",
        "on_call_schedules_name_unique": "a schedule with this name exists already",
    }
    return known.get(constraint, "it exists already")
