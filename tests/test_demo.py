"""The demonstration, over real HTTP: what it counts is checked against the database and against models of our own."""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import make_server

from api.tokens import issue_token
from commands import main
from commands.demo import add_arguments, waits_for_people
from demo.client import PATIENCE_SECONDS, Pause, ServiceClient, ServiceRefused
from demo.own_site import open_own_site
from demo.plant import PLANT, SHIFT, plan_shift
from demo.replay import CrewStep, Device, Event, Measured, Outcome, Pace, Player, make_report, plan_replay
from demo.survey import classify_clock, read_survey
from demo.telemetry import Crossing, Limits, Reading, Telemetry, read_telemetry, show_number
from foundation.clock import Clock, FrozenClock
from foundation.errors import SettingsError, Unavailable
from foundation.processes import await_condition
from foundation.secrets_file import add_generated_secrets
from foundation.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
MACHINE_TEMPERATURE = ROOT / "../shared/data/telemetry/machine_temperature.csv"
NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
WINDOW = timedelta(seconds=300)
HIGH, LOW = 100.0, 60.0
# One group that goes through both sides, a second one right after the window, a step back in time, normal values.
SMALL_FILE = """timestamp,value
2014-01-01 00:00:00,80
2014-01-01 00:05:00,101
2014-01-01 00:10:00,102.5
2014-01-01 00:15:00,59
2014-01-01 00:20:00,100
2014-01-01 00:25:00,60
2014-01-01 00:20:00,58.25
2014-01-01 00:25:00.000001,130
2014-01-01 00:30:00,130
2014-01-01 00:35:00.5,120
2014-01-01 00:10:00,20
"""

Sql = Callable[..., list[tuple[Any, ...]]]


def count_expected(path: Path, high: float, low: float, rows: int | None = None) -> dict[str, int]:
    """Return the counts by the contract's rules for one device, metric and severity, apart from the product."""
    counts = {"Readings": 0, "Alerts": 0, "Groups": 0, "Duplicates": 0}
    last_at: datetime | None = None
    sides: set[str] = set()
    with path.open(encoding="utf-8", newline="") as file:
        for row in list(csv.DictReader(file))[:rows]:
            at, value = datetime.fromisoformat(row["timestamp"]), float(row["value"])
            counts["Readings"] += 1
            side = "above" if value > high else "below" if value < low else ""
            if not side:
                continue
            counts["Alerts"] += 1
            if last_at is None or at > last_at + WINDOW:
                counts["Groups"] += 1
                sides, last_at = set(), at
            counts["Duplicates"] += side in sides
            sides.add(side)
            last_at = max(last_at, at)
    return counts


@contextmanager
def serve(app: Callable[..., Any], port: int = 0) -> Iterator[int]:
    """Serve the app over HTTP on loopback and yield the port."""
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def service(app: Flask) -> Iterator[str]:
    """The address of the app, served over HTTP."""
    with serve(app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def demo(
    service: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``demo`` beside the service and return the exit code, standard output and standard error."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    monkeypatch.setenv("JWT_SECRET", settings.jwt_secret)
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("HOST", "127.0.0.1")
    monkeypatch.setenv("PORT", service.rpartition(":")[2])
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> tuple[int, str, str]:
        code = main(["demo", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    """The small file."""
    path = tmp_path / "oven 3.csv"
    path.write_text(SMALL_FILE, encoding="utf-8")
    return path


@pytest.fixture
def make_client(service: str, token_for: Callable[..., str]) -> Iterator[Callable[..., ServiceClient]]:
    """Return a client for a role, at the service unless another address is given."""
    made: list[ServiceClient] = []

    def make(role: str, url: str = service, pause: Pause = lambda _: False) -> ServiceClient:
        made.append(ServiceClient(url, token_for(role), pause))
        return made[-1]

    yield make
    for client in made:
        client.close()


def play(device: ServiceClient, events: Iterable[Event], crew: ServiceClient | None = None) -> Outcome:
    """Play events as fast as they go."""
    clock = Clock()
    return Player(device, crew or device, Pace(clock, lambda _: False, 0), clock, lambda event, done: None).play(events)


def make_device(**fields: Any) -> Device:
    """Return a device that no other test knows."""
    given_fields = {"device_id": str(uuid.uuid4()), "name": "oven", "metric": "temperature", "severity": "high"}
    return Device(**{**given_fields, "limits": Limits(HIGH, LOW), **fields})


def plan_hot(device: Device, count: int) -> list[Measured]:
    """Return ``count`` readings above the limit, a minute apart."""
    readings = tuple(Reading(n + 2, NOW - timedelta(days=1) + timedelta(minutes=n), 101.0 + n) for n in range(count))
    return list(plan_replay(Telemetry(readings, ()), device))


def read_rows(output: str) -> dict[str, tuple[str, str]]:
    """Return the rows of the table that was printed: the number, and what stands beside it."""
    rows = re.findall(r"^│ (.+?) *│ *(.+?) │ (.*?) *│$", output, re.MULTILINE)
    return {name: (number, remark) for name, number, remark in rows}


def read_counts(output: str) -> dict[str, int]:
    """Return the counts in the table that was printed."""
    rows = read_rows(output)
    return {name: int(rows[name][0].replace(",", "")) for name in ("Readings", "Alerts", "Groups", "Duplicates")}


def test_file_is_read_in_order_and_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        "\ufeffStation, Value ,TIMESTAMP\na,1.5,2014-01-01 00:05:00\n\nb,-2e1,2014-01-01T02:00:00+01:00\n",
        encoding="utf-8",
    )
    read = read_telemetry(path, NOW)
    assert read.readings == (
        Reading(2, datetime(2014, 1, 1, 0, 5, tzinfo=UTC), 1.5),
        Reading(4, datetime(2014, 1, 1, 1, 0, tzinfo=UTC), -20.0),
    )
    assert read.faults == ()


@given(
    st.lists(
        st.tuples(
            st.datetimes(NOW.replace(year=1, tzinfo=None), NOW.replace(tzinfo=None)),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
    )
)
def test_every_reading_that_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[datetime, float]]
) -> None:
    path = tmp_path_factory.mktemp("telemetry") / "x.csv"
    lines = [f"{at},{value!r}" for at, value in rows]
    path.write_text("\n".join(["timestamp,value", *lines]), encoding="utf-8")
    read = read_telemetry(path, NOW)
    assert [(reading.at.replace(tzinfo=None), reading.value) for reading in read.readings] == rows
    assert read.faults == ()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("yesterday,80", "'yesterday' is no time"),
        ("1412100100000,80", "'1412100100000' is no time"),
        ("2014-02-30 00:00:00,80", "is no time"),
        ("0001-01-01 00:00:00+14:00,80", "is no time"),
        (",80", "'' is no time"),
        ("2014-01-01 00:00:00", "has too few columns"),
        ("2014-01-01 00:00:00,", "'' is no finite number"),
        ("2014-01-01 00:00:00,warm", "'warm' is no finite number"),
        ("2014-01-01 00:00:00,nan", "is no finite number"),
        ("2014-01-01 00:00:00,inf", "is no finite number"),
        ("2026-03-02 08:05:00.000001,80", "lies in the future"),
    ],
)
def test_bad_rows_are_counted_with_their_lines(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"timestamp,value\n2014-01-01 00:00:00,1\n{row}\n2026-03-02 08:05:00,2\n", encoding="utf-8")
    read = read_telemetry(path, NOW)
    assert [reading.line for reading in read.readings] == [2, 4]
    assert [fault.line for fault in read.faults] == [3]
    assert reason in read.faults[0].message


def test_bad_rows_are_shown(demo: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("timestamp,value\n2014-01-01 00:00:00,1\nx,2\ny,3\n", encoding="utf-8")
    code, output, _ = demo("--csv", path, "--high", 5)
    assert code == 0
    assert read_rows(output)["Bad rows"] == ("2", "passed over; line 3: 'x' is no time like 2026-03-02 08:00:00")
    assert read_counts(output) == {"Readings": 1, "Alerts": 0, "Groups": 0, "Duplicates": 0}
    assert read_rows(output)["Noise reduction"][0] == "0.0 %"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "does not begin with a header that names timestamp and value"),
        (b"2014-01-01 00:00:00,80\n", "does not begin with a header"),
        (b"timestamp,temperature\n2014-01-01 00:00:00,80\n", "does not begin with a header"),
        (b"timestamp,value\n", "holds no reading"),
        (b"timestamp,value\nx,1\n", "holds no reading; line 2: 'x' is no time"),
        (b"timestamp,value\n2014-01-01 00:00:00,\xff\n", "is no CSV file in UTF-8"),
    ],
)
def test_useless_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str
) -> None:
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_bytes(content)
    assert main(["demo", "--csv", str(path), "--high", "5"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert f"--csv: {path} {reason}" in captured.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--csv", "x.csv"), "--high, --low: give at least one, or nothing is ever an alert"),
        (("--csv", "x.csv", "--high", "5", "--low", "5"), "--low: must be below --high (5 is not below 5)"),
        (("--csv", "x.csv", "--high", "-1.5", "--low", "2"), "--low: must be below --high (2 is not below -1.5)"),
        (("--high", "5"), "--high: goes with --csv"),
        (("--device-id", str(uuid.UUID(int=5))), "--device-id: goes with --csv"),
        (("--token", "x"), "--token: is for a service at --url; the one of this machine needs none"),
        (("--url", "localhost:5002"), "--url: must begin with http:// or https://, not 'localhost:5002'"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(
    capsys: pytest.CaptureFixture[str], words: Sequence[str], line: str
) -> None:
    assert main(["demo", *words]) == 1
    assert capsys.readouterr().err == f"advanced-alerting: {line}\n"


@pytest.mark.parametrize(
    "words", [("--high", "nan"), ("--low", "cold"), ("--speed", "-1"), ("--device-id", "7"), ("--severity", "bad")]
)
def test_argument_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", *words])
    assert end.value.code == 2
    assert f"argument {words[0]}" in capsys.readouterr().err


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_only_what_is_outside_crosses(first: float, second: float, value: float) -> None:
    low, high = sorted((first, second))
    crossing = Limits(high, low).find_crossing(value)
    assert (crossing is None) == (low <= value <= high)
    assert Limits(high).find_crossing(value) == (Crossing("above", high) if value > high else None)
    assert Limits(low=low).find_crossing(value) == (Crossing("below", low) if value < low else None)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_shown_unrounded(value: float) -> None:
    assert float(show_number(value)) == value


def test_message_is_the_same_for_a_side() -> None:
    device = make_device()
    readings = tuple(Reading(2, NOW, value) for value in (101.0, 1e9, 59.0, 80.0, -3.5))
    reports = [event.report for event in plan_replay(Telemetry(readings, ()), device)]
    assert [report and report["message"] for report in reports] == [
        "temperature above 100",
        "temperature above 100",
        "temperature below 60",
        None,
        "temperature below 60",
    ]


def test_small_file_counts_as_the_model_does(
    demo: Callable[..., tuple[int, str, str]], small_file: Path, sql: Sql
) -> None:
    code, output, _ = demo("--csv", small_file, "--high", HIGH, "--low", LOW)
    assert code == 0
    # Three groups: up to 00:20, from 00:25:00.000001 (joined by 00:30), and from 00:35:00.5.
    assert count_expected(small_file, HIGH, LOW) == {"Readings": 11, "Alerts": 8, "Groups": 3, "Duplicates": 2 + 1}
    assert read_counts(output) == count_expected(small_file, HIGH, LOW)
    assert read_rows(output)["Noise reduction"][0] == "62.5 %"
    assert read_rows(output)["State new"][0] == "8"
    assert read_rows(output)["SLA to acknowledge"] == ("5", "0 met, 5 open, 0 at risk, 0 breached")
    assert sql(
        "SELECT count(*), count(DISTINCT group_id), count(duplicate_of), count(DISTINCT device_id) FROM alerts"
    ) == [(8, 3, 3, 1)]


def test_alert_carries_what_the_file_says(
    demo: Callable[..., tuple[int, str, str]], small_file: Path, make_client: Callable[..., ServiceClient]
) -> None:
    device_id = str(uuid.uuid4())
    options = ("--device-id", device_id, "--metric", "temperature", "--severity", "critical")
    assert demo("--csv", small_file, "--high", 125, *options)[0] == 0
    newest, oldest = make_client("viewer").list_alerts(device_id)
    assert oldest["occurred_at"] == "2014-01-01T00:25:00.000001+00:00"
    assert newest["occurred_at"] == "2014-01-01T00:30:00+00:00"
    assert newest["message"] == "temperature above 125"
    assert (newest["metric"], newest["severity"], newest["source"]) == ("temperature", "critical", "demo")
    assert newest["metadata"] == {"device_name": "oven 3", "value": 130.0, "limit": 125.0, "line": 10}
    assert newest["is_duplicate"]


def test_real_machine_counts_as_the_model_does(
    demo: Callable[..., tuple[int, str, str]], tmp_path: Path, sql: Sql
) -> None:
    rows, high, low = 3000, 97.0, 55.0
    path = tmp_path / "machine.csv"
    path.write_text("".join(MACHINE_TEMPERATURE.read_text(encoding="utf-8").splitlines(keepends=True)[: rows + 1]))
    code, output, _ = demo("--csv", path, "--high", high, "--low", low)
    expected = count_expected(MACHINE_TEMPERATURE, high, low, rows)
    assert code == 0
    assert expected["Readings"] == rows
    assert expected["Groups"] > 1
    assert expected["Duplicates"] > 1
    assert read_counts(output) == expected
    assert sql("SELECT count(*), count(DISTINCT group_id), count(duplicate_of) FROM alerts") == [
        (expected["Alerts"], expected["Groups"], expected["Duplicates"])
    ]


def test_second_run_is_a_device_of_its_own(
    demo: Callable[..., tuple[int, str, str]], small_file: Path, sql: Sql
) -> None:
    for _ in range(2):
        _, output, _ = demo("--csv", small_file, "--high", HIGH)
        assert read_counts(output) == count_expected(small_file, HIGH, -1e9)
    assert sql("SELECT count(*), count(DISTINCT device_id) FROM alerts") == [(10, 2)]


def test_same_device_again_doubles_nothing(
    demo: Callable[..., tuple[int, str, str]], small_file: Path, sql: Sql
) -> None:
    options = ("--csv", small_file, "--high", HIGH, "--low", LOW, "--device-id", uuid.uuid4())
    demo(*options)
    code, output, _ = demo(*options)
    assert code == 0
    assert read_counts(output) == count_expected(small_file, HIGH, LOW)
    assert read_rows(output)["Alerts"][1].endswith("; 8 were recorded before")
    assert sql("SELECT count(*) FROM alerts") == [(8,)]


def test_lost_answers_double_nothing(app: Flask, make_client: Callable[..., ServiceClient], sql: Sql) -> None:
    seen: set[str] = set()

    def lossy_gateway(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass every request on; what came of a first one is lost on the way back."""
        key = environ["HTTP_IDEMPOTENCY_KEY"]
        if key in seen:
            return app(environ, start_response)
        seen.add(key)
        list(app(environ, lambda status, headers, error=None: lambda data: None))
        start_response("504 Gateway Timeout", [("Content-Length", "0")])
        return []

    with serve(lossy_gateway) as port:
        client = make_client("device", f"http://127.0.0.1:{port}")
        outcome = play(client, plan_hot(make_device(), 5))
    assert (len(outcome.alert_ids), outcome.duplicates, outcome.replayed, client.retries) == (5, 4, 5, 5)
    assert sql("SELECT count(*) FROM alerts") == [(5,)]


def test_outage_loses_nothing(app: Flask, make_client: Callable[..., ServiceClient], sql: Sql) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    first, second = serve(app, port), serve(app, port)
    pauses: list[float] = []

    def await_return(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 3:
            second.__enter__()
        return False

    def break_off(events: Sequence[Measured]) -> Iterator[Measured]:
        """Yield the events, and take the service away before the third."""
        for number, event in enumerate(events):
            if number == 2:
                first.__exit__(None, None, None)
            yield event

    first.__enter__()
    client = make_client("device", f"http://127.0.0.1:{port}", await_return)
    try:
        outcome = play(client, break_off(plan_hot(make_device(), 5)))
    finally:
        second.__exit__(None, None, None)
    assert pauses == sorted(pauses)
    assert len(pauses) == client.retries == 3
    assert (len(outcome.alert_ids), len(outcome.group_ids), outcome.duplicates) == (5, 1, 4)
    assert sql("SELECT count(*) FROM alerts") == [(5,)]


def test_patience_ends(make_client: Callable[..., ServiceClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    pauses: list[float] = []

    def note_pause(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    client = make_client("device", f"http://127.0.0.1:{port}", note_pause)
    with pytest.raises(Unavailable, match="did not come back within 120 s: no answer"):
        play(client, plan_hot(make_device(), 1))
    assert PATIENCE_SECONDS / 2 < sum(pauses) <= PATIENCE_SECONDS


def test_retry_after_is_kept(make_client: Callable[..., ServiceClient]) -> None:
    pauses: list[float] = []

    def busy(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if pauses:
            start_response("201 Created", [("Content-Type", "application/json")])
            return [b'{"alert_id": "1", "group_id": "1", "is_duplicate": false}']
        start_response("429 Too Many Requests", [("Retry-After", "17")])
        return []

    def note_pause(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    with serve(busy) as port:
        outcome = play(make_client("device", f"http://127.0.0.1:{port}", note_pause), plan_hot(make_device(), 1))
    assert pauses == [17]
    assert outcome.alert_ids == {"1"}


def test_refusal_ends_with_the_words_of_the_service(
    demo: Callable[..., tuple[int, str, str]], small_file: Path, sql: Sql
) -> None:
    code, output, error = demo("--csv", small_file, "--high", HIGH, "--metric", "m" * 201)
    assert code == 1
    assert "Readings" not in output
    assert error.count("\n") == 1
    assert re.fullmatch(r"advanced-alerting: line 3: .*metric: .*200 .*\n", error)
    assert sql("SELECT count(*) FROM alerts") == [(0,)]


def test_service_with_another_secret_is_explained(
    demo: Callable[..., tuple[int, str, str]], small_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JWT_SECRET", "another secret than that of the service, long enough")
    code, _, error = demo("--csv", small_file, "--high", HIGH)
    assert code == 1
    assert "line 3: the token is not valid; does the service use another JWT_SECRET or DATA_DIR?" in error


def test_what_is_no_alerting_service_is_refused(make_client: Callable[..., ServiceClient]) -> None:
    def website(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<p>Welcome</p>"]

    with serve(website) as port, pytest.raises(ServiceRefused, match="does not answer as an alerting service"):
        play(make_client("device", f"http://127.0.0.1:{port}"), plan_hot(make_device(), 1))


def test_given_token_that_may_not_read_plays_all_the_same(
    demo: Callable[..., tuple[int, str, str]], small_file: Path, service: str, token_for: Callable[..., str]
) -> None:
    code, output, _ = demo("--csv", small_file, "--high", HIGH, "--url", f"{service}/", "--token", token_for("device"))
    assert code == 0
    assert read_counts(output) == count_expected(small_file, HIGH, -1e9)
    assert not [name for name in read_rows(output) if name.startswith(("State", "SLA"))]


def test_address_without_a_service_is_one_line(small_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert main(["demo", "--csv", str(small_file), "--high", "1", "--url", f"http://127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err == f"advanced-alerting: --url: nothing answers at http://127.0.0.1:{port}\n"


def test_stop_keeps_what_was_done(make_client: Callable[..., ServiceClient], sql: Sql) -> None:
    pauses: list[float] = []

    def stop_at_fourth(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 4

    client, clock = make_client("device"), Clock()
    player = Player(client, client, Pace(clock, stop_at_fourth, 0), clock, lambda event, done: None)
    outcome = player.play(plan_hot(make_device(), 9))
    assert outcome.is_stopped
    assert not outcome.is_whole
    assert (outcome.readings, len(outcome.alert_ids)) == (3, 3)
    assert sql("SELECT count(*) FROM alerts") == [(3,)]


@given(st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=20), st.sampled_from([0.5, 1.0, 60.0]))
def test_pace_keeps_the_rhythm_of_the_readings(offsets: list[float], speed: float) -> None:
    clock = FrozenClock(NOW)

    def pause(seconds: float) -> bool:
        # Now and then it ends early, as a signal makes it.
        clock.advance(timedelta(seconds=seconds if seconds < 1 else seconds / 2))
        return False

    pace, latest = Pace(clock, pause, speed), 0.0
    for offset in offsets:
        pace.wait_for(NOW + timedelta(seconds=offset))
        latest = max(latest, (offset - offsets[0]) / speed)
        assert (clock.now() - NOW).total_seconds() == pytest.approx(latest, abs=2e-3)


def test_plant_is_the_same_every_time() -> None:
    device_ids = {machine.name: str(uuid.uuid4()) for machine in PLANT}
    events = plan_shift(device_ids, NOW)
    assert events == plan_shift(device_ids, NOW)
    assert all(before.at <= after.at for before, after in pairwise(events))
    assert all(NOW - SHIFT <= event.at < NOW for event in events)
    reports = [event.report for event in events if isinstance(event, Measured) and event.report]
    assert {report["device_id"] for report in reports} == set(device_ids.values())
    assert {report["severity"] for report in reports} == {"critical", "high", "medium", "low"}
    assert all(report["escalate"] is False for report in reports)
    escalating = plan_shift(device_ids, NOW, escalate=True)
    assert all(event.report["escalate"] is True for event in escalating if isinstance(event, Measured) and event.report)
    assert all(sum(isinstance(e, CrewStep) and e.device_id == d for e in events) for d in device_ids.values())


def test_plant_comes_alive(
    demo: Callable[..., tuple[int, str, str]], service: str, sql: Sql, clock: FrozenClock
) -> None:
    # The shift ends at the wall clock's now, and the service refuses what is ahead of its own.
    clock.advance(datetime.now(UTC) - clock.now())
    sql(
        "INSERT INTO escalation_policies (name, rules) VALUES ('Everything', %s)",
        '{"severity_match": ["critical", "high", "medium", "low"], "tiers": '
        '[{"delay_minutes": 0, "channels": ["email"], "recipients": ["crew@example.com"]}]}',
    )
    code, output, _ = demo("--speed", 0, "--url", service)
    assert code == 0
    # Somebody else's service: its people are left in peace, its policies as they are.
    assert sql("SELECT count(*) FROM escalations") == [(0,)]
    assert sql("SELECT name FROM escalation_policies") == [("Everything",)]
    assert not [name for name in read_rows(output) if name.startswith("Pages")]
    rows, counts = read_rows(output), read_counts(output)
    assert sql(
        "SELECT count(*), count(DISTINCT group_id), count(duplicate_of), count(DISTINCT device_id) FROM alerts"
    ) == [(counts["Alerts"], counts["Groups"], counts["Duplicates"], len(PLANT))]
    states: dict[str, int] = dict(sql("SELECT state::text, count(*) FROM alerts GROUP BY state"))
    assert states.keys() == {"new", "acknowledged", "investigating", "resolved"}
    assert {state: int(rows[f"State {state}"][0]) for state in states} == states
    clocks = (
        "SELECT count(*) FILTER (WHERE {0} IS NOT NULL), count(*) FILTER (WHERE {0} IS NULL) "
        "FROM alert_slas WHERE NOT is_duplicate"
    )
    for name, column in (("SLA to acknowledge", "actual_tta"), ("SLA to resolve", "actual_ttr")):
        [(met, still_open)] = sql(clocks.format(column))
        assert met > 0
        assert still_open > 0
        assert rows[name][1] == f"{met} met, {still_open} open, 0 at risk, 0 breached"
    assert {name for (name,) in sql("SELECT DISTINCT metadata ->> 'device_name' FROM alerts")} == {
        m.name for m in PLANT
    }
    assert "the crew: acknowledged, “seen, watching it”" in output


def test_survey_follows_the_clocks(
    make_client: Callable[..., ServiceClient], clock: FrozenClock, act: Callable[..., Any]
) -> None:
    device = make_device(severity="critical")
    outcomes = []
    for number in range(4):
        # Messages differ, so that none is a duplicate.
        report = make_report(device, Crossing("above", float(number)), 5.0, NOW, {})
        outcomes.append(play(make_client("device"), [Measured(NOW, device.device_id, str(number), report)]))
        clock.advance(timedelta(minutes=2))
    play(make_client("device"), plan_hot(device, 3))
    # Ages are 8, 6, 4 and 2 minutes; 5 are given to acknowledge, and from 3:45 on it is at risk.
    alert_ids = {alert_id for outcome in outcomes for alert_id in outcome.alert_ids}
    assert act(max(alert_ids, key=int), "acknowledge").status_code == 200
    survey = read_survey(make_client("viewer"), [device.device_id], alert_ids)
    assert survey.acknowledge == Counter({"breached": 2, "at risk": 1, "met": 1})
    assert survey.resolve == Counter({"open": 4})
    assert survey.states == Counter({"new": 3, "acknowledged": 1})
    assert survey.missing == 0
    assert read_survey(make_client("viewer"), [device.device_id], {*alert_ids, "999999"}).missing == 1


def test_duplicates_have_no_clock_of_their_own(make_client: Callable[..., ServiceClient]) -> None:
    device = make_device()
    outcome = play(make_client("device"), plan_hot(device, 201))
    survey = read_survey(make_client("viewer"), [device.device_id], outcome.alert_ids)
    # More than a page of the list.
    assert (survey.states, survey.missing) == (Counter({"new": 201}), 0)
    assert (survey.acknowledge, survey.resolve) == (Counter({"open": 1}), Counter({"open": 1}))


def test_late_acknowledgement_is_a_breach() -> None:
    sla = {"tta_breached": True, "actual_tta": 9.5, "tta_at_risk": False}
    assert classify_clock(sla, "tta") == "breached"


@contextmanager
def run_at_terminal(environment: dict[str, str], folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``demo`` with a terminal for its input, and see to it that it ends."""
    keyboard, terminal = os.openpty()
    command = [sys.executable, str(ROOT / "app_advanced.py"), "demo", *words]
    with subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        try:
            yield demo
        finally:
            demo.terminate()
            os.close(keyboard)
            os.close(terminal)


def read_until(demo: subprocess.Popen[str], last_line: str) -> str:
    """Return what it prints up to a line that begins so."""
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if line.startswith(last_line):
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.fixture
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files whose path is as short as usual: the database's socket has to fit into it."""
    with tempfile.TemporaryDirectory(prefix="aa-") as folder:
        yield Path(folder)


def test_plant_pages_an_inbox_of_its_own(tmp_path: Path, temporary_folder: Path) -> None:
    # None of this must be used: a database and a mail server of somebody's.
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://nowhere.invalid/real\nJWT_SECRET=" + "x" * 40)
    environment = {
        **os.environ,
        "TMPDIR": str(temporary_folder),
        "SMTP_URL": "smtp://nowhere.invalid",
        "EMAIL_FROM": "alerts@nowhere.invalid",
        "COLUMNS": "200",
    }
    with run_at_terminal(environment, tmp_path, "--speed", "0") as demo:
        output = read_until(demo, "Ctrl-C stops it all")
        assert {"Pages by e-mail", "Pages by SMS"} <= read_rows(output).keys()
        [page] = set(re.findall(r"^The pages +(http\S+)$", output, re.MULTILINE))
        assert f"Its pages arrive at {page}\n" in output

        def read_messages() -> str:
            return requests.get(f"{page}/messages", timeout=20).text

        # The press's last excursion and the compressor's fall are in nobody's hands.
        for device in ("press", "compressor"):
            pattern = rf"(?s)Engineer on call</b>.{{0,200}}(HIGH|CRITICAL) {device}: .* Alert \d+"
            assert await_condition(lambda pattern=pattern: bool(re.search(pattern, read_messages())), 30)
        assert await_condition(lambda: 'data-status="queued"' not in read_messages(), 30)
        [address] = re.findall(r"^    (http\S+/acknowledge)$", output, re.MULTILINE)
        [data_dir] = re.findall(r"DATA_DIR=(\S+)", output)
        settings = Settings.model_construct(data_dir=Path(data_dir))
        token = issue_token(add_generated_secrets(settings), subject="tester", role="operator", hours=1)
        answer = requests.post(address, headers={"Authorization": f"Bearer {token}"}, timeout=20)
        assert (answer.status_code, answer.json()["state"]) == (200, "acknowledged")
        demo.send_signal(signal.SIGINT)
        assert demo.wait() == 0
    with pytest.raises(requests.ConnectionError):
        read_messages()
    assert list(temporary_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "is_terminal", "waits"),
    [
        ((), True, True),
        ((), False, False),
        (("--no-wait",), True, False),
        (("--keep",), False, True),
    ],
)
def test_plant_waits_where_somebody_looks(words: Sequence[str], is_terminal: bool, waits: bool) -> None:
    parser = ArgumentParser()
    add_arguments(parser)
    assert waits_for_people(parser.parse_args(words), is_terminal=is_terminal) == waits


def test_own_service_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_FORMAT", "morse")
    said: list[str] = []
    with (
        pytest.raises(SettingsError, match="its own words stand above"),
        open_own_site(Clock(), threading.Event().wait, said.append),
    ):
        pytest.fail("it runs")
    assert [line for line in said if line.startswith("advanced-alerting: LOG_FORMAT")]


def test_service_is_started_and_stopped(settings: Settings, small_file: Path, sql: Sql) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "JWT_SECRET": settings.jwt_secret,
        "DATA_DIR": str(settings.data_dir),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WEB_WORKERS": "1",
        "COLUMNS": "200",
    }
    command = [
        sys.executable,
        str(ROOT / "app_advanced.py"),
        "demo",
        "--csv",
        str(small_file),
        "--high",
        "100",
        "--low",
        "60",
    ]
    done = subprocess.run(command, env=environment, cwd=settings.data_dir, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_counts(done.stdout) == count_expected(small_file, HIGH, LOW)
    assert f"Nothing answers at http://127.0.0.1:{port}: starting the service." in done.stdout
    # What the service says at its first start is not swallowed.
    assert "Password" in done.stdout
    assert "The service stops now" in done.stdout
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert sql("SELECT count(*) FROM alerts") == [(8,)]
