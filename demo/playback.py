"""From what is to be played to the table: clients, progress, player and survey put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from rich.console import Console

from demo.client import Pause, ServiceClient, ServiceRefused, Stopped
from demo.plant import PLANT, SHIFT, plan_shift
from demo.replay import Device, Event, Measured, Outcome, Pace, Player, plan_replay
from demo.report import Played, ProgressView, make_table
from demo.survey import Survey, read_survey
from demo.telemetry import Telemetry
from foundation.clock import Clock

PERIOD_FORMAT = "%Y-%m-%d %H:%M"


@dataclass(frozen=True)
class Tokens:
    """Who plays: the gateway of the machines, the crew, and whoever looks afterwards."""

    device: str
    operator: str
    viewer: str


@dataclass(frozen=True)
class Stage:
    """Where it all happens: the terminal, the clock, and the way to wait."""

    console: Console
    clock: Clock
    pause: Pause


@dataclass(frozen=True)
class Play:
    """What to play: events in order, their devices' names by id, and how to head the table."""

    events: Sequence[Event]
    names: Mapping[str, str]
    played: Played
    tells_news: bool

    @property
    def seconds(self) -> float:
        """How long its rhythm takes, without the time for the requests."""
        times = [event.at for event in self.events]
        return (max(times) - min(times)).total_seconds() / self.played.speed if self.played.speed else 0.0


@dataclass(frozen=True)
class Result:
    """What came of it; the survey is None where the token may not read alerts, or a stop came first."""

    outcome: Outcome
    survey: Survey | None

    @property
    def is_complete(self) -> bool:
        """Whether everything was played, and all that was taken is there."""
        return self.outcome.is_whole and not (self.survey and self.survey.missing)


def prepare_file(telemetry: Telemetry, device: Device, file_name: str, speed: float) -> Play:
    """Return the replay of a file as one device."""
    first, last = telemetry.readings[0].at, telemetry.readings[-1].at
    first_fault = telemetry.faults[0] if telemetry.faults else None
    played = Played(
        title=f"{file_name}: {device.metric} {device.limits.describe()}",
        period=f"{first:{PERIOD_FORMAT}} to {last:{PERIOD_FORMAT}} UTC",
        speed=speed,
        bad_rows=len(telemetry.faults),
        first_bad_row=f"line {first_fault.line}: {first_fault.message}" if first_fault else "",
    )
    events = list(plan_replay(telemetry, device))
    return Play(events, {device.device_id: device.name}, played, tells_news=False)


def prepare_plant(device_ids: Mapping[str, str], ends_at: datetime, speed: float) -> Play:
    """Return the shift of the plant that ends at ``ends_at``; ``device_ids`` are the machines' by their names."""
    begins_at = ends_at - SHIFT
    played = Played(
        title=f"A plant of {len(PLANT)} machines, and its crew",
        period=f"{begins_at:%H:%M} to {ends_at:%H:%M} UTC",
        speed=speed,
    )
    names = {device_id: name for name, device_id in device_ids.items()}
    return Play(plan_shift(device_ids, ends_at), names, played, tells_news=True)


def perform(play: Play, url: str, tokens: Tokens, stage: Stage) -> Result:
    """Play through the service at ``url`` and print the table; what was done before an error is printed too.

    Raises:
        ServiceRefused: the service refused something, in its own words.
        Unavailable: the service stayed away.
    """
    total = sum(isinstance(event, Measured) for event in play.events)
    view = ProgressView(stage.console, total, play.names if play.tells_news else None)
    with ExitStack() as stack:
        device, crew, viewer = (
            stack.enter_context(closing(ServiceClient(url, token, stage.pause, view.tell_trouble)))
            for token in (tokens.device, tokens.operator, tokens.viewer)
        )
        player = Player(device, crew, Pace(stage.clock, stage.pause, play.played.speed), stage.clock, view.watch)
        survey: Survey | None = None
        try:
            with view:
                player.play(play.events)
            survey = _survey(viewer, play.names, player.outcome)
        finally:
            # Nothing taken and nothing finished: the error says it all.
            if player.outcome.alert_ids or player.outcome.is_whole:
                stage.console.print()
                stage.console.print(make_table(play.played, player.outcome, survey))
    return Result(player.outcome, survey)


def _survey(viewer: ServiceClient, device_ids: Iterable[str], outcome: Outcome) -> Survey | None:
    try:
        return read_survey(viewer, device_ids, outcome.alert_ids)
    except Stopped:
        return None
    except ServiceRefused as error:
        # A device's own token may report and not read: the replay is good, only the view of it is missing.
        if error.status == HTTPStatus.FORBIDDEN:
            return None
        raise
