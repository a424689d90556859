"""``demo --ml``: a file through the models of a real service, its tables and its chart, with labels and without."""

from __future__ import annotations

import json
import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from commands import main
from demo.chart import ChartText, Scale, draw_chart
from demo.detection import AlertGroup, RaisedAlert, Verdict, gather_groups, judge
from demo.labels import Window, read_windows
from demo.telemetry import Reading
from foundation.errors import SettingsError
from tests.ml_streams import STEP, STREAM_START, make_times, make_values
from tests.test_demo import Sql, demo, read_rows, service

__all__ = ["demo", "service"]

MACHINE_TEMPERATURE = Path(__file__).resolve().parent.parent / "../shared/data/telemetry/machine_temperature.csv"
ROWS = 4000
TRAINING_ROWS = 600
FAULTS = {range(2000, 2030): 30.0, range(3400, 3430): 200.0}
SVG = "{http://www.w3.org/2000/svg}"

Demo = Callable[..., tuple[int, str, str]]


def show_time(row: int) -> str:
    """Return the time of a row as files of readings have it."""
    return f"{STREAM_START + STEP * row:%Y-%m-%d %H:%M:%S}"


def make_window(first: int, last: int) -> list[str]:
    return [show_time(first), show_time(last)]


@pytest.fixture
def sensor_file(tmp_path: Path) -> Path:
    """A fortnight of a sensor with two clear faults; a row has no value."""
    values = make_values(ROWS)
    for fault, size in FAULTS.items():
        for row in fault:
            values[row] += size
    lines = [f"{show_time(row)},{value:.4f}" for row, value in enumerate(values)]
    lines.insert(1500, f"{show_time(1500)},")
    path = tmp_path / "oven 3.csv"
    path.write_text("\n".join(["timestamp,value", *lines, ""]), encoding="utf-8")
    return path


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    """A window about the first fault, one where nothing happens, one among the training rows; not the second fault."""
    path = tmp_path / "labels.json"
    windows = [make_window(2600, 2700), make_window(1980, 2080), make_window(100, 150)]
    path.write_text(json.dumps({"somewhere/oven 3.csv": windows}), encoding="utf-8")
    return path


def find_all(chart: Path, kind: str) -> list[ET.Element]:
    """Return the elements of a chart that have a class."""
    elements = ET.parse(chart).getroot().iter()
    return [element for element in elements if kind in element.get("class", "").split()]


def test_anomalies_of_a_file_become_alerts_and_a_chart(
    demo: Demo, sensor_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: Sql
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, _ = demo("--ml", "--csv", sensor_file)
    rows = read_rows(output)
    assert code == 0
    [(alerts, groups, devices, oldest)] = sql(
        "SELECT count(*), count(DISTINCT group_id), count(DISTINCT device_id), min(occurred_at) FROM alerts"
    )
    assert devices == 1
    assert groups >= len(FAULTS)
    assert (rows["Training rows"][0], rows["Readings"][0]) == (str(TRAINING_ROWS), "3,400")
    assert rows["Bad rows"] == ("1", "passed over; line 1502: '' is no finite number")
    assert (rows["Alerts"][0], rows["Groups"][0], rows["Escalations"][0]) == (str(alerts), str(groups), "0")
    assert int(rows["Anomalies"][0]) >= alerts
    assert STREAM_START + STEP * TRAINING_ROWS <= oldest <= STREAM_START + STEP * 2030
    assert "Faults found" not in rows
    # Every reading behind the training rows was given to predict, once and in order.
    assert sql("SELECT last_number FROM ml_series") == [(ROWS - TRAINING_ROWS,)]
    chart = tmp_path / "oven 3-anomalies.svg"
    assert "Drawn in oven 3-anomalies.svg" in output
    assert len(find_all(chart, "group")) == groups
    assert not find_all(chart, "window")
    assert not find_all(chart, "false")


def test_labels_say_what_was_found(demo: Demo, sensor_file: Path, labels_file: Path, tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    code, output, _ = demo("--ml", "--csv", sensor_file, "--labels", labels_file, "--svg", chart)
    rows = read_rows(output)
    groups = int(rows["Groups"][0])
    assert code == 0
    assert rows["Faults found"][0] == "1 of 2"
    assert rows["Faults missed"] == ("1", f"from {show_time(2600)[:16]}")
    # A fault may be two groups, its beginning and its end: the second is neither found nor false.
    false = int(rows["False alerts"][0])
    assert false == groups - 1 - output.count("the same fault again") >= 1
    assert len(re.findall(r"false alert *$", output, re.MULTILINE)) == false
    assert f"fault from {show_time(1980)[:16]}" in output
    assert [len(find_all(chart, kind)) for kind in ("group", "training")] == [groups, 2]
    # A key of each kind stands in the legend.
    assert [len(find_all(chart, kind)) for kind in ("found", "missed", "false")] == [1 + 1, 1 + 1, false + 1]


def test_a_second_run_repeats_the_first(demo: Demo, sensor_file: Path, tmp_path: Path, sql: Sql) -> None:
    device_id = str(uuid.uuid4())
    counts = []
    for more in ((), (), ("--device-id", device_id), ("--device-id", device_id)):
        code, output, _ = demo("--ml", "--csv", sensor_file, "--svg", tmp_path / "chart.svg", *more)
        assert code == 0
        counts.append(read_rows(output)["Anomalies"][0])
    assert len(set(counts)) == 1
    # A device that is given learns a new version; without one every run is a new device.
    assert sorted(row[0] for row in sql("SELECT last_version FROM ml_series")) == [1, 1, 2]


def test_the_faults_of_a_real_machine_are_announced(demo: Demo, tmp_path: Path) -> None:
    """The first weeks of the machine: the shutdown of 16 December 2013 lies in the second of two windows."""
    path = tmp_path / "machine.csv"
    lines = MACHINE_TEMPERATURE.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:6001]), encoding="utf-8")
    labels = tmp_path / "labels.json"
    windows = [
        ["2013-12-10 06:25:00", "2013-12-12 05:35:00"],
        ["2013-12-15 17:50:00", "2013-12-17 17:00:00"],
    ]
    labels.write_text(json.dumps({"machine.csv": windows}), encoding="utf-8")
    code, output, _ = demo("--ml", "--csv", path, "--labels", labels, "--svg", tmp_path / "chart.svg")
    assert code == 0
    assert "fault from 2013-12-15 17:50" in output
    assert int(read_rows(output)["False alerts"][0]) <= 1


# --- labels


def write_json(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_windows_are_found_by_name_or_by_content(tmp_path: Path) -> None:
    readings = tmp_path / "short.csv"
    readings.write_text("timestamp,value\n", encoding="utf-8")
    (tmp_path / "press.csv").write_text("timestamp,value\n", encoding="utf-8")
    (tmp_path / "oven.csv").write_text("timestamp,value\n1,2\n", encoding="utf-8")
    later, earlier = ["2026-01-02", "2026-01-03T00:00:00+01:00"], ["2026-01-01 08:00:00", "2026-01-01 08:00:00"]
    expected = (
        Window(datetime(2026, 1, 1, 8, tzinfo=UTC), datetime(2026, 1, 1, 8, tzinfo=UTC)),
        Window(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, 23, tzinfo=UTC)),
    )
    by_name = write_json(tmp_path / "by_name.json", {"line/short.csv": [later, earlier], "oven.csv": []})
    assert read_windows(by_name, readings) == expected
    series = [{"path": "oven.csv", "windows": []}, {"path": "press.csv", "windows": [later, earlier]}]
    manifest = write_json(tmp_path / "manifest.json", {"series": series})
    assert read_windows(manifest, tmp_path / "press.csv") == expected
    assert read_windows(manifest, readings) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no manifest and no object of windows by file name"),
        ("[]", "is no manifest and no object of windows by file name"),
        ('{"series": [{"windows": []}]}', "is no manifest and no object of windows by file name"),
        ('{"x.csv": [["2026-01-01"]]}', "is no manifest and no object of windows by file name"),
        ('{"x.csv": [["2026-01-02", "2026-01-01"]]}', "is no manifest and no object of windows by file name"),
        ('{"x.csv": [[1, 2]]}', "is no manifest and no object of windows by file name"),
        ('{"y.csv": []}', "says nothing of x.csv"),
        ('{"series": []}', "says nothing of x.csv"),
    ],
)
def test_useless_labels_are_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=re.escape(f"--labels: {path} {reason}")):
        read_windows(path, tmp_path / "x.csv")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_windows(tmp_path / "nowhere.json", tmp_path / "x.csv")


# --- options


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--ml",), "--ml: goes with --csv"),
        (("--csv", "x.csv", "--high", "1", "--labels", "y.json"), "--labels: goes with --ml"),
        (("--csv", "x.csv", "--high", "1", "--svg", "y.svg"), "--svg: goes with --ml"),
        (("--ml", "--csv", "x.csv", "--high", "1"), "--high: does not go with --ml"),
        (("--ml", "--csv", "x.csv", "--speed", "0"), "--speed: does not go with --ml"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    assert main(["demo", *words]) == 1
    assert capsys.readouterr().err == f"advanced-alerting: {line}\n"


def test_a_file_too_short_for_a_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "short.csv"
    path.write_text("".join(["timestamp,value\n", *(f"{show_time(row)},1\n" for row in range(200))]), encoding="utf-8")
    assert main(["demo", "--ml", "--csv", str(path)]) == 1
    expected = f"advanced-alerting: --ml: {path} is too short: a model raises no alert before 200 rows\n"
    assert capsys.readouterr().err == expected


def test_a_chart_that_cannot_be_written_is_one_line(demo: Demo, sensor_file: Path, tmp_path: Path) -> None:
    chart = tmp_path / "nowhere" / "chart.svg"
    code, output, errors = demo("--ml", "--csv", sensor_file, "--svg", chart)
    assert code == 1
    # The tables stand all the same.
    assert "Anomalies" in read_rows(output)
    assert errors == f"advanced-alerting: --svg: {chart} cannot be written (No such file or directory)\n"


# --- groups and verdicts


def make_alert(row: int, number: int, group: int = 1, confidence: float = 0.8) -> RaisedAlert:
    return RaisedAlert(str(number), str(group), STREAM_START + STEP * row, 90.0, confidence, "medium")


def make_readings(rows: int) -> list[Reading]:
    values = zip(make_times(rows), make_values(rows), strict=True)
    return [Reading(line, at, value) for line, (at, value) in enumerate(values, start=2)]


def test_alerts_are_gathered_in_their_groups() -> None:
    listed = [
        {
            "alert_id": str(number),
            "group_id": str(group),
            "occurred_at": (STREAM_START + STEP * row).isoformat(),
            "severity": "medium",
            "metadata": {"value": 90.0, "confidence": confidence},
        }
        for number, group, row, confidence in ((12, 10, 9, 0.7), (11, 9, 2, 0.9), (10, 10, 8, 0.8), (9, 9, 1, 0.75))
    ]
    early, late = gather_groups(listed)
    assert [alert.alert_id for alert in early.alerts] == ["9", "11"]
    assert [alert.alert_id for alert in late.alerts] == ["10", "12"]
    assert (early.opened_by.alert_id, early.surest.alert_id) == ("9", "11")


def test_a_window_is_found_once_and_by_the_beginning_of_a_group() -> None:
    streamed = make_readings(1000)[300:]
    trained, found, again, missed = (
        Window(STREAM_START + STEP * first, STREAM_START + STEP * last)
        for first, last in ((100, 299), (400, 500), (600, 700), (800, 900))
    )
    on_edges = [AlertGroup((make_alert(row, row, row),)) for row in (400, 500)]
    # One begins before its window and goes on within it: who was told saw no fault yet.
    early = AlertGroup((make_alert(799, 1, 799), make_alert(805, 2, 799)))
    late = AlertGroup((make_alert(701, 3, 701),))
    within = AlertGroup((make_alert(650, 4, 650),))
    verdict = judge([*on_edges, within, late, early], (trained, found, again, missed), streamed)
    assert verdict == Verdict({found: on_edges[0], again: within}, (missed,), (late, early))
    assert verdict.windows == 3


# --- the chart


def test_no_spike_is_lost_and_everything_stays_in_the_picture() -> None:
    readings = make_readings(20_000)
    readings[7000] = Reading(7002, readings[7000].at, 500.0)
    readings[9000] = Reading(9002, readings[9000].at, -300.0)
    svg = draw_chart(ChartText("a < b & c", "none"), readings[:750], readings[750:], [], Verdict())
    root = ET.fromstring(svg)
    assert root.findtext(f"{SVG}title") == "a < b & c"
    [line] = [path.get("d", "") for path in root.iter(f"{SVG}path") if path.get("class") == "line"]
    points = [tuple(map(float, point.split())) for point in line.removeprefix("M").split("L")]
    scale = Scale.of(readings)
    heights = [y for _, y in points]
    assert min(heights) == pytest.approx(scale.y(500.0), abs=0.1)
    assert max(heights) == pytest.approx(scale.y(-300.0), abs=0.1)
    assert len(points) < 3000
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert all(0 <= x <= 1200 and 0 <= y <= 440 for x, y in points)


@pytest.mark.parametrize("step", [timedelta(seconds=1), timedelta(minutes=5), timedelta(days=30), timedelta(days=900)])
@pytest.mark.parametrize("value", [0.0, 1e-9, -1e9, 71.5])
def test_any_readings_can_be_drawn(step: timedelta, value: float) -> None:
    readings = [Reading(row + 2, datetime(1990, 1, 1, tzinfo=UTC) + step * row, value) for row in range(12)]
    svg = draw_chart(ChartText("flat", "none"), readings[:2], readings[2:], [], Verdict())
    labels = [text for text in ET.fromstring(svg).iter(f"{SVG}text") if text.get("class") == "axis"]
    assert 4 <= len(labels) <= 20
