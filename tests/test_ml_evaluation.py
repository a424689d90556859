"""The evaluation of the detector: its figures by hand, and the command over a folder of labelled series."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.ml_evaluation import main
from benchmarks.ml_quality import (
    BAND_EDGES,
    ScoredSeries,
    measure_alerts,
    measure_calibration_error,
    measure_nab,
    soil,
)
from ml.labelled_series import LabelledSeries
from tests.ml_streams import make_times, make_values

ROWS, TRAINING_ROWS = 1000, 200


def make_scored(windows: list[tuple[int, int]], said: dict[int, float], name: str = "one") -> ScoredSeries:
    """A series of five minutes a row, with confidences at some rows."""
    series = LabelledSeries(
        name=name,
        timestamps=make_times(ROWS),
        values=make_values(ROWS),
        training_rows=TRAINING_ROWS,
        clock=np.arange(ROWS, dtype=np.float64) * 300.0,
        windows=windows,
        gap_seconds=3600.0,
        remind_seconds=86_400.0,
    )
    confidences = np.zeros(ROWS)
    for row, confidence in said.items():
        confidences[row] = confidence
    return ScoredSeries(series, confidences)


def test_alerts_count_as_the_service_opens_them() -> None:
    # Row 412 comes an hour after row 400, and belongs to it; row 425 comes later, in the same window.
    scored = make_scored([(390, 430), (600, 640)], {400: 0.7, 412: 0.9, 425: 0.8, 500: 0.75, 700: 0.699})
    quality = measure_alerts([scored], 0.70)
    assert (quality.alerts, quality.found, quality.windows, quality.false) == (3, 1, 2, 1)
    assert (quality.precision, quality.recall, quality.f1) == (0.5, 0.5, 0.5)
    assert quality.days == pytest.approx((ROWS - TRAINING_ROWS) * 300 / 86_400)
    assert quality.false_a_day == pytest.approx(1 / quality.days)
    surer = measure_alerts([scored, make_scored([(300, 310)], {})], 0.85)
    assert (surer.alerts, surer.found, surer.windows, surer.false) == (1, 1, 3, 0)
    assert surer.f1 == pytest.approx(2 / (1 + 3))
    assert math.isnan(measure_alerts([scored], 0.95).precision)


def test_calibration_compares_the_surest_reading_of_an_alert() -> None:
    # An alert that opens outside a window and is surest within it is a real one here: 0.7 to 0.9, real.
    scored = make_scored([(401, 430)], {400: 0.7, 405: 0.9, 500: 0.8, 600: 0.8})
    assert measure_calibration_error([scored], BAND_EDGES) == pytest.approx((1 * 0.1 + 2 * 0.8) / 3)
    assert measure_calibration_error([make_scored([(401, 430)], {405: 1.0})], BAND_EDGES) == 0.0
    assert math.isnan(measure_calibration_error([make_scored([(401, 430)], {400: 0.6})], BAND_EDGES))


def test_nab_score_has_its_ends_and_prefers_the_early() -> None:
    windows = [(400, 450), (700, 750)]
    assert measure_nab([make_scored(windows, {})], 0.70) == 0.0
    assert measure_nab([make_scored(windows, {400: 0.7, 700: 0.9})], 0.70) == pytest.approx(100.0)
    late, later = (measure_nab([make_scored(windows, {row: 0.9, 700: 0.9})], 0.70) for row in (430, 449))
    assert 50 < later < late < 100
    # A false alert costs 0.11 of a window; little where it comes right after one.
    far, near = (measure_nab([make_scored(windows, {400: 0.9, row: 0.9, 700: 0.9})], 0.70) for row in (300, 464))
    assert far == pytest.approx(100 - 100 * 0.11 / 4)
    assert far < near < 100


def test_dirt_is_the_same_each_time_and_leaves_the_training_in_order() -> None:
    series = make_scored([(400, 450)], {}).series
    dirty, again = soil(series), soil(series)
    assert dirty.timestamps == again.timestamps
    assert dirty.timestamps[:TRAINING_ROWS] == series.timestamps[:TRAINING_ROWS]
    assert 0 < sum(math.isnan(value) for value in dirty.values) < 0.05 * ROWS
    pairs = list(zip(dirty.timestamps, dirty.timestamps[1:], strict=False))
    assert any(later < earlier for earlier, later in pairs)
    assert any(later == earlier for earlier, later in pairs)
    assert sum(value not in series.values for value in dirty.values if not math.isnan(value)) == 0


@pytest.fixture
def labelled_folder(tmp_path: Path) -> Path:
    """Two sensors; one has a fault in its only window, the other has neither."""
    series: list[dict[str, Any]] = []
    times = make_times(3000)
    for name, faulty in (("press.csv", True), ("oven.csv", False)):
        values = make_values(3000, seed=len(name))
        if faulty:
            values[2000:2030] = [value + 40.0 for value in values[2000:2030]]
        rows = [f"{at:%Y-%m-%d %H:%M:%S},{value}\n" for at, value in zip(times, values, strict=True)]
        (tmp_path / name).write_text("timestamp,value\n" + "".join(rows), encoding="utf-8")
        windows = [[f"{times[row]:%Y-%m-%d %H:%M:%S}" for row in (1990, 2040)]] if faulty else []
        sizes = {"dt": 300.0, "train_rows": 450, "gap_s": 3600, "remind_s": 86_400}
        series.append({"id": name, "path": name, "windows": windows, **sizes})
    (tmp_path / "manifest.json").write_text(json.dumps({"series": series}), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("more", [[], ["--stress"]])
def test_the_command_prints_what_the_alerts_are_worth(
    labelled_folder: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert main(["--data", str(labelled_folder), "--processes", "1", *more]) == 0
    output = capsys.readouterr().out
    assert "2 series" in output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == [
        f">= {confidence}" for confidence in ("0.50", "0.70", "0.75", "0.80", "0.85", "0.95")
    ]
    [announced] = [row for row in rows if row[0] == ">= 0.70"]
    assert announced[2:4] == ["1 of 1", "1.00"]
    assert "ECE of the alerts at 0.80 and above" in output
    assert "NAB score of the alerts at 0.70" in output
    assert ("fitted on other series" in output) == (not more)


def test_a_folder_without_series_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"ml_evaluation: {tmp_path} holds no labelled series")
