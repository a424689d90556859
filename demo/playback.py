"""From what is to be played to the table: clients, progress, player and survey put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from rich.console import Console

from demo.client import Pause, ServiceClient, ServiceRefused, Stopped
from demo.detection import Clients, Detection, Detector, judge
from demo.detection_report import DetectionView, make_detection_table, make_group_table, write_chart
from demo.inbox import Inbox
from demo.plant import PLANT, SHIFT, plan_shift
from demo.replay import Device, Event, Measured, Outcome, Pace, Player, plan_replay
from demo.report import Played, ProgressView, make_table
from demo.survey import Survey, read_survey
from demo.telemetry import Telemetry
from foundation.clock import Clock
from foundation.errors import SettingsError

QUIET_SECONDS = 1.0
MOST_QUIET_LOOKS = 10
PERIOD_FORMAT = "%Y-%m-%d %H:%M"


@dataclass(frozen=True)
class Tokens:
    """Who plays: the gateway of the machines, the crew, who trains models, and whoever looks afterwards."""

    device: str
    operator: str
    engineer: str
    viewer: str


@dataclass(frozen=True)
class Stage:
    """Where it all happens: the terminal, the clock, the way to wait, and the inbox if the pages come to one."""

    console: Console
    clock: Clock
    pause: Pause
    inbox: Inbox | None = None


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


def prepare_plant(device_ids: Mapping[str, str], ends_at: datetime, speed: float, *, escalate: bool) -> Play:
    """Return the shift of the plant that ends at ``ends_at``; ``device_ids`` are the machines' by their names.

    Its alerts page people only with ``escalate``.
    """
    begins_at = ends_at - SHIFT
    played = Played(
        title=f"A plant of {len(PLANT)} machines, and its crew",
        period=f"{begins_at:%H:%M} to {ends_at:%H:%M} UTC",
        speed=speed,
    )
    names = {device_id: name for name, device_id in device_ids.items()}
    return Play(plan_shift(device_ids, ends_at, escalate=escalate), names, played, tells_news=True)


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
            if stage.inbox is not None:
                await_quiet(stage.inbox, stage.pause)
        finally:
            # Nothing taken and nothing finished: the error says it all.
            if player.outcome.alert_ids or player.outcome.is_whole:
                stage.console.print()
                arrived = stage.inbox.count_arrived() if stage.inbox else None
                stage.console.print(make_table(play.played, player.outcome, survey, arrived))
    return Result(player.outcome, survey)


def perform_detection(detection: Detection, url: str, tokens: Tokens, stage: Stage) -> None:
    """Play a file through the models of the service at ``url``, print the tables and draw the chart.

    Raises:
        ServiceRefused: the service refused something, in its own words.
        Unavailable: the service stayed away.
        Stopped: a stop was asked for meanwhile.
        SettingsError: the chart cannot be written.
    """
    view = DetectionView(stage.console, len(detection.telemetry.readings))
    with ExitStack() as stack:
        trainer, device, viewer = (
            stack.enter_context(closing(ServiceClient(url, token, stage.pause, view.tell_trouble)))
            for token in (tokens.engineer, tokens.device, tokens.viewer)
        )
        detector = Detector(Clients(trainer, device, viewer), stage.clock, stage.pause, view.watch)
        with view:
            findings = detector.detect(detection)
    is_labelled = detection.windows is not None
    verdict = judge(findings.groups, detection.windows or (), detection.streamed) if is_labelled else None
    stage.console.print()
    stage.console.print(make_detection_table(detection, findings, verdict))
    if findings.groups:
        stage.console.print(make_group_table(findings.groups, verdict))
    try:
        write_chart(detection, findings, verdict)
    except OSError as error:
        raise SettingsError(f"--svg: {detection.chart_path} cannot be written ({error.strerror})") from error
    stage.console.print(f"Drawn in {detection.chart_path}", soft_wrap=True, markup=False)


def await_quiet(inbox: Inbox, pause: Pause) -> None:
    """Return when no page has come for a moment, or a stop is asked for: those of the last alerts are on their way."""
    before = -1
    for _ in range(MOST_QUIET_LOOKS):
        now = inbox.count_arrived().total()
        if now == before or pause(QUIET_SECONDS):
            return
        before = now


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
