"""``demo``: play readings of machines through a service: the running one, or one started for it."""

from __future__ import annotations

import math
import sys
import uuid
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from commands import EXIT_FAILED
from foundation.clock import Clock
from foundation.errors import SettingsError
from foundation.settings import Settings

if TYPE_CHECKING:
    from demo.detection import Detection
    from demo.own_site import OwnSite
    from demo.playback import Play, Result, Stage, Tokens
    from demo.service import Target

SEVERITIES = ("critical", "high", "medium", "low", "info")
DEFAULT_SEVERITY = "high"
EXIT_STOPPED = 130
LONGEST_METRIC = 200
SPARE_HOURS = 2.0
LONGEST_HOURS = 24.0 * 366
WRONG_SERVICE_HINT = "does the service use another JWT_SECRET or DATA_DIR? Pass --url and --token then"
FILE_OPTIONS = ("high", "low", "device_id", "metric", "severity", "ml")
LIMIT_OPTIONS = ("high", "low", "severity", "speed")
MODEL_OPTIONS = ("labels", "svg")


def add_arguments(parser: ArgumentParser) -> None:
    """Take the file and its limits, and where to play it."""
    parser.description = (
        "With --csv: replay a file of readings as one device; each reading outside the limits becomes an alert; with "
        "--ml it is the anomalies that do: a model is trained on the first rows and asked about the rest. "
        "Without: a small plant of five machines and its crew, twenty seconds long, through a service of its own whose "
        "pages arrive at an inbox to look at."
    )
    file = parser.add_argument_group("a file of readings")
    file.add_argument("--csv", type=Path, metavar="FILE", help="a file with the columns timestamp and value")
    file.add_argument("--high", type=_parse_number, metavar="X", help="a reading above this is an alert")
    file.add_argument("--low", type=_parse_number, metavar="Y", help="a reading below this is an alert")
    file.add_argument("--device-id", type=_parse_uuid, metavar="UUID", help="the device to be (a new one)")
    file.add_argument("--metric", metavar="NAME", help="what is measured (the name of the file)")
    file.add_argument("--severity", choices=SEVERITIES, help=f"of the alerts ({DEFAULT_SEVERITY})")
    model = parser.add_argument_group("a file of readings, by a model")
    model.add_argument("--ml", action="store_true", default=None, help="let a model find the anomalies of the file")
    model.add_argument("--labels", type=Path, metavar="FILE", help="JSON with the windows that hold real faults")
    model.add_argument("--svg", type=Path, metavar="FILE", help="where to draw the chart (NAME-anomalies.svg, here)")
    parser.add_argument(
        "--speed",
        type=_parse_speed,
        metavar="N",
        help="N times as fast as it happened; 0: as fast as it goes (a file: 0, the plant: 360)",
    )
    parser.add_argument(
        "--url",
        help="the service to play through (a file: the one of this machine, started if it does not run; the plant: "
        "one of its own)",
    )
    parser.add_argument("--token", help="for a service elsewhere: a token that may create and read alerts")
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument("--keep", action="store_true", help="leave a service that was started running until Ctrl-C")
    wait.add_argument(
        "--no-wait", action="store_true", help="end at once (a plant at a terminal leaves its service running)"
    )


def run(arguments: Namespace, settings: Settings) -> int:
    """Play, print the table, and return 0; 1 if an alert got lost, 130 if it was stopped."""
    from rich.console import Console

    from demo.client import Stopped
    from demo.detection import Detection
    from demo.playback import Stage
    from foundation.processes import StopSignal

    console, clock = Console(highlight=False), Clock()
    _check_options(arguments)
    play = prepare_detection(arguments, clock) if arguments.ml else prepare(arguments, clock)
    with StopSignal() as stop:
        stage = Stage(console, clock, stop.wait)
        try:
            if isinstance(play, Detection):
                return _detect(arguments, settings, play, stage)
            if pages_its_own(arguments):
                return _play_own_site(arguments, play, stage)
            return _play_elsewhere(arguments, settings, play, stage)
        except Stopped:
            return EXIT_STOPPED


def pages_its_own(arguments: Namespace) -> bool:
    """Return whether the demonstration brings its own service and inbox: the plant does, unless sent elsewhere."""
    return arguments.csv is None and arguments.url is None


def _check_options(arguments: Namespace) -> None:
    if arguments.token and not arguments.url:
        raise SettingsError("--token: is for a service at --url; the one of this machine needs none")
    misplaced = (
        (FILE_OPTIONS, arguments.csv is None, "goes with --csv"),
        (MODEL_OPTIONS, not arguments.ml, "goes with --ml"),
        (LIMIT_OPTIONS, bool(arguments.ml), "does not go with --ml"),
    )
    for options, is_out_of_place, remark in misplaced:
        for option in options:
            if is_out_of_place and getattr(arguments, option) is not None:
                raise SettingsError(f"--{option.replace('_', '-')}: {remark}")


def prepare_detection(arguments: Namespace, clock: Clock) -> Detection:
    """Return what is to be detected; the file and its labels are read and checked whole before anything is sent.

    Raises:
        SettingsError: a file is of no use.
    """
    from demo.detection import Detection, read_detectable
    from demo.labels import read_windows

    return Detection(
        telemetry=read_detectable(arguments.csv, clock.now()),
        file_name=arguments.csv.name,
        device_id=arguments.device_id or str(uuid.uuid4()),
        metric=arguments.metric or arguments.csv.stem[:LONGEST_METRIC],
        windows=read_windows(arguments.labels, arguments.csv) if arguments.labels else None,
        chart_path=arguments.svg or Path(f"{arguments.csv.stem}-anomalies.svg"),
    )


def prepare(arguments: Namespace, clock: Clock) -> Play:
    """Return what is to be played; a file is read and checked whole before anything is sent.

    Raises:
        SettingsError: the arguments do not fit together, or the file is of no use.
    """
    from demo.plant import PLANT, SHIFT_SPEED
    from demo.playback import prepare_file, prepare_plant
    from demo.replay import Device
    from demo.telemetry import Limits, read_telemetry

    if arguments.csv is None:
        speed = SHIFT_SPEED if arguments.speed is None else arguments.speed
        device_ids = {machine.name: str(uuid.uuid4()) for machine in PLANT}
        return prepare_plant(device_ids, clock.now(), speed, escalate=pages_its_own(arguments))
    name = arguments.csv.stem[:LONGEST_METRIC]
    device = Device(
        device_id=arguments.device_id or str(uuid.uuid4()),
        name=name,
        metric=arguments.metric or name,
        severity=arguments.severity or DEFAULT_SEVERITY,
        limits=Limits.of(arguments.high, arguments.low),
    )
    return prepare_file(read_telemetry(arguments.csv, clock.now()), device, arguments.csv.name, arguments.speed or 0.0)


def _play_own_site(arguments: Namespace, play: Play, stage: Stage) -> int:
    from demo.own_site import open_own_site
    from demo.service import keep_running

    stage.console.print("Starting a service of the demonstration's own; that takes some seconds.", style="dim")
    with open_own_site(stage.clock, stage.pause, _make_teller(stage)) as site:
        stage.console.print(f"Its pages arrive at [bold]{site.inbox.url}[/]", soft_wrap=True)
        result = _perform(
            play, site.url, make_tokens(None, site.settings, play.seconds), replace(stage, inbox=site.inbox.inbox)
        )
        if result.outcome.is_stopped:
            return EXIT_STOPPED
        is_kept = waits_for_people(arguments, is_terminal=sys.stdin.isatty())
        newest_alert = max(result.outcome.alert_ids, key=int)
        stage.console.print(describe_own_site(site, newest_alert, keeps=is_kept), soft_wrap=True, markup=False)
        if is_kept:
            keep_running(site.own, stage.pause)
    return 0 if result.is_complete else EXIT_FAILED


def waits_for_people(arguments: Namespace, *, is_terminal: bool) -> bool:
    """Return whether a service of the demonstration's own runs on after the play: where somebody can end it."""
    return bool(arguments.keep or (is_terminal and not arguments.no_wait))


def _play_elsewhere(arguments: Namespace, settings: Settings, play: Play, stage: Stage) -> int:
    from demo.service import keep_running, reach_service

    with reach_service(settings, arguments.url, stage.pause, _make_teller(stage)) as target:
        result = _perform(play, target.url, make_tokens(arguments.token, settings, play.seconds), stage)
        if result.outcome.is_stopped:
            return EXIT_STOPPED
        device_id = next(iter(play.names))
        stage.console.print(describe_next(target, device_id, keeps=arguments.keep), soft_wrap=True, markup=False)
        if target.own is not None and arguments.keep:
            keep_running(target.own, stage.pause)
    return 0 if result.is_complete else EXIT_FAILED


def _detect(arguments: Namespace, settings: Settings, detection: Detection, stage: Stage) -> int:
    from demo.playback import perform_detection
    from demo.service import keep_running, reach_service

    with reach_service(settings, arguments.url, stage.pause, _make_teller(stage)) as target:
        with _explain_refusals():
            perform_detection(detection, target.url, make_tokens(arguments.token, settings, 0.0), stage)
        described = describe_next(target, detection.device_id, keeps=arguments.keep)
        stage.console.print(described, soft_wrap=True, markup=False)
        if target.own is not None and arguments.keep:
            keep_running(target.own, stage.pause)
    return 0


def _make_teller(stage: Stage) -> Callable[[str], None]:
    return partial(stage.console.print, style="dim", markup=False, soft_wrap=True)


def _perform(play: Play, url: str, tokens: Tokens, stage: Stage) -> Result:
    from demo.playback import perform

    with _explain_refusals():
        return perform(play, url, tokens, stage)


@contextmanager
def _explain_refusals() -> Iterator[None]:
    from demo.client import ServiceRefused

    try:
        yield
    except ServiceRefused as error:
        if error.status == HTTPStatus.UNAUTHORIZED:
            raise ServiceRefused(f"{error.message}; {WRONG_SERVICE_HINT}", error.status) from error
        raise


def make_tokens(token: str | None, settings: Settings, seconds: float) -> Tokens:
    """Return the tokens of all who play: the given one, or our own, which hold until the end."""
    from api.tokens import issue_token
    from demo.playback import Tokens
    from foundation.secrets_file import add_generated_secrets

    if token is not None:
        return Tokens(token, token, token, token)
    # Only now: a service that was started has made the secret in DATA_DIR.
    settings, hours = add_generated_secrets(settings), min(seconds / 3600 + SPARE_HOURS, LONGEST_HOURS)
    device, operator, engineer, viewer = (
        issue_token(settings, subject=f"demo-{name}", role=role, hours=hours)
        for name, role in (("gateway", "device"), ("crew", "operator"), ("trainer", "engineer"), ("viewer", "viewer"))
    )
    return Tokens(device, operator, engineer, viewer)


def describe_next(target: Target, device_id: str, *, keeps: bool) -> str:
    """Return how to look at what was played, and what becomes of the service."""
    lines = [
        "",
        "Look at it:",
        f"  {target.url}/api/v1/docs",
        '  curl -H "Authorization: Bearer $(python app_advanced.py token --role viewer)" \\',
        f'    "{target.url}/api/v1/groups?device_id={device_id}"',
    ]
    if target.own is not None and keeps:
        lines += ["", "The service runs on; Ctrl-C stops it."]
    elif target.own is not None:
        lines += ["", "The service stops now; `python app_advanced.py` brings it back with all of this in it."]
    return "\n".join(lines)


def describe_own_site(site: OwnSite, newest_alert: str, *, keeps: bool) -> str:
    """Return how to look at a demonstration's own service and answer a page, or that it all ends now."""
    if not keeps:
        return "\nThe service ends now, and nothing is left of it; at a terminal, or with --keep, it would run on."
    token = f"DATA_DIR={site.settings.data_dir} python app_advanced.py token --role operator"
    return "\n".join(
        [
            "",
            "What nobody acknowledges pages the shift lead after a minute. Acknowledge the newest alert:",
            f'  curl -X POST -H "Authorization: Bearer $({token})" \\',
            f"    {site.url}/api/v1/alerts/{newest_alert}/acknowledge",
            "",
            f"The pages       {site.inbox.url}",
            f"The API         {site.url}/api/v1/docs",
            "Ctrl-C stops it all; nothing is left of it then.",
        ]
    )


def _parse_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no number") from error
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text!r} is no finite number")
    return value


def _parse_speed(text: str) -> float:
    speed = _parse_number(text)
    if speed < 0:
        raise ArgumentTypeError("must be 0 or more")
    return speed


def _parse_uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no UUID") from error
