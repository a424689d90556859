"""Playing events in order through the REST API, in their own rhythm or as fast as they go."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from demo.client import Answer, Pause, ServiceClient, ServiceRefused, Stopped
from demo.telemetry import Crossing, Limits, Telemetry
from foundation.clock import Clock

# A shorter pause than this is not worth a system call.
SHORTEST_WAIT_SECONDS = 0.001

Action = Literal["acknowledge", "investigate", "resolve"]


@dataclass(frozen=True)
class Measured:
    """A reading of a device; ``report`` is the alert that it gives rise to, None within the limits.

    ``label`` tells readings of one device apart, as ``line 1205`` does.
    """

    at: datetime
    device_id: str
    label: str
    report: Mapping[str, Any] | None


@dataclass(frozen=True)
class CrewStep:
    """Somebody takes a step with all that a device has open."""

    at: datetime
    device_id: str
    action: Action
    body: Mapping[str, Any]


Event = Measured | CrewStep


@dataclass(frozen=True)
class Device:
    """How the readings of a file become alerts: as which device, under which name and severity."""

    device_id: str
    name: str
    metric: str
    severity: str
    limits: Limits


@dataclass
class Outcome:
    """What the service answered; nothing in here is expected or computed, only counted."""

    readings: int = 0
    alert_ids: set[str] = field(default_factory=set)
    group_ids: set[str] = field(default_factory=set)
    duplicates: int = 0
    replayed: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    started_at: datetime | None = None
    ended_at: datetime | None = None
    is_stopped: bool = False
    is_whole: bool = False

    @property
    def noise_reduction_pct(self) -> float:
        """The share of alerts that grouping keeps from being news of their own: 100 * (1 - groups / alerts)."""
        return 100 * (1 - len(self.group_ids) / len(self.alert_ids)) if self.alert_ids else 0.0

    @property
    def seconds(self) -> float:
        """How long it took."""
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return (self.ended_at - self.started_at).total_seconds()


class Pace:
    """Waits until events are due: ``speed`` times as fast as they happened, counted from the first; 0 is at once."""

    def __init__(self, clock: Clock, pause: Pause, speed: float) -> None:
        self._clock = clock
        self._pause = pause
        self._speed = speed
        self._start: tuple[datetime, datetime] | None = None

    def wait_for(self, at: datetime) -> None:
        """Return when an event is due.

        Raises:
            Stopped: a stop was asked for meanwhile.
        """
        # A pause may end early, so the clock has the last word; every event looks for a stop once at least.
        while True:
            wait_seconds = self.seconds_until(at)
            if self._pause(wait_seconds):
                raise Stopped
            if not wait_seconds:
                return

    def seconds_until(self, at: datetime) -> float:
        """Return how long to wait for an event; one that is late, or runs backwards in the file, is due at once."""
        if not self._speed:
            return 0.0
        now = self._clock.now()
        if self._start is None:
            self._start = now, at
        began_at, first_at = self._start
        # Seconds, not a shift of `began_at`: centuries between two rows must not leave the calendar.
        wait_seconds = (at - first_at).total_seconds() / self._speed - (now - began_at).total_seconds()
        return wait_seconds if wait_seconds > SHORTEST_WAIT_SECONDS else 0.0


Watch = Callable[[Event, Mapping[str, Any] | None], None]
"""Told of every event when it is done, with the alert that was recorded, or with ``{"changed": n}`` for a step."""


class Player:
    """Plays events: reports go out as the device's, steps as the crew's."""

    def __init__(self, device: ServiceClient, crew: ServiceClient, pace: Pace, clock: Clock, watch: Watch) -> None:
        self.outcome = Outcome()
        self._device = device
        self._crew = crew
        self._pace = pace
        self._clock = clock
        self._watch = watch
        self._groups: dict[str, dict[str, None]] = {}

    def play(self, events: Iterable[Event]) -> Outcome:
        """Play the events one after the other, until the last or until a stop is asked for.

        Raises:
            ServiceRefused: a report or a step was refused; the message says which, in the service's words.
            Unavailable: the service stayed away.
        """
        self.outcome.started_at = self._clock.now()
        try:
            for event in events:
                self._pace.wait_for(event.at)
                done = self._measure(event) if isinstance(event, Measured) else self._act(event)
                self._watch(event, done)
            self.outcome.is_whole = True
        except Stopped:
            self.outcome.is_stopped = True
        finally:
            self.outcome.ended_at = self._clock.now()
        return self.outcome

    def _measure(self, event: Measured) -> Mapping[str, Any] | None:
        if event.report is not None:
            try:
                answer = self._device.report_alert(event.report, make_idempotency_key(event))
            except ServiceRefused as error:
                raise ServiceRefused(f"{event.label}: {error.message}", error.status) from error
            self._count(event.device_id, answer)
        self.outcome.readings += 1
        return None if event.report is None else answer.body

    def _count(self, device_id: str, answer: Answer) -> None:
        alert = answer.body
        self.outcome.alert_ids.add(alert["alert_id"])
        self.outcome.group_ids.add(alert["group_id"])
        self.outcome.duplicates += alert["is_duplicate"]
        self.outcome.replayed += answer.is_replayed
        self._groups.setdefault(device_id, {})[alert["group_id"]] = None

    def _act(self, step: CrewStep) -> Mapping[str, Any]:
        changed = 0
        for group_id in self._groups.get(step.device_id, {}):
            changed += len(self._crew.act_on_group(group_id, step.action, step.body)["changed"])
        self.outcome.steps[step.action] += changed
        return {"changed": changed}


def plan_replay(telemetry: Telemetry, device: Device) -> Iterator[Measured]:
    """Yield the readings of a file as one device's, each outside the limits with its report."""
    for reading in telemetry.readings:
        crossing = device.limits.find_crossing(reading.value)
        report = None
        if crossing is not None:
            report = make_report(device, crossing, reading.value, reading.at, {"line": reading.line})
        yield Measured(reading.at, device.device_id, f"line {reading.line}", report)


def make_report(
    device: Device, crossing: Crossing, value: float, at: datetime, more: Mapping[str, Any], unit: str = ""
) -> dict[str, Any]:
    """Return the body of POST /alerts; the value is metadata, so that the message stays the same."""
    return {
        "device_id": device.device_id,
        "severity": device.severity,
        "message": crossing.describe(device.metric, unit),
        "metric": device.metric,
        "source": "demo",
        "occurred_at": at.isoformat(),
        "metadata": {"device_name": device.name, "value": value, "limit": crossing.limit, **more},
    }


def make_idempotency_key(event: Measured) -> str:
    """Return the key of a reading: made of all that is reported, so a replay that was cut short can be run again.

    The label is in it because a file may hold the same instant and value twice.
    """
    told = json.dumps([event.label, event.report], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
