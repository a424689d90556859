"""What a policy would do: the timeline of pages, with on-call resolved for the instants of its tiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from accounts import Accounts
from escalation_policies import EscalationPolicies
from escalation_recipients import Contact, Directory, ResolvedTier, resolve_tier
from escalation_rules import Rules, Step, plan_steps
from foundation.clock import Clock
from foundation.errors import NotFound
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
        resolved = resolve_tier(rules.tiers[step.tier], directory_at(at))
        brought_forward = None if resolved.targets else at
        yield PlannedPage(step, at, resolved)


class EscalationSimulator:
    """Plays a policy through without sending anything."""

    def __init__(self, policies: EscalationPolicies, on_call: OnCallManager, accounts: Accounts, clock: Clock) -> None:
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
        pages = tuple(plan_pages(rules, started_at, until, self._directory_at)) if matches else ()
        return Simulation(matches, started_at, until, pages)

    def _directory_at(self, at: datetime) -> Directory:
        return InstantDirectory(self._accounts, self._on_call, at)


class InstantDirectory:
    """Users and schedules as they stand, at one instant of the rotation."""

    def __init__(self, accounts: Accounts, on_call: OnCallManager, at: datetime) -> None:
        self._accounts = accounts
        self._on_call = on_call
        self._at = at

    def find_user(self, user_id: int) -> Contact | None:
        """Return the contact of an account."""
        user = self._accounts.find_user(user_id)
        return None if user is None else Contact(user.name, user.email, user.phone, user.user_id)

    def find_on_call(self, schedule_id: int) -> Contact | None:
        """Return who is on call; what the schedule's entry leaves open comes from the account."""
        try:
            current = self._on_call.get_current_on_call(schedule_id, self._at)
        except NotFound:
            return None
        if current is None:
            return None
        entry = current.shift.user
        account = self.find_user(entry.user_id) or Contact(None, None, None)
        return Contact(
            entry.name or account.name, entry.email or account.email, entry.phone or account.phone, entry.user_id
        )
