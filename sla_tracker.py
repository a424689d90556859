"""SLA clocks: targets, the state of an alert's clocks, compliance, and the sweep that flags breaches.

The clocks themselves run in the database (``alert_slas``): started with the alert, stopped by the triggers of
``alert_states``. Targets are minutes; changing them leaves existing alerts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from foundation.clock import Clock
from foundation.database import Connection, Database
from foundation.errors import Fault, ValidationFailed
from foundation.queries import load_queries

SWEEP_BATCH = 1000
AT_RISK_SHARE = 0.75
SEVERITIES = ("critical", "high", "medium", "low", "info")


@dataclass(frozen=True)
class SlaTarget:
    """Minutes to acknowledge (``tta``) and to resolve (``ttr``) an alert of one severity."""

    severity: str
    tta: int
    ttr: int


@dataclass(frozen=True)
class ClockState:
    """One clock of one alert at one instant."""

    actual_minutes: float | None
    is_breached: bool
    is_at_risk: bool


@dataclass(frozen=True)
class SweepResult:
    """What one sweep did."""

    checked: int
    tta_breaches: int
    ttr_breaches: int


def evaluate_clock(started_at: datetime, target_minutes: int, stopped_at: datetime | None, now: datetime) -> ClockState:
    """Return the state of a clock.

    It is breached when it stopped, or still runs, after its due instant (exactly on it is in time), and at risk
    while it runs with 75 % of its time gone.
    """
    due_at = started_at + timedelta(minutes=target_minutes)
    if stopped_at is not None:
        return ClockState((stopped_at - started_at) / timedelta(minutes=1), stopped_at > due_at, is_at_risk=False)
    risk_at = started_at + timedelta(minutes=target_minutes) * AT_RISK_SHARE
    return ClockState(None, now > due_at, risk_at <= now <= due_at)


class SlaTracker:
    """Targets, compliance and the breach sweep."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._queries = load_queries("sla_tracker")

    def list_targets(self) -> list[SlaTarget]:
        """Return the targets, gravest severity first."""
        with self._database.autocommit() as connection:
            return self._list_targets(connection)

    def change_targets(self, targets: Mapping[str, tuple[int, int]], changed_by: str) -> list[SlaTarget]:
        """Set (tta, ttr) minutes of some severities for alerts to come; return all targets.

        Raises:
            ValidationFailed: an alert would have to be resolved before it is acknowledged.
        """
        faults = [
            Fault(f"{severity}.ttr", "must not be shorter than tta")
            for severity in SEVERITIES
            if severity in targets and targets[severity][1] < targets[severity][0]
        ]
        if faults:
            raise ValidationFailed(faults)

        def change(connection: Connection) -> list[SlaTarget]:
            for severity in sorted(targets):
                tta, ttr = targets[severity]
                self._queries.change_target(connection, severity=severity, tta=tta, ttr=ttr, changed_by=changed_by)
            return self._list_targets(connection)

        return self._database.run(change)

    def report_compliance(
        self, start_at: datetime, end_at: datetime, severity: str | None = None
    ) -> list[Mapping[str, Any]]:
        """Return one row per severity, gravest first, for alerts created in [start_at, end_at)."""
        with self._database.autocommit() as connection:
            found = {
                row["severity"]: dict(row)
                for row in self._queries.report_compliance(connection, start_at=start_at, end_at=end_at)
            }
        wanted = (severity,) if severity else SEVERITIES
        return [found.get(name, {"severity": name}) for name in wanted]

    def run_once(self) -> SweepResult:
        """Flag every clock that has run out; any number of processes may sweep at once."""
        checked = tta_breaches = ttr_breaches = 0
        while True:
            with self._database.autocommit() as connection:
                row = self._queries.flag_sla_breaches(connection, limit=SWEEP_BATCH)
            checked += row["checked"]
            tta_breaches += row["tta_breaches"]
            ttr_breaches += row["ttr_breaches"]
            if row["checked"] < SWEEP_BATCH:
                return SweepResult(checked, tta_breaches, ttr_breaches)

    def _list_targets(self, connection: Connection) -> list[SlaTarget]:
        return [SlaTarget(*row) for row in self._queries.list_targets(connection)]
