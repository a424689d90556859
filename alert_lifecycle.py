"""Use cases of the alert path: each is one transaction across store, state machine, grouping and escalation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from accounts import user_exists
from alert_grouping import AlertGrouping
from alert_intake import AlertIntake
from alert_state_machine import Actor, AlertStateMachine, Transition
from alert_store import AlertFilter, AlertReport, AlertStore
from escalation_engine import EscalationEngine
from escalation_log import EscalationLog
from foundation.clock import Clock
from foundation.database import Connection, Database
from foundation.errors import Fault, ValidationFailed
from foundation.paging import Page, PageRequest
from idempotency import IdempotencyKeys, IdempotentRequest

FURTHEST_AHEAD = timedelta(minutes=5)
ASKED_FOR_NEXT_TIER = "Asked for the next tier now"


@dataclass(frozen=True)
class GroupOutcome:
    """What a group action did: (state before, state after) by alert, and the group afterwards.

    ``in_flight`` counts the notifications that were on their way then and may still arrive.
    """

    group: Mapping[str, Any]
    changed: Mapping[int, tuple[str, str]]
    unchanged: Mapping[int, str]
    in_flight: int


@dataclass(frozen=True)
class RaisedAlerts:
    """What was recorded for each report, in order; ``is_replay`` where an Idempotency-Key had it already."""

    answers: Sequence[Mapping[str, Any]]
    is_replay: bool = False


class AlertLifecycle:
    """From a machine's report to its resolution."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        store: AlertStore,
        state_machine: AlertStateMachine,
        grouping: AlertGrouping,
        idempotency: IdempotencyKeys,
        escalations: EscalationEngine,
        escalation_log: EscalationLog,
    ) -> None:
        self._database = database
        self._clock = clock
        self._store = store
        self._intake = AlertIntake(database, store)
        self._state_machine = state_machine
        self._grouping = grouping
        self._idempotency = idempotency
        self._escalations = escalations
        self._escalation_log = escalation_log

    def raise_alert(self, report: AlertReport, actor: Actor, request: IdempotentRequest | None = None) -> RaisedAlerts:
        """Record one alert.

        Raises:
            ValidationFailed: it claims to have occurred more than five minutes from now.
            IdempotencyMismatch: the key of ``request`` was used with another body.
        """
        self._check_times([report], ["occurred_at"])
        if request is None:
            return RaisedAlerts([describe_raised(report, self._intake.raise_alert(report, actor.name))])
        return self._raise_once(
            request, lambda c: [describe_raised(report, self._store.raise_alert(c, report, actor.name))]
        )

    def raise_alerts(
        self, reports: Sequence[AlertReport], actor: Actor, request: IdempotentRequest | None = None
    ) -> RaisedAlerts:
        """Record a batch, all or nothing, as if its reports had come one by one."""
        self._check_times(reports, [f"alerts[{index}].occurred_at" for index in range(len(reports))])

        def record(connection: Connection) -> list[dict[str, Any]]:
            rows = self._store.raise_alerts(connection, reports, actor.name)
            return [describe_raised(report, row) for report, row in zip(reports, rows, strict=True)]

        if request is None:
            return RaisedAlerts(self._database.run(record))
        return self._raise_once(request, record)

    def get_alert(self, alert_id: int) -> Mapping[str, Any]:
        """Return one alert with clocks, group and escalation."""
        with self._database.autocommit() as connection:
            return self._store.get_alert(connection, alert_id)

    def list_alerts(self, wanted: AlertFilter, page: PageRequest) -> Page:
        """Return a page of alerts, newest first."""
        with self._database.autocommit() as connection:
            return self._store.list_alerts(connection, wanted, page)

    def list_history(self, alert_id: int) -> Sequence[Mapping[str, Any]]:
        """Return everything that happened to an alert, oldest first; the ``kind`` of an entry decides its fields."""
        with self._database.autocommit() as connection:
            own = self._store.list_history(connection, alert_id)
            return sorted(
                [*own, *self._escalation_log.list_history(connection, alert_id)], key=itemgetter("created_at")
            )

    def add_note(self, alert_id: int, notes: str, actor: Actor) -> Mapping[str, Any]:
        """Keep a note with an alert."""
        with self._database.autocommit() as connection:
            return self._store.add_note(connection, alert_id, notes, actor.name)

    def transition(self, alert_id: int, transition: Transition, actor: Actor) -> Mapping[str, Any]:
        """Take an alert to a state and return it as it is then, with the number of notifications ``in_flight``.

        Raises:
            NotFound: there is no such alert.
            IllegalTransition: it is not in a state for this, or somebody else was quicker.
            ValidationFailed: the user to assign it to does not exist.
        """

        def move(connection: Connection) -> Mapping[str, Any]:
            self._check_assignee(connection, transition)
            self._state_machine.transition_state(connection, alert_id, transition, actor)
            alert = self._store.get_alert(connection, alert_id)
            return {**alert, "in_flight": self._escalation_log.count_in_flight(connection, alert["group_id"])}

        return self._database.run(move)

    def transition_group(self, group_id: int, transition: Transition, actor: Actor) -> GroupOutcome:
        """Take all open alerts of a group that can take the step; the others stay as they are."""

        def move(connection: Connection) -> GroupOutcome:
            self._grouping.get_group(connection, group_id)
            self._check_assignee(connection, transition)
            self._grouping.lock_group(connection, group_id)
            before = self._store.list_open_in_group(connection, group_id)
            self._state_machine.transition_group(connection, group_id, transition, actor)
            after = self._store.list_states(connection, list(before))
            changed = {i: (state, after[i]) for i, state in before.items() if after[i] != state}
            unchanged = {i: state for i, state in before.items() if i not in changed}
            in_flight = self._escalation_log.count_in_flight(connection, group_id)
            return GroupOutcome(self._grouping.get_group(connection, group_id), changed, unchanged, in_flight)

        return self._database.run(move)

    def escalate(self, alert_id: int, notes: str | None, actor: Actor) -> Mapping[str, Any]:
        """Page the next tier of an alert now, note who asked for it, and return the alert as it is then.

        Raises:
            NotFound: there is no such alert.
            Conflict: it is resolved, no policy is for it, or there is no further tier.
        """

        def hasten(connection: Connection) -> Mapping[str, Any]:
            self._escalations.escalate_now(connection, alert_id)
            self._store.add_note(connection, alert_id, notes or ASKED_FOR_NEXT_TIER, actor.name)
            return self._store.get_alert(connection, alert_id)

        return self._database.run(hasten)

    def _raise_once(self, request: IdempotentRequest, record: Any) -> RaisedAlerts:
        def once(connection: Connection) -> RaisedAlerts:
            kept = self._idempotency.begin(connection, request)
            if kept is not None:
                return RaisedAlerts(kept, is_replay=True)
            answers = record(connection)
            self._idempotency.finish(connection, request, answers)
            return RaisedAlerts(answers)

        return self._database.run(once)

    def _check_times(self, reports: Sequence[AlertReport], fields: Sequence[str]) -> None:
        latest = self._clock.now() + FURTHEST_AHEAD
        faults = [
            Fault(field, "lies more than 5 minutes ahead")
            for report, field in zip(reports, fields, strict=True)
            if report.occurred_at is not None and report.occurred_at > latest
        ]
        if faults:
            raise ValidationFailed(faults)

    @staticmethod
    def _check_assignee(connection: Connection, transition: Transition) -> None:
        user_id = transition.assign_to_user_id
        if user_id is not None and not user_exists(connection, user_id):
            raise ValidationFailed.of("assign_to_user_id", "names no user")


def describe_raised(report: AlertReport, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a reporter learns of the alert that was recorded, ready for JSON."""
    created_at: datetime = row["created_at"]
    return {
        "alert_id": str(row["alert_id"]),
        "device_id": report.device_id,
        "severity": report.severity,
        "message": report.message,
        "metric": report.metric,
        "metadata": report.metadata,
        "state": row["state"],
        "sla_targets": {"tta": row["target_tta"], "ttr": row["target_ttr"]},
        "group_id": str(row["group_id"]),
        "is_duplicate": row["duplicate_of"] is not None,
        "duplicate_of": None if row["duplicate_of"] is None else str(row["duplicate_of"]),
        "escalation_id": None if row["escalation_id"] is None else str(row["escalation_id"]),
        "created_at": created_at.isoformat(),
    }
