"""Group commit for reports: those that arrive while one is being recorded are recorded together, in one transaction.

A report that finds nobody at work is recorded at once. While it is on its way to the database, others gather; then the
first of them takes all that wait along. The busier the process, the more share a round trip and a commit. Every report
is raised on its own by ``raise_alert`` nevertheless, and fails on its own.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alert_store import AlertReport, AlertStore
from foundation.database import Database, RetryableConflict
from foundation.errors import Unavailable

Row = Mapping[str, Any]

MOST_TOGETHER = 100
# A round trip takes milliseconds. Where one takes this long it waits for somebody's lock, and nobody waits for it.
PATIENCE_SECONDS = 0.25


@dataclass(eq=False)
class _Report:
    """A report on its way; ``row`` and ``error`` stay empty where it has to be recorded alone."""

    report: AlertReport
    reported_by: str
    is_leading: bool = False
    row: Row | None = None
    error: Unavailable | None = None
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class AlertIntake:
    """Records reports of many threads; one transaction of several at a time."""

    def __init__(self, database: Database, store: AlertStore) -> None:
        self._database = database
        self._store = store
        self._lock = threading.Lock()
        self._waiting: list[_Report] = []
        self._is_busy = False

    def raise_alert(self, report: AlertReport, reported_by: str) -> Row:
        """Record one alert and return its id, state, group, original, time and SLA targets.

        Raises:
            Unavailable: the database is away or busy; whether the alert was recorded is not known.
        """
        mine = _Report(report, reported_by)
        with self._lock:
            mine.is_leading = not self._is_busy
            self._is_busy = True
            if not mine.is_leading:
                self._waiting.append(mine)
        if not mine.is_leading and not mine.turn.acquire(timeout=PATIENCE_SECONDS) and not self._leave(mine):
            # Somebody has taken it along at this very moment.
            mine.turn.acquire()
        if mine.is_leading:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        return mine.row if mine.row is not None else self._record_alone(mine)

    def _leave(self, mine: _Report) -> bool:
        with self._lock:
            is_waiting = mine in self._waiting
            if is_waiting:
                self._waiting.remove(mine)
            return is_waiting

    def _lead(self, mine: _Report) -> None:
        with self._lock:
            others = self._waiting[: MOST_TOGETHER - 1]
            del self._waiting[: MOST_TOGETHER - 1]
        try:
            if others:
                self._record_together([mine, *others])
            else:
                mine.row = self._record_alone(mine)
        finally:
            self._hand_over()
            for other in others:
                other.turn.release()

    def _hand_over(self) -> None:
        with self._lock:
            self._is_busy = bool(self._waiting)
            if self._waiting:
                following = self._waiting.pop(0)
                following.is_leading = True
                following.turn.release()

    def _record_together(self, reports: Sequence[_Report]) -> None:
        try:
            with self._database.autocommit() as connection:
                rows = self._store.raise_each(connection, [(r.report, r.reported_by) for r in reports])
        except RetryableConflict:
            # Rolled back, as after any error that the database answers with: each tries alone.
            return
        except Unavailable as error:
            # It may have been recorded. Whoever sends it again will find it a duplicate; we must not.
            for report in reports:
                report.error = Unavailable(error.message)
            return
        except Exception:  # noqa: BLE001  # the fault of one report is not to be the others': alone it shows again
            return
        for report, row in zip(reports, rows, strict=True):
            report.row = row

    def _record_alone(self, mine: _Report) -> Row:
        with self._database.autocommit() as connection:
            return self._store.raise_alert(connection, mine.report, mine.reported_by)
