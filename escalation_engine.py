"""Escalation: durable timers that page tier after tier until a person acknowledges.

A timer is a row (``migrations/0010``). Alerts start escalations and people end them inside their own transactions, in
the database; the engine takes the steps that are due. A step is planned purely, and written down together with its
notifications while its row is locked: a worker that dies leaves no half of it, and two never take the same one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from accounts import Accounts
from escalation_directory import InstantDirectory
from escalation_recipients import Directory, ResolvedTier, Unreachable, resolve_tier
from escalation_rules import Rules, Step, ends_unheard_at, step_after, step_to_take
from foundation.database import Connection, Database
from foundation.errors import Conflict, NotFound
from foundation.queries import load_queries
from on_call_manager import OnCallManager

STEPS_PER_TRANSACTION = 200

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineResult:
    """What was due: steps taken, notifications they wrote, escalations that ended unheard."""

    steps: int = 0
    notifications: int = 0
    ended_unheard: int = 0

    def __add__(self, other: EngineResult) -> EngineResult:
        return EngineResult(
            self.steps + other.steps,
            self.notifications + other.notifications,
            self.ended_unheard + other.ended_unheard,
        )


@dataclass(frozen=True)
class TakenStep:
    """One step that is taken now: whom it reaches, and what comes after it (nothing but the end where None)."""

    escalation_id: int
    alert_id: int
    step: Step
    resolved: ResolvedTier
    following: Step | None
    due_at: datetime


class EscalationEngine:
    """Starts escalations by hand and takes the steps that are due."""

    def __init__(self, database: Database, accounts: Accounts, on_call: OnCallManager) -> None:
        self._database = database
        self._accounts = accounts
        self._on_call = on_call
        self._queries = load_queries("escalation_engine", rows_are_dicts=True, prepared=("is_step_due",))

    def find_policy(self, severity: str, *, connection: Connection | None = None) -> Mapping[str, Any] | None:
        """Return ``id``, ``name`` and ``rules`` of the policy for a severity; None where no policy is for it."""
        if connection is None:
            with self._database.autocommit() as own:
                return self.find_policy(severity, connection=own)
        row: Mapping[str, Any] | None = self._queries.find_policy(connection, severity=severity)
        return row

    def trigger_escalation(self, alert_id: int, policy_id: int, *, connection: Connection | None = None) -> int:
        """Start the escalation of an alert by a policy and return its id: of the running one where its key has one.

        Raises:
            NotFound: there is no such alert or no such policy.
            Conflict: the alert is resolved.
        """
        if connection is None:
            return self._database.run(lambda own: self.trigger_escalation(alert_id, policy_id, connection=own))
        alert = self._lock_open_alert(connection, alert_id)
        started = self._queries.start_escalation(
            connection, alert_id=alert["alert_id"], policy_id=policy_id, first_tier=1
        )
        if started is None:
            raise NotFound("policy", policy_id)
        return int(started)

    def escalate_now(self, connection: Connection, alert_id: int) -> int:
        """Bring the next tier of an alert at once, whatever its time, and return the escalation's id.

        Where none runs, one is started: at the tier after the last one taken, where a person had ended it there.

        Raises:
            NotFound: there is no such alert.
            Conflict: the alert is resolved, no policy is for its severity, or there is no further tier.
        """
        alert = self._lock_open_alert(connection, alert_id)
        running = self._queries.lock_running(connection, alert_id=alert_id)
        if running is not None and running["next_tier"] is None:
            raise Conflict("the last tier has been paged")
        escalation_id = running["escalation_id"] if running else self._start_where_left(connection, alert)
        self._queries.bring_forward(connection, escalation_id=escalation_id)
        return int(escalation_id)

    def run_once(self) -> EngineResult:
        """Take every step that is due, those that a step brings at once too."""
        total = EngineResult()
        while self._is_step_due():
            result = self._database.run(self._take_due)
            total += result
            if result == EngineResult():
                # Other workers have them.
                break
        return total

    def _is_step_due(self) -> bool:
        # One statement instead of three, twenty times a second.
        with self._database.autocommit() as connection:
            return bool(self._queries.is_step_due(connection))

    def _start_where_left(self, connection: Connection, alert: Mapping[str, Any]) -> int:
        policy = self.find_policy(alert["severity"], connection=connection)
        if policy is None:
            raise Conflict(f"no enabled escalation policy is for {alert['severity']} alerts")
        first_tier = 1 + (alert["cancelled_at_tier"] or 0)
        if first_tier > len(policy["rules"]["tiers"]):
            raise Conflict("the last tier has been paged")
        return int(
            self._queries.start_escalation(
                connection, alert_id=alert["alert_id"], policy_id=policy["id"], first_tier=first_tier
            )
        )

    def _lock_open_alert(self, connection: Connection, alert_id: int) -> Mapping[str, Any]:
        self._queries.lock_group(connection, alert_id=alert_id)
        alert: Mapping[str, Any] | None = self._queries.get_alert(connection, alert_id=alert_id)
        if alert is None:
            raise NotFound("alert", alert_id)
        if alert["state"] == "resolved":
            raise Conflict("the alert is resolved")
        return alert

    def _take_due(self, connection: Connection) -> EngineResult:
        due: Sequence[Mapping[str, Any]] = list(self._queries.lock_due(connection, limit=STEPS_PER_TRANSACTION))
        if not due:
            return EngineResult()
        directory = InstantDirectory(connection, self._accounts, self._on_call, due[0]["now"])
        over = [row["escalation_id"] for row in due if row["next_tier"] is None]
        taken = [plan_step(row, directory) for row in due if row["next_tier"] is not None]
        ended = self._end_unheard(connection, over) if over else 0
        notifications = self._write(connection, taken) if taken else 0
        return EngineResult(len(taken), notifications, ended)

    def _end_unheard(self, connection: Connection, escalation_ids: Sequence[int]) -> int:
        """End escalations, but for those a page of which may still be tried again: they wait for it."""
        self._queries.await_last_pages(connection, escalation_ids=list(escalation_ids))
        ended = int(self._queries.end_unheard(connection, escalation_ids=list(escalation_ids)))
        if ended:
            logger.warning("%d escalation(s) ended unheard, of %s", ended, escalation_ids[:10])
        return ended

    def _write(self, connection: Connection, taken: Sequence[TakenStep]) -> int:
        escalation_ids = [step.escalation_id for step in taken]
        self._queries.withdraw_overtaken(connection, escalation_ids=escalation_ids)
        self._queries.advance_escalations(connection, steps=json.dumps([_describe_advance(step) for step in taken]))
        pages = [page for step in taken for page in _describe_pages(step)]
        if not pages:
            return 0
        return int(self._queries.insert_notifications(connection, pages=json.dumps(pages)))


def plan_step(row: Mapping[str, Any], directory: Directory) -> TakenStep:
    """Return the step that an escalation takes now.

    ``row`` is one of ``lock_due``. A tier that reaches nobody brings the next one at once; the tiers after that keep
    their minutes.
    """
    rules, started_at, now = Rules.from_document(row["rules"]), row["started_at"], row["now"]
    step = step_to_take(rules, started_at, row["next_pass"], row["next_tier"], now)
    resolved = _resolve(rules, step, directory, row["escalation_id"])
    following = step_after(rules, started_at, step)
    if following is None:
        due_at = ends_unheard_at(rules, started_at, now)
    else:
        due_at = following.due_at if resolved.targets else now
    return TakenStep(row["escalation_id"], row["alert_id"], step, resolved, following, due_at)


def _resolve(rules: Rules, step: Step, directory: Directory, escalation_id: int) -> ResolvedTier:
    tier = rules.tier_of(step)
    try:
        return resolve_tier(tier, directory)
    except (KeyError, TypeError, ValueError):
        # A schedule damaged by hand must not hold up everybody else's pages, nor this one's next tier.
        logger.exception("tier %d of escalation %d cannot be resolved", step.tier, escalation_id)
        return ResolvedTier((), tuple(Unreachable(text, "cannot be resolved") for text in tier.recipients))


def _describe_advance(taken: TakenStep) -> dict[str, Any]:
    following = taken.following
    return {
        "escalation_id": taken.escalation_id,
        "pass": taken.step.number,
        "tier": taken.step.tier,
        "next_pass": following and following.number,
        "next_tier": following and following.tier,
        "due_at": taken.due_at.isoformat(),
        "unreachable": [vars(fault) for fault in taken.resolved.unreachable],
    }


def _describe_pages(taken: TakenStep) -> list[dict[str, Any]]:
    return [
        {
            "escalation_id": taken.escalation_id,
            "alert_id": taken.alert_id,
            "pass": taken.step.number,
            "tier": taken.step.tier,
            **vars(target),
        }
        for target in taken.resolved.targets
    ]
