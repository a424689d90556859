"""The confidence: monotone, conservative, made again from its own evidence, and kept on series it has not seen."""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.algorithms import ALGORITHMS
from ml.calibration import TABLE_PATH, ConfidenceTable, load_table
from ml.fit_confidence import (
    LARGEST_CONFIDENCE,
    NOMINALS,
    THRESHOLDS,
    fit_confidences,
    main,
    score_series,
    split_halves,
)
from ml.labelled_series import AlertCounts, LabelledSeries, count_alerts, open_alerts, read_series
from ml.model_errors import UnknownAlgorithmError

SHIPPED = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
START = datetime(2026, 1, 5, tzinfo=UTC)


def make_series(windows: list[tuple[int, int]], rows: int = 1000, name: str = "one") -> LabelledSeries:
    values = np.random.default_rng(len(name)).normal(50.0, 1.0, rows)
    for first, last in windows:
        values[(first + last) // 2 : last] += 25.0
    return LabelledSeries(
        name=name,
        timestamps=[START + timedelta(minutes=5 * row) for row in range(rows)],
        values=values.tolist(),
        training_rows=300,
        clock=np.arange(rows, dtype=np.float64) * 300.0,
        windows=windows,
        gap_seconds=3600.0,
        remind_seconds=86_400.0,
    )


def make_counts(found: float, false: float, series: int = 1) -> AlertCounts:
    """Real alerts that thin out slowly and false ones that thin out tenfold a unit."""
    real = np.tile(found * 10.0 ** (0.25 * (1.8 - THRESHOLDS)), (series, 1))
    wrong = np.tile(false * 10.0 ** (2.5 - THRESHOLDS), (series, 1))
    return AlertCounts(THRESHOLDS, real, wrong)


# ---- the shipped table


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_the_shipped_table_never_falls(algorithm: str) -> None:
    table = load_table(algorithm)
    assert list(table.confidences) == sorted(table.confidences)
    assert max(table.confidences) <= LARGEST_CONFIDENCE < 0.95
    assert table.find_confidence(0.0) == 0.0
    assert table.find_confidence(1e9) == table.confidences[-1]
    assert table.version == SHIPPED["version"]


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_the_shipped_table_follows_from_its_evidence(algorithm: str) -> None:
    shipped = SHIPPED["algorithms"][algorithm]
    counts = AlertCounts(
        np.array(shipped["scores"]),
        np.array([shipped["windows_found"]], dtype=float),
        np.array([shipped["false_alerts"]], dtype=float),
    )
    assert fit_confidences(counts).tolist() == shipped["confidences"]


def test_the_promise_held_on_halves_that_the_table_had_not_seen() -> None:
    halves = SHIPPED["algorithms"]["surprise"]["split_halves"]
    assert [half["nominal"] for half in halves] == list(NOMINALS)
    assert all(half["realised"] >= half["nominal"] for half in halves)


def test_every_threshold_of_the_alerts_but_critical_can_be_reached() -> None:
    largest = load_table("surprise").confidences[-1]
    assert 0.85 <= largest < 0.95


# ---- the table as such

RISING = ConfidenceTable("test", (1.0, 2.0, 4.0), (0.2, 0.7, 0.8))


@pytest.mark.parametrize(
    ("score", "confidence"),
    [
        (-1.0, 0.0),
        (math.nextafter(1.0, 0.0), 0.0),
        (1.0, 0.2),
        (1.5, 0.45),
        (2.0, 0.7),
        (3.0, 0.75),
        (4.0, 0.8),
        (9.0, 0.8),
    ],
)
def test_confidence_is_linear_between_the_scores(score: float, confidence: float) -> None:
    assert RISING.find_confidence(score) == pytest.approx(confidence, abs=1e-12)


def test_just_under_a_threshold_stays_under_it() -> None:
    assert RISING.find_confidence(math.nextafter(2.0, 0.0)) < 0.7 <= RISING.find_confidence(2.0)


@given(st.floats(-10.0, 10.0), st.floats(-10.0, 10.0))
def test_a_higher_score_is_never_less_sure(one: float, other: float) -> None:
    table = load_table("surprise")
    assert table.find_confidence(min(one, other)) <= table.find_confidence(max(one, other))


@pytest.mark.parametrize(
    ("scores", "confidences"),
    [((), ()), ((1.0,), (0.1, 0.2)), ((1.0, 1.0), (0.1, 0.2)), ((1.0, 2.0), (0.2, 0.1)), ((1.0,), (1.1,))],
)
def test_a_table_that_is_none_is_refused(scores: tuple[float, ...], confidences: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        ConfidenceTable("test", scores, confidences)


def test_an_algorithm_without_a_table_is_refused() -> None:
    with pytest.raises(UnknownAlgorithmError):
        load_table("crystal_ball")


# ---- fitting


@given(found=st.floats(1.0, 500.0), false=st.floats(0.0, 500.0), more=st.floats(0.1, 500.0))
def test_more_false_alerts_never_raise_a_confidence(found: float, false: float, more: float) -> None:
    fewer = fit_confidences(make_counts(found, false))
    worse = fit_confidences(make_counts(found, false + more))
    assert np.all(worse <= fewer)
    assert np.all(np.diff(fewer) >= 0.0)
    assert fewer.max() <= LARGEST_CONFIDENCE


def test_a_clean_record_claims_no_certainty() -> None:
    """Five real alerts and no false one: nobody may be woken on that."""
    few = fit_confidences(make_counts(5.0, 0.0))
    many = fit_confidences(make_counts(500.0, 0.0))
    at_start = int(np.argmin(np.abs(THRESHOLDS - 2.5)))
    assert few[at_start] < 0.80 < many[at_start]


def test_halves_of_a_fleet_that_is_alike_keep_the_promise() -> None:
    counts = make_counts(3.0, 0.8, series=24)
    for half in split_halves(counts, 10):
        assert half.realised >= half.nominal
        assert half.held_share == 1.0


def write_series(data_dir: Path, all_series: list[LabelledSeries]) -> None:
    """The files that `read_series` reads."""
    entries = []
    for series in all_series:
        rows = zip(series.timestamps, series.values, strict=True)
        lines = ["timestamp,value", *(f"{at:%Y-%m-%d %H:%M:%S},{value!r}" for at, value in rows)]
        (data_dir / f"{series.name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        entries.append(
            {
                "id": series.name,
                "path": f"{series.name}.csv",
                "dt": 300.0,
                "train_rows": series.training_rows,
                "gap_s": series.gap_seconds,
                "remind_s": series.remind_seconds,
                "windows": [[str(series.timestamps[row]) for row in window] for window in series.windows],
            }
        )
    (data_dir / "manifest.json").write_text(json.dumps({"series": entries}), encoding="utf-8")


def test_the_command_makes_the_same_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    series = [make_series([(600, 680)], name="a"), make_series([], name="bb"), make_series([(700, 760)], name="ccc")]
    write_series(tmp_path, series)
    files = [tmp_path / "once.json", tmp_path / "again.json"]
    for file in files:
        monkeypatch.setattr(sys, "argv", ["fit", "--data", str(tmp_path), "--out", str(file), "--splits", "3"])
        main()
    assert files[0].read_bytes() == files[1].read_bytes()
    made = json.loads(files[0].read_text(encoding="utf-8"))
    assert sorted(made["algorithms"]) == sorted(ALGORITHMS)
    assert made["version"] != SHIPPED["version"]
    assert "nominal  realised" in capsys.readouterr().out


def test_scores_are_those_of_a_stream() -> None:
    series = make_series([(600, 680)])
    scores = score_series("surprise", series)
    assert len(scores) == len(series.values)
    assert not scores[: series.training_rows].any()
    assert 640 <= int(np.argmax(scores)) <= 690


# ---- counting alerts


def test_rows_within_an_hour_are_one_alert_and_a_day_later_another() -> None:
    scores = np.zeros(1000)
    scores[100:700] = 3.0
    scores[720] = 3.0
    assert open_alerts(make_series([]), scores, 3.0) == [100, 388, 676, 720]


def test_a_window_counts_once_and_what_opens_outside_is_false() -> None:
    series = make_series([(200, 300), (600, 650)])
    scores = np.zeros(1000)
    scores[[100, 210, 290, 640, 900]] = 5.0
    assert count_alerts(series, scores, 5.0) == (2, 2)
    assert count_alerts(series, scores, 5.1) == (0, 0)


def test_series_are_read_from_a_manifest(tmp_path: Path) -> None:
    lines = ["timestamp,value", *(f"2026-01-05 00:{minute:02}:00,{minute}" for minute in range(0, 60, 5))]
    lines[5] = "2026-01-05 00:20:00,"
    (tmp_path / "one.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    entry = {
        "id": "one",
        "path": "one.csv",
        "dt": 300.0,
        "train_rows": 4,
        "gap_s": 3600,
        "remind_s": 86_400,
        "windows": [
            ["2026-01-05 00:05:00.000000", "2026-01-05 00:10:00.000000"],
            ["2026-01-05 00:30:00.000000", "2026-01-05 00:40:00.000000"],
        ],
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"series": [entry]}), encoding="utf-8")
    (series,) = read_series(tmp_path)
    assert series.windows == [(6, 8)]
    assert math.isnan(series.values[4])
    assert series.values[5:7] == [25.0, 30.0]
    assert series.clock[-1] == 3300.0
