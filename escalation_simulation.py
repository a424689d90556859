"""What a policy would do: the timeline of pages, with on-call resolved for the instants of its tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from accounts import Accounts
from escalation_directory import InstantDirectory
from escalation_policies import EscalationPolicies
from escalation_recipients import Directory, ResolvedTier, resolve_tier
from escalation_rules import Rules, Step, plan_steps
from foundation.clock import Clock
from foundation.database import Database
from on_call_manager import OnCallManager


@dataclass(frozen=True)
class PlannedPage:
    """One tier that would be worked off, and when."""

    step: Step
    at: datetime
    resolved: ResolvedTier


@dataclass(frozen=True)
class Simulation:
    """What would happen; ``matches`` tells whether the policy is for this severity at all."""

    matches: bool
    started_at: datetime
    acknowledged_at: datetime | None
    pages: tuple[PlannedPage, ...]


def plan_pages(
    rules: Rules, started_at: datetime, until: datetime | None, directory_at: Callable[[datetime], Directory]
) -> Iterator[PlannedPage]:
    """Yield the tiers in order, up to an acknowledgement at ``until``.

    A tier that reaches nobody brings the next one at once; the tiers after that keep their minutes.
    """
    brought_forward: datetime | None = None
    for step in plan_steps(rules, started_at):
        at = step.due_at if brought_forward is None else min(brought_forward, step.due_at)
        if until is not None and at >= until:
            return
        resolved = resolve_tier(rules.tier_of(step), directory_at(at))
        brought_forward = None if resolved.targets else at
        yield PlannedPage(step, at, resolved)


class EscalationSimulator:
    """Plays a policy through without sending anything."""

    def __init__(
        self,
        database: Database,
        policies: EscalationPolicies,
        on_call: OnCallManager,
        accounts: Accounts,
        clock: Clock,
    ) -> None:
        self._database = database
        self._policies = policies
        self._on_call = on_call
        self._accounts = accounts
        self._clock = clock

    def simulate(
        self, policy_id: int, severity: str, at: datetime | None, acknowledge_after_minutes: float | None
    ) -> Simulation:
        """Return what a policy would do for an alert of this severity raised at ``at`` (default: now)."""
        rules = self._policies.get_policy(policy_id).rules
        started_at = at or self._clock.now()
        until = None if acknowledge_after_minutes is None else started_at + timedelta(minutes=acknowledge_after_minutes)
        matches = severity in rules.severity_match
        pages = self._plan(rules, started_at, until) if matches else ()
        return Simulation(matches, started_at, until, pages)

    def _plan(self, rules: Rules, started_at: datetime, until: datetime | None) -> tuple[PlannedPage, ...]:
        with self._database.autocommit() as connection:

            def directory_at(at: datetime) -> Directory:
                return InstantDirectory(connection, self._accounts, self._on_call, at)

            return tuple(plan_pages(rules, started_at, until, directory_at))
