"""The books of the SMS channel: how many went to whom within the hour, and who has opted out."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol

from foundation.clock import Clock
from foundation.database import Connection, Database
from foundation.queries import load_queries

HOUR = timedelta(hours=1)


class Ledger(Protocol):
    """What the channel writes down."""

    def take_place(self, to_number: str, notification_id: int | None) -> int | None:
        """Take one of the recipient's places of this hour; None where all are taken."""

    def give_back(self, place_id: int) -> None:
        """Give a place back: its message did not go out."""

    def mark_opted_out(self, to_number: str) -> None:
        """Mark a number whose owner told the provider to stop."""

    def clear_opt_out(self, to_number: str) -> None:
        """Take the mark away."""


class SmsLedger:
    """The books in the database, which hold across processes and machines."""

    def __init__(self, database: Database, most_per_hour: int) -> None:
        self._database = database
        self._most_per_hour = most_per_hour
        self._queries = load_queries("twilio_notifier")

    def take_place(self, to_number: str, notification_id: int | None) -> int | None:
        """Take one of the recipient's places of this hour and return its id; None where all are taken.

        A notification that is tried again gets its own place back. Of any number of processes that ask at once, no
        more get a place than there are.

        Raises:
            Unavailable: the database is away or busy.
        """

        def take(connection: Connection) -> int | None:
            # Without the lock two processes would both count nine.
            self._queries.lock_recipient(connection, to_number=to_number)
            wanted = {"to_number": to_number, "notification_id": notification_id}
            if self._queries.count_recent(connection, **wanted) >= self._most_per_hour:
                return None
            return int(self._queries.take_place(connection, **wanted))

        return self._database.run(take)

    def give_back(self, place_id: int) -> None:
        """Give a place back: its message did not go out."""
        with self._database.autocommit() as connection:
            self._queries.give_place_back(connection, place_id=place_id)

    def mark_opted_out(self, to_number: str) -> None:
        """Mark a number whose owner told the provider to stop."""
        with self._database.autocommit() as connection:
            self._queries.mark_opted_out(connection, to_number=to_number)

    def clear_opt_out(self, to_number: str) -> None:
        """Take the mark away: the provider took a message in."""
        with self._database.autocommit() as connection:
            self._queries.clear_opt_out(connection, to_number=to_number)

    def list_opted_out(self, to_numbers: Iterable[str]) -> dict[str, datetime]:
        """Return which of some numbers are marked, and since when."""
        with self._database.autocommit() as connection:
            rows = list(self._queries.list_opted_out(connection, to_numbers=list(to_numbers)))
        return {row["to_number"]: row["opted_out_at"] for row in rows}

    def forget_old(self) -> int:
        """Forget messages that no limit counts any more; return how many."""
        with self._database.autocommit() as connection:
            return int(self._queries.forget_sms_log(connection))


class ProcessLedger:
    """The books of one process, for a notifier that is used without a database; opt-outs are not kept."""

    def __init__(self, clock: Clock, most_per_hour: int) -> None:
        self._clock = clock
        self._most_per_hour = most_per_hour
        self._sent: defaultdict[str, dict[int, datetime]] = defaultdict(dict)
        self._next_id = 0
        self._lock = threading.Lock()

    def take_place(self, to_number: str, notification_id: int | None) -> int | None:
        """Take one of the recipient's places of this hour; None where all are taken."""
        now = self._clock.now()
        with self._lock:
            kept = {place: at for place, at in self._sent[to_number].items() if at > now - HOUR}
            self._sent[to_number] = kept
            if len(kept) >= self._most_per_hour:
                return None
            self._next_id += 1
            kept[self._next_id] = now
            return self._next_id

    def give_back(self, place_id: int) -> None:
        """Give a place back: its message did not go out."""
        with self._lock:
            for places in self._sent.values():
                places.pop(place_id, None)

    def mark_opted_out(self, to_number: str) -> None:
        """Keep nothing."""

    def clear_opt_out(self, to_number: str) -> None:
        """Keep nothing."""
