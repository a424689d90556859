"""The worker's watch over sensors that have fallen silent: a model that is given nothing finds nothing wrong."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from alert_state_machine import Actor, AlertStateMachine, Transition
from alert_store import AlertReport, AlertStore
from foundation.database import Connection, Database
from foundation.errors import IllegalTransition
from foundation.queries import load_queries

SOURCE = "sensor_silence"
KEY_CLASS = "silence"
SEVERITY = "medium"
WATCH = Actor("sensor silence watch", "system")


@dataclass(frozen=True)
class SilenceResult:
    """How many sensors were found silent, and how many speak again."""

    silent: int
    returned: int


class SensorSilence:
    """Raises one alert for each silence of a watched series, and resolves it when readings come in again.

    ``steps`` is how many sampling steps without a reading are a silence; 0 switches the watch off.
    """

    def __init__(self, database: Database, store: AlertStore, state_machine: AlertStateMachine, steps: int) -> None:
        self._database = database
        self._store = store
        self._state_machine = state_machine
        self._steps = steps
        self._queries = load_queries("sensor_silence", rows_are_dicts=True)

    def run_once(self) -> SilenceResult:
        """Look at every watched series once; any number of workers may do so side by side."""
        if not self._steps:
            return SilenceResult(0, 0)
        with self._database.autocommit() as connection:
            returned = list(self._queries.list_returned(connection))
            silent = list(self._queries.list_silent(connection, steps=self._steps))
        ended = [self._database.run(partial(self._end, row)) for row in returned]
        raised = [self._database.run(partial(self._raise, row)) for row in silent]
        return SilenceResult(sum(raised), sum(ended))

    def _raise(self, row: Mapping[str, Any], connection: Connection) -> bool:
        found = self._queries.lock_if_still_silent(
            connection, series_id=row["series_id"], last_number=row["last_number"]
        )
        if found is None:
            return False
        last_at = row["read_at"].isoformat()
        report = AlertReport(
            device_id=row["device_id"],
            severity=SEVERITY,
            # With the time in it: another silence of the same sensor is no duplicate of this one.
            message=f"Sensor silent: no {row['metric']} since {last_at}",
            metadata={
                "source": SOURCE,
                "model_id": str(row["model_id"]),
                "metric": row["metric"],
                "last_reading_at": last_at,
            },
            metric=row["metric"],
            source=SOURCE,
            key_class=KEY_CLASS,
        )
        alert = self._store.raise_alert(connection, report, WATCH.name)
        self._queries.keep_alert(connection, series_id=row["series_id"], alert_id=alert["alert_id"])
        return True

    def _end(self, row: Mapping[str, Any], connection: Connection) -> bool:
        if not self._queries.forget_alert(connection, series_id=row["series_id"], alert_id=row["alert_id"]):
            return False
        step = Transition("resolved", notes="Readings come in again", resolution="fixed")
        # Somebody may have resolved it already.
        with suppress(IllegalTransition):
            self._state_machine.transition_state(connection, row["alert_id"], step, WATCH)
        return True
