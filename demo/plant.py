"""A small plant of our own making: five machines, one shift with drifts, spikes and chatter, and a crew.

Nothing here is random from run to run: the same machines do the same things, only as new devices each time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from demo.replay import Action, CrewStep, Device, Event, Measured, make_report
from demo.telemetry import Limits

SEED = 5002
SHIFT_MINUTES = 120
SAMPLE_SECONDS = 30
SHIFT = timedelta(minutes=SHIFT_MINUTES)
SHIFT_SPEED = 360.0
"""The shift of two hours takes twenty seconds."""


@dataclass(frozen=True)
class Level:
    """Limits, and how grave it is to be outside them."""

    severity: str
    limits: Limits


@dataclass(frozen=True)
class Disturbance:
    """What a machine goes through from one minute to another, in the unit of its metric.

    A drift grows evenly up to ``size``, a spike is there at once, chatter comes and goes with every sample.
    """

    kind: Literal["drift", "spike", "chatter"]
    from_minute: float
    to_minute: float
    size: float

    def offset(self, sample: int) -> float:
        """Return what it adds to a sample."""
        minute = sample * SAMPLE_SECONDS / 60
        if not self.from_minute <= minute < self.to_minute:
            return 0.0
        if self.kind == "drift":
            return self.size * (minute - self.from_minute) / (self.to_minute - self.from_minute)
        return self.size if self.kind == "spike" or sample % 2 else 0.0


@dataclass(frozen=True)
class Care:
    """A step that the crew takes with a machine, at a minute of the shift."""

    minute: float
    action: Action
    notes: str
    resolution: str | None = None

    def body(self) -> dict[str, Any]:
        """Return the body of the group action."""
        if self.action != "resolve":
            return {"notes": self.notes}
        return {"notes": self.notes, "resolution": self.resolution, "advance": True}


@dataclass(frozen=True)
class Machine:
    """A machine: what is normal for it, and what it goes through; the gravest level comes first."""

    name: str
    metric: str
    unit: str
    normal: float
    noise: float
    levels: tuple[Level, ...]
    disturbances: tuple[Disturbance, ...]
    care: tuple[Care, ...]

    def measure(self, generator: random.Random) -> list[float]:
        """Return the samples of the shift."""
        return [
            round(
                self.normal
                + generator.uniform(-self.noise, self.noise)
                + sum(disturbance.offset(sample) for disturbance in self.disturbances),
                2,
            )
            for sample in range(SHIFT_MINUTES * 60 // SAMPLE_SECONDS)
        ]


PLANT = (
    Machine(
        "press",
        "hydraulic_pressure",
        "bar",
        normal=180,
        noise=3,
        levels=(Level("critical", Limits(high=230)), Level("high", Limits(high=210))),
        disturbances=(
            Disturbance("spike", 24, 25.5, 40),
            Disturbance("spike", 70, 72, 65),
            Disturbance("spike", 104, 105, 42),
        ),
        care=(
            Care(73, "acknowledge", "press stopped, on the way"),
            Care(78, "investigate", "relief valve sticks"),
        ),
    ),
    Machine(
        "oven",
        "temperature",
        "°C",
        normal=220,
        noise=2,
        levels=(Level("high", Limits(high=260)), Level("medium", Limits(high=245))),
        disturbances=(Disturbance("drift", 20, 62, 52),),
        care=(
            Care(48, "acknowledge", "seen, watching it"),
            Care(58, "investigate", "fan of zone 2 is slow"),
            Care(64, "resolve", "fan belt replaced", "fixed"),
        ),
    ),
    Machine(
        "pump",
        "vibration",
        "mm/s",
        normal=4.2,
        noise=0.4,
        levels=(Level("medium", Limits(high=7.1)),),
        disturbances=(Disturbance("chatter", 36, 56, 3.6), Disturbance("chatter", 92, 100, 3.6)),
        care=(
            Care(41, "acknowledge", "listening to it"),
            Care(60, "resolve", "loose sensor bracket, tightened", "false_positive"),
        ),
    ),
    Machine(
        "compressor",
        "oil_pressure",
        "bar",
        normal=4.5,
        noise=0.1,
        levels=(Level("critical", Limits(low=2.0)), Level("high", Limits(low=3.0))),
        disturbances=(Disturbance("drift", 66, 120, -2.8),),
        care=(Care(112, "acknowledge", "oil is ordered"),),
    ),
    Machine(
        "conveyor",
        "motor_current",
        "A",
        normal=12,
        noise=1,
        levels=(Level("low", Limits(high=20)),),
        disturbances=tuple(Disturbance("spike", minute, minute + 2, 14) for minute in (12, 33, 54, 88, 110)),
        care=(
            Care(38, "resolve", "jam cleared", "no_action"),
            Care(57, "resolve", "jam cleared, guide rail bent", "fixed"),
        ),
    ),
)


def plan_shift(device_ids: Mapping[str, str], ends_at: datetime, *, escalate: bool = False) -> list[Event]:
    """Return what happens in the plant during the shift that ends at ``ends_at``, in the order of time.

    ``device_ids`` are the machines' by their names. Without ``escalate`` the alerts page nobody: they are made up.
    """
    begins_at = ends_at - SHIFT
    generator = random.Random(SEED)  # noqa: S311  # a plant, not a secret
    events: list[Event] = []
    for machine in PLANT:
        device_id = device_ids[machine.name]
        events.extend(_plan_machine(machine, device_id, begins_at, generator, escalate=escalate))
        events.extend(
            CrewStep(begins_at + timedelta(minutes=care.minute), device_id, care.action, care.body())
            for care in machine.care
        )
    return sorted(events, key=lambda event: event.at)


def _plan_machine(
    machine: Machine, device_id: str, begins_at: datetime, generator: random.Random, *, escalate: bool
) -> Iterator[Measured]:
    for sample, value in enumerate(machine.measure(generator)):
        at = begins_at + timedelta(seconds=sample * SAMPLE_SECONDS)
        report = _judge(machine, device_id, value, at)
        if report is not None:
            report["escalate"] = escalate
        yield Measured(at, device_id, f"{machine.name}, sample {sample}", report)


def _judge(machine: Machine, device_id: str, value: float, at: datetime) -> dict[str, Any] | None:
    """Return the report that a value is worth, by the gravest level that it is outside of."""
    for level in machine.levels:
        crossing = level.limits.find_crossing(value)
        if crossing is not None:
            device = Device(device_id, machine.name, machine.metric, level.severity, level.limits)
            return make_report(device, crossing, value, at, {"unit": machine.unit}, machine.unit)
    return None
