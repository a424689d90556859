"""Grouping as the contract words it, in plain Python: what the database has to come to, whatever way it takes.

An alert that comes later than the window after its group's last alert closes that group and begins a new one; any
other joins. An alert with the same message as an earlier open one of its group is a duplicate of it: it takes over
the state when it arrives and moves along. A group closes with its last open alert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

SEVERITIES = ("info", "low", "medium", "high", "critical")
STATES = ("new", "acknowledged", "investigating", "resolved")
ACTIONS = {"acknowledge": "acknowledged", "investigate": "investigating", "resolve": "resolved"}

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Arrival:
    """A report as it comes in; ``metric`` is the one it is filed under."""

    device_id: str
    severity: str
    message: str
    occurred_at: datetime
    metric: str = ""
    key_class: str | None = None

    @property
    def key(self) -> Key:
        """The key of its group."""
        return (self.device_id, self.metric, self.key_class or self.severity)


@dataclass
class ModelAlert:
    """One alert; it and its group are known by the order of their making."""

    number: int
    arrival: Arrival
    group: int
    state: str = "new"
    duplicate_of: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is not resolved."""
        return self.state != "resolved"


@dataclass
class ModelGroup:
    """One group with its alerts."""

    number: int
    key: Key
    last_at: datetime
    is_active: bool = True
    alerts: list[ModelAlert] = field(default_factory=list)

    @property
    def severity(self) -> str:
        """The highest of its alerts."""
        return max((alert.arrival.severity for alert in self.alerts), key=SEVERITIES.index)

    @property
    def first_at(self) -> datetime:
        """When the earliest of its alerts occurred."""
        return min(alert.arrival.occurred_at for alert in self.alerts)

    @property
    def open_alerts(self) -> list[ModelAlert]:
        """Its alerts that are not resolved."""
        return [alert for alert in self.alerts if alert.is_open]


class GroupingModel:
    """The groups and alerts that a sequence of reports and actions makes."""

    def __init__(self, window: timedelta) -> None:
        self.window = window
        self.groups: list[ModelGroup] = []
        self.alerts: list[ModelAlert] = []

    def raise_alert(self, arrival: Arrival) -> ModelAlert:
        """Take in one report."""
        group = self._find_group(arrival)
        alert = ModelAlert(len(self.alerts), arrival, group.number)
        for earlier in group.open_alerts:
            if earlier.duplicate_of is None and earlier.arrival.message == arrival.message:
                alert.duplicate_of = earlier.number
                alert.state = earlier.state
        group.alerts.append(alert)
        group.last_at = max(group.last_at, arrival.occurred_at)
        self.alerts.append(alert)
        return alert

    def act(self, number: int, action: str, *, advance: bool = False, is_system: bool = False) -> bool:
        """Take an alert a step further; return whether that is legal."""
        original = self._original_of(number)
        target = ACTIONS[action]
        if not _can_move(original.state, target, advance=advance, is_system=is_system):
            return False
        group = self.groups[original.group]
        for alert in group.open_alerts:
            if original.number in (alert.number, alert.duplicate_of):
                alert.state = target
        if not group.open_alerts:
            group.is_active = False
        return True

    def act_on_group(self, group: int, action: str, *, advance: bool = False) -> set[int]:
        """Take every open alert of a group that can go a step further; return the numbers of those that moved."""
        before = {alert.number: alert.state for alert in self.groups[group].open_alerts}
        for number in before:
            if self.alerts[number].duplicate_of is None:
                self.act(number, action, advance=advance)
        return {number for number, state in before.items() if self.alerts[number].state != state}

    def close_group(self, group: int) -> None:
        """Close a group whose alerts stay as they are."""
        self.groups[group].is_active = False

    def active_groups(self, key: Key) -> Sequence[ModelGroup]:
        """Return the active groups of a key: one at most."""
        return [group for group in self.groups if group.key == key and group.is_active]

    def _find_group(self, arrival: Arrival) -> ModelGroup:
        for group in self.active_groups(arrival.key):
            if arrival.occurred_at <= group.last_at + self.window:
                return group
            group.is_active = False
        group = ModelGroup(len(self.groups), arrival.key, arrival.occurred_at)
        self.groups.append(group)
        return group

    def _original_of(self, number: int) -> ModelAlert:
        alert = self.alerts[number]
        return alert if alert.duplicate_of is None else self.alerts[alert.duplicate_of]


def _can_move(state: str, target: str, *, advance: bool, is_system: bool) -> bool:
    if is_system and target == "resolved":
        return state != "resolved"
    distance = STATES.index(target) - STATES.index(state)
    return distance >= 1 if advance else distance == 1
