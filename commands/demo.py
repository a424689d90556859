"""``demo``: play readings of machines through the running service, or through one started for it."""

from __future__ import annotations

import math
import uuid
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from commands import EXIT_FAILED
from foundation.clock import Clock
from foundation.errors import SettingsError
from foundation.settings import Settings

if TYPE_CHECKING:
    from demo.playback import Play, Stage, Tokens
    from demo.service import Target

SEVERITIES = ("critical", "high", "medium", "low", "info")
DEFAULT_SEVERITY = "high"
EXIT_STOPPED = 130
LONGEST_METRIC = 200
SPARE_HOURS = 2.0
LONGEST_HOURS = 24.0 * 366
WRONG_SERVICE_HINT = "does the service use another JWT_SECRET or DATA_DIR? Pass --url and --token then"
FILE_OPTIONS = ("high", "low", "device_id", "metric", "severity")


def add_arguments(parser: ArgumentParser) -> None:
    """Take the file and its limits, and where to play it."""
    parser.description = (
        "With --csv: replay a file of readings as one device; each reading outside the limits becomes an alert. "
        "Without: a small plant of five machines and its crew, twenty seconds long."
    )
    file = parser.add_argument_group("a file of readings")
    file.add_argument("--csv", type=Path, metavar="FILE", help="a file with the columns timestamp and value")
    file.add_argument("--high", type=_parse_number, metavar="X", help="a reading above this is an alert")
    file.add_argument("--low", type=_parse_number, metavar="Y", help="a reading below this is an alert")
    file.add_argument("--device-id", type=_parse_uuid, metavar="UUID", help="the device to be (a new one)")
    file.add_argument("--metric", metavar="NAME", help="what is measured (the name of the file)")
    file.add_argument("--severity", choices=SEVERITIES, help=f"of the alerts ({DEFAULT_SEVERITY})")
    parser.add_argument(
        "--speed",
        type=_parse_speed,
        metavar="N",
        help="N times as fast as it happened; 0: as fast as it goes (a file: 0, the plant: 360)",
    )
    parser.add_argument("--url", help="a service elsewhere (the one of this machine, started if it does not run)")
    parser.add_argument("--token", help="for a service elsewhere: a token that may create and read alerts")
    parser.add_argument("--keep", action="store_true", help="leave a service that was started running until Ctrl-C")


def run(arguments: Namespace, settings: Settings) -> int:
    """Play, print the table, and return 0; 1 if an alert got lost, 130 if it was stopped."""
    from rich.console import Console

    from demo.client import Stopped
    from demo.playback import Stage
    from demo.service import reach_service
    from foundation.processes import StopSignal

    console, clock = Console(highlight=False), Clock()
    play = prepare(arguments, clock)
    with StopSignal() as stop:
        stage = Stage(console, clock, stop.wait)

        def tell(line: str) -> None:
            console.print(line, style="dim", markup=False, soft_wrap=True)

        try:
            with reach_service(settings, arguments.url, stop.wait, tell) as target:
                return _perform(arguments, settings, play, target, stage)
        except Stopped:
            return EXIT_STOPPED


def prepare(arguments: Namespace, clock: Clock) -> Play:
    """Return what is to be played; a file is read and checked whole before anything is sent.

    Raises:
        SettingsError: the arguments do not fit together, or the file is of no use.
    """
    from demo.plant import PLANT, SHIFT_SPEED
    from demo.playback import prepare_file, prepare_plant
    from demo.replay import Device
    from demo.telemetry import Limits, read_telemetry

    if arguments.token and not arguments.url:
        raise SettingsError("--token: is for a service at --url; the one of this machine needs none")
    if arguments.csv is None:
        for option in FILE_OPTIONS:
            if getattr(arguments, option) is not None:
                raise SettingsError(f"--{option.replace('_', '-')}: goes with --csv")
        speed = SHIFT_SPEED if arguments.speed is None else arguments.speed
        return prepare_plant({machine.name: str(uuid.uuid4()) for machine in PLANT}, clock.now(), speed)
    name = arguments.csv.stem[:LONGEST_METRIC]
    device = Device(
        device_id=arguments.device_id or str(uuid.uuid4()),
        name=name,
        metric=arguments.metric or name,
        severity=arguments.severity or DEFAULT_SEVERITY,
        limits=Limits.of(arguments.high, arguments.low),
    )
    return prepare_file(read_telemetry(arguments.csv, clock.now()), device, arguments.csv.name, arguments.speed or 0.0)


def _perform(arguments: Namespace, settings: Settings, play: Play, target: Target, stage: Stage) -> int:
    from demo.client import ServiceRefused
    from demo.playback import perform
    from demo.service import keep_running

    try:
        result = perform(play, target.url, make_tokens(arguments.token, settings, play.seconds), stage)
    except ServiceRefused as error:
        if error.status == HTTPStatus.UNAUTHORIZED:
            raise ServiceRefused(f"{error.message}; {WRONG_SERVICE_HINT}", error.status) from error
        raise
    if result.outcome.is_stopped:
        return EXIT_STOPPED
    stage.console.print(
        describe_next(target, next(iter(play.names)), keeps=arguments.keep), soft_wrap=True, markup=False
    )
    if target.own is not None and arguments.keep:
        keep_running(target.own, stage.pause)
    return 0 if result.is_complete else EXIT_FAILED


def make_tokens(token: str | None, settings: Settings, seconds: float) -> Tokens:
    """Return the tokens of all who play: the given one, or our own, which hold until the end."""
    from api.tokens import issue_token
    from demo.playback import Tokens
    from foundation.secrets_file import add_generated_secrets

    if token is not None:
        return Tokens(token, token, token)
    # Only now: a service that was started has made the secret in DATA_DIR.
    settings, hours = add_generated_secrets(settings), min(seconds / 3600 + SPARE_HOURS, LONGEST_HOURS)
    device, operator, viewer = (
        issue_token(settings, subject=f"demo-{name}", role=role, hours=hours)
        for name, role in (("gateway", "device"), ("crew", "operator"), ("viewer", "viewer"))
    )
    return Tokens(device, operator, viewer)


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
