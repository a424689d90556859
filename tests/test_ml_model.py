"""The online models: what they refuse, when they may speak, and that keeping them changes nothing."""

from __future__ import annotations

import csv
import io
import math
import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.answers import ANOMALY, NOTHING_SAID
from ml.channels import StepChannel
from ml.detector import Detector
from ml.intake import Intake
from ml.isolation_forest import flatten_forest, grow_forest
from ml.model_errors import ModelFormatError, ModelTamperedError, TrainingRowsError, UnknownAlgorithmError
from ml.pattern_channels import DaytimeChannel, ShapeChannel
from ml.serialization import FORMAT, HEADER, MAGIC, ModelIdentity, compute_seal, open_model, seal_model
from ml.tails import Tail, TwoTails
from ml_model_manager import MLModelManager

START = datetime(2026, 1, 5, tzinfo=UTC)
STEP = timedelta(minutes=5)
KEY = b"a key for tests only"
OWNER = ModelIdentity(version=3, device_id="PUMP-7", metric="temperature")
REPOSITORY = Path(__file__).resolve().parent.parent
MACHINE = REPOSITORY.parent / "shared" / "data" / "telemetry" / "machine_temperature.csv"


def make_stream(rows: int, seed: int = 1) -> tuple[list[datetime], list[float]]:
    """A quiet sensor: a daily wave and noise."""
    noise = np.random.default_rng(seed).normal(0.0, 0.5, rows)
    wave = 5.0 * np.sin(np.arange(rows) * 2.0 * math.pi / 288.0)
    return [START + STEP * row for row in range(rows)], (60.0 + wave + noise).tolist()


@cache
def seal_trained(rows: int, algorithm: str) -> bytes:
    manager = MLModelManager(algorithm=algorithm)
    manager.fit(*make_stream(rows))
    return seal_model(manager.detector, OWNER, KEY)


def train_detector(rows: int = 700, algorithm: str = "surprise") -> Detector:
    """A model trained on a quiet stream; trained once, then taken back from its bytes."""
    return open_model(seal_trained(rows, algorithm), OWNER, KEY)


def train_manager() -> MLModelManager:
    manager = MLModelManager()
    manager.fit(*make_stream(700))
    return manager


def feed(detector: Detector, times: list[datetime], values: list[float]) -> list[float]:
    return [detector.update(at.timestamp(), value).score for at, value in zip(times, values, strict=True)]


# ---- when a model may speak


@pytest.mark.parametrize("algorithm", ["surprise", "isolation_forest"])
def test_no_alert_under_200_rows(algorithm: str) -> None:
    times, values = make_stream(199)
    values[150:199:3] = [1e6] * len(values[150:199:3])
    manager = MLModelManager(algorithm=algorithm)
    manager.fit(times[:100], values[:100])
    assert set(manager.predict_many(times[100:], values[100:])) == {(1, 0.0)}


def test_nobody_is_woken_under_600_rows() -> None:
    times, values = make_stream(604)
    values[596:] = [500.0 + 40.0 * row for row in range(8)]
    manager = MLModelManager()
    manager.fit(times[:300], values[:300])
    confidences = [confidence for _, confidence in manager.predict_many(times[300:], values[300:])]
    assert max(confidences[: 599 - 300]) == 0.79
    assert max(confidences[599 - 300 :]) > 0.79


def test_a_fault_is_announced_and_quiet_days_are_not() -> None:
    times, values = make_stream(4000)
    values[3500:] = [value + 30.0 for value in values[3500:]]
    manager = MLModelManager()
    manager.fit(times[:700], values[:700])
    answers = manager.predict_many(times[700:], values[700:])
    alerts = [700 + row for row, (flag, confidence) in enumerate(answers) if flag == -1 and confidence >= 0.70]
    assert alerts
    assert 3500 <= alerts[0] <= 3510
    assert answers[alerts[0] - 700][0] == -1


def test_the_flag_says_whether_the_confidence_reaches_one_half() -> None:
    times, values = make_stream(3000, seed=4)
    values[2000:2010] = [120.0] * 10
    manager = MLModelManager()
    manager.fit(times[:700], values[:700])
    answers = manager.predict_many(times[700:], values[700:])
    assert {flag for flag, _ in answers} == {1, -1}
    assert all((flag == -1) == (confidence >= 0.5) for flag, confidence in answers)
    assert all(0.0 <= confidence <= 0.90 for _, confidence in answers)


def test_a_manager_learns_without_training() -> None:
    times, values = make_stream(3000)
    values[2900:] = [value + 40.0 for value in values[2900:]]
    answers = MLModelManager().predict_many(times, values)
    assert max(confidence for _, confidence in answers[2900:2910]) >= 0.70


def test_a_constant_sensor_never_alerts_while_constant() -> None:
    times, _ = make_stream(2000)
    manager = MLModelManager()
    manager.fit(times[:700], [45.0] * 700)
    assert max(confidence for _, confidence in manager.predict_many(times[700:], [45.0] * 1300)) < 0.5


# ---- what is no reading


@given(
    places=st.lists(st.integers(0, 149), max_size=30),
    bad=st.sampled_from([math.nan, math.inf, -math.inf, None, 1e300]),
)
@settings(max_examples=8, deadline=None)
def test_values_that_are_no_number_change_nothing(places: list[int], bad: float | None) -> None:
    times, values = make_stream(850)
    clean, dirty = train_detector(), train_detector()
    expected = feed(clean, times[700:], values[700:])
    scores = []
    for row in range(700, 850):
        for _ in range(places.count(row - 700)):
            assert dirty.update((times[row] - STEP / 2).timestamp(), bad) == NOTHING_SAID
        scores += feed(dirty, times[row : row + 1], values[row : row + 1])
    assert scores == expected
    assert dirty.rejected_values == len(places)


@given(places=st.lists(st.integers(0, 149), max_size=30), steps_back=st.integers(1, 400))
@settings(max_examples=8, deadline=None)
def test_late_and_repeated_readings_change_nothing(places: list[int], steps_back: int) -> None:
    times, values = make_stream(850)
    clean, dirty = train_detector(), train_detector()
    expected = feed(clean, times[700:], values[700:])
    scores = []
    for row in range(700, 850):
        for _ in range(places.count(row - 700)):
            assert dirty.update((times[row] - STEP * steps_back).timestamp(), 1e4) == NOTHING_SAID
        scores += feed(dirty, times[row : row + 1], values[row : row + 1])
    assert scores == expected
    assert dirty.rejected_times == len(places)


def test_a_model_recalls_what_it_said_of_its_newest_reading_and_of_anomalies() -> None:
    times, values = make_stream(720)
    detector = train_detector()
    values[708:711] = [180.0, 181.0, 182.0]
    said = {}
    for at, value in zip(times[700:], values[700:], strict=True):
        said[at.timestamp(), value] = detector.update(at.timestamp(), value)
    anomalies = {reading: prediction for reading, prediction in said.items() if prediction.is_anomaly == ANOMALY}
    assert anomalies
    before = detector.export_state()
    for model in (detector, open_model(seal_model(detector, OWNER, KEY), OWNER, KEY)):
        for reading, prediction in anomalies.items():
            assert model.recall(*reading) == prediction
            assert model.recall(reading[0], reading[1] + 1.0) is None
        assert model.recall(times[-1].timestamp(), values[-1]) == said[times[-1].timestamp(), values[-1]]
        assert model.recall(times[701].timestamp(), values[701]) is None
    after = detector.export_state()
    assert all(np.array_equal(after[name], kept, equal_nan=True) for name, kept in before.items())


def test_an_anomaly_is_remembered_for_a_thousand_rows() -> None:
    times, values = make_stream(1720)
    values[708:711] = [180.0, 181.0, 182.0]
    detector = train_detector()
    said = [detector.update(at.timestamp(), v) for at, v in zip(times[700:], values[700:], strict=True)]
    found = [700 + row for row, prediction in enumerate(said) if prediction.is_anomaly == ANOMALY]
    known = [row for row in found if detector.recall(times[row].timestamp(), values[row]) is not None]
    assert found[0] < 720
    assert known == [row for row in found if row >= 720]


def test_naive_times_are_utc() -> None:
    times, values = make_stream(900)
    aware, naive = train_manager(), train_manager()
    expected = aware.predict_many(times[700:], values[700:])
    assert naive.predict_many([at.replace(tzinfo=None) for at in times[700:]], values[700:]) == expected


def test_training_counts_what_it_took_in() -> None:
    times, values = make_stream(400)
    rows: list[float | None] = [*values[:200], None, math.nan, *values[202:]]
    times[300] = times[299]
    summary = MLModelManager().fit(times, rows)
    assert (summary.rows, summary.rejected_values, summary.rejected_times) == (397, 2, 1)
    assert summary.step_seconds == 300.0


def test_rows_that_do_not_pair_up_are_refused() -> None:
    times, values = make_stream(10)
    with pytest.raises(TrainingRowsError):
        MLModelManager().fit(times, values[:9])


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(UnknownAlgorithmError):
        MLModelManager(algorithm="crystal_ball")


# ---- time


def test_more_than_three_steps_are_a_gap() -> None:
    intake = Intake(300.0)
    rows = [intake.accept(at, 1.0) for at in (0.0, 300.0, 600.0, 900.0, 1800.0, 2701.0)]
    assert [row.after_gap for row in rows if row] == [False, False, False, False, False, True]


def test_the_step_follows_a_sensor_that_changes_its_pace() -> None:
    intake = Intake(300.0)
    times = [300.0 * row for row in range(100)] + [30_000.0 + 3600.0 * row for row in range(100)]
    rows = [intake.accept(at, 1.0) for at in times]
    assert [row.after_gap for row in rows if row][101] is True
    last = rows[-1]
    assert last
    assert (last.step_seconds, last.after_gap) == (3600.0, False)


def test_what_comes_faster_than_ten_seconds_is_averaged() -> None:
    intake = Intake(1.0)
    rows = [row for second in range(41) if (row := intake.accept(float(second), float(second)))]
    assert [(row.at_seconds, row.value) for row in rows] == [(0.0, 4.5), (10.0, 14.5), (20.0, 24.5), (30.0, 34.5)]
    assert {row.step_seconds for row in rows} == {10.0}


def test_a_gap_forgets_the_neighbours_but_not_the_past() -> None:
    step = StepChannel()
    assert [step.measure(0.0, value) for value in (1.0, 4.0)] == [None, 3.0]
    step.forget_recent()
    assert [step.measure(0.0, value) for value in (9.0, 8.0)] == [None, -1.0]


def test_a_jump_across_a_gap_is_less_of_a_surprise_than_one_without() -> None:
    times, values = make_stream(1200)
    jumped = [value + 15.0 for value in values[1000:1004]]
    straight, gapped = train_detector(1000), train_detector(1000)
    near = feed(straight, times[1000:1004], jumped)
    far = feed(gapped, [at + STEP * 4 for at in times[1000:1004]], jumped)
    assert far[0] < near[0]
    assert gapped.rows_seen == straight.rows_seen


def test_what_last_week_explains_is_no_deviation() -> None:
    channel = DaytimeChannel(3600.0)
    deviations = []
    for hour in range(24 * 29):
        sunday = (hour // 24) % 7 == 6
        deviations.append(channel.measure(hour * 3600.0, 5.0 if sunday else 50.0))
    second_sunday = deviations[24 * 13 : 24 * 14]
    assert min(abs(value or 0.0) for value in deviations[24 * 7 - 12 : 24 * 7]) > 20.0
    assert max(abs(value or 0.0) for value in second_sunday[12:]) < 1e-9


# ---- surprise


def test_a_tail_is_calm_about_its_own_past_and_honest_beyond_it() -> None:
    distances = np.random.default_rng(2).exponential(1.0, 20_000)
    tail = Tail()
    surprises = []
    for distance in distances.tolist():
        surprises.append(tail.measure_surprise(distance))
        tail.learn(distance)
    for level in (1.0, 2.0, 3.0):
        share = float(np.mean(np.array(surprises[2000:]) >= level))
        assert 0.4 * 10.0**-level < share < 2.0 * 10.0**-level


@given(st.lists(st.floats(0.0, 1e6), min_size=60, max_size=300), st.floats(0.0, 1e7), st.floats(0.0, 1e7))
@settings(max_examples=60, deadline=None)
def test_a_larger_distance_is_never_less_of_a_surprise(past: list[float], one: float, other: float) -> None:
    tail = Tail()
    for distance in past:
        tail.learn(distance)
    low, high = sorted((tail.measure_surprise(min(one, other)), tail.measure_surprise(max(one, other))))
    assert tail.measure_surprise(min(one, other)) == low
    assert math.isfinite(high)


def test_a_rare_fall_is_not_hidden_by_frequent_rises() -> None:
    sides, one_tail = TwoTails(), Tail()
    for size in np.random.default_rng(3).exponential(1.0, 3000).tolist():
        for scale in (sides, one_tail):
            scale.learn(size)
            scale.learn(-0.01 * size)
    assert sides.measure_surprise(-1.0) > 3.0 > one_tail.measure_surprise(-1.0)


def test_the_nearest_shapes_match_a_direct_search() -> None:
    values = np.random.default_rng(5).normal(1e6, 1.0, 400)
    channel = ShapeChannel()
    distance = [channel.measure(0.0, value) for value in values.tolist()][-1]
    windows = np.lib.stride_tricks.sliding_window_view(values, 32)
    centred = windows - windows.mean(axis=1, keepdims=True)
    direct = np.sort(np.linalg.norm(centred[:-32] - centred[-1], axis=1))[:3].mean()
    assert distance == pytest.approx(direct, rel=1e-6)


# ---- keeping a model


@pytest.mark.parametrize("algorithm", ["surprise", "isolation_forest"])
@pytest.mark.parametrize("rows", [700, 2600])
def test_a_model_kept_and_taken_back_gives_the_same_scores(algorithm: str, rows: int) -> None:
    times, values = make_stream(rows + 300, seed=8)
    manager = MLModelManager(algorithm=algorithm)
    manager.fit(times[:650], values[:650])
    feed(manager.detector, times[650:rows], values[650:rows])
    taken_back = open_model(seal_model(manager.detector, OWNER, KEY), OWNER, KEY)
    expected = feed(manager.detector, times[rows:], values[rows:])
    assert feed(taken_back, times[rows:], values[rows:]) == expected
    assert max(expected) > 0.0
    assert seal_model(taken_back, OWNER, KEY) == seal_model(manager.detector, OWNER, KEY)


@pytest.mark.parametrize("rows", [0, 1, 23, 24, 60])
def test_an_untrained_model_is_kept_at_any_age(rows: int) -> None:
    times, values = make_stream(800)
    detector = MLModelManager().detector
    feed(detector, times[:rows], values[:rows])
    taken_back = open_model(seal_model(detector, OWNER, KEY), OWNER, KEY)
    assert feed(taken_back, times[rows:], values[rows:]) == feed(detector, times[rows:], values[rows:])


def test_a_model_of_one_second_readings_is_kept_mid_mean() -> None:
    _, values = make_stream(6000)
    times = [START + timedelta(seconds=second) for second in range(6000)]
    detector = MLModelManager().detector
    feed(detector, times[:4005], values[:4005])
    taken_back = open_model(seal_model(detector, OWNER, KEY), OWNER, KEY)
    expected = feed(detector, times[4005:], values[4005:])
    assert feed(taken_back, times[4005:], values[4005:]) == expected
    assert detector.rows_seen == 599


@given(place=st.integers(0, 10**9), change=st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_any_altered_byte_is_refused(place: int, change: int) -> None:
    sealed = bytearray(SEALED)
    sealed[place % len(sealed)] ^= change
    with pytest.raises((ModelTamperedError, ModelFormatError)):
        open_model(bytes(sealed), OWNER, KEY)


@pytest.mark.parametrize(
    ("owner", "key"),
    [
        (ModelIdentity(4, "PUMP-7", "temperature"), KEY),
        (ModelIdentity(3, "PUMP-8", "temperature"), KEY),
        (ModelIdentity(3, "PUMP-7", "pressure"), KEY),
        (ModelIdentity(3, "PUMP-7t", "emperature"), KEY),
        (OWNER, b"another key"),
    ],
)
def test_a_model_of_another_owner_or_key_is_refused(owner: ModelIdentity, key: bytes) -> None:
    with pytest.raises(ModelTamperedError) as refused:
        open_model(SEALED, owner, key)
    assert refused.value.code == "model_tampered"


@pytest.mark.parametrize("cut", [0, 3, HEADER.size - 1, HEADER.size, HEADER.size + 40])
def test_a_cut_model_is_refused(cut: int) -> None:
    with pytest.raises((ModelTamperedError, ModelFormatError)):
        open_model(SEALED[:cut], OWNER, KEY)


def test_a_model_of_an_older_format_is_refused_by_name() -> None:
    older = MAGIC + struct.pack(">H", FORMAT - 1) + SEALED[6:]
    with pytest.raises(ModelFormatError, match="train it again") as refused:
        open_model(older, OWNER, KEY)
    assert refused.value.code == "model_format_unsupported"


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_under_a_right_seal_is_refused_and_not_run(tmp_path: Path) -> None:
    arrays = io.BytesIO()
    np.savez(arrays, numbers=np.array([Trap(tmp_path / "ran")], dtype=object))
    text = b'{"algorithm": "surprise"}'
    payload = text + arrays.getvalue()
    seal = compute_seal(OWNER, KEY, len(text), payload)
    with pytest.raises(ModelFormatError):
        open_model(HEADER.pack(MAGIC, FORMAT, seal, len(text)) + payload, OWNER, KEY)
    assert not (tmp_path / "ran").exists()


def test_a_model_is_not_sealed_without_a_key() -> None:
    with pytest.raises(ValueError):
        seal_model(MLModelManager().detector, OWNER, b"")


@pytest.mark.parametrize(("algorithm", "largest"), [("surprise", 200_000), ("isolation_forest", 300_000)])
def test_the_state_is_bounded(algorithm: str, largest: int) -> None:
    times, values = make_stream(5000)
    detector = train_detector(algorithm=algorithm)
    feed(detector, times[700:3500], values[700:3500])
    before = len(seal_model(detector, OWNER, KEY))
    feed(detector, times[3500:], values[3500:])
    after = len(seal_model(detector, OWNER, KEY))
    assert after <= largest
    assert after <= before + 2_000


# ---- isolation forest


def test_the_flat_forest_scores_as_scikit_learn_does() -> None:
    generator = np.random.default_rng(6)
    rows = np.round(generator.normal(size=(500, 6)), 1)  # rounded: ties with the thresholds
    grown = grow_forest(rows)
    flat = flatten_forest(grown)
    strangers = np.concatenate([rows[:200], generator.normal(scale=5.0, size=(200, 6)), grown_ties(flat, rows)])
    expected = -grown.score_samples(strangers)
    assert [flat.score(row) for row in strangers] == pytest.approx(expected.tolist(), abs=1e-9)


def grown_ties(flat: object, rows: np.ndarray) -> np.ndarray:
    """Rows that lie exactly on thresholds of the forest."""
    ties = np.repeat(rows[:1], 50, axis=0)
    features, thresholds = flat.features, flat.thresholds  # type: ignore[attr-defined]
    for row, node in enumerate(np.flatnonzero(thresholds > -2.0)[:50]):
        ties[row, features[node]] = thresholds[node]
    return ties


def test_the_forest_notices_a_fault_more_than_quiet_rows() -> None:
    times, values = make_stream(3000)
    values[2500:2510] = [120.0] * 10
    detector = train_detector(algorithm="isolation_forest")
    scores = feed(detector, times[700:], values[700:])
    assert 1800 <= int(np.argmax(scores)) <= 1815


def test_a_forest_without_training_says_nothing() -> None:
    times, values = make_stream(900)
    values[850:] = [1e4] * 50
    answers = MLModelManager(algorithm="isolation_forest").predict_many(times, values)
    assert set(answers) == {(1, 0.0)}


def test_scoring_imports_no_scikit_learn() -> None:
    program = (
        "import sys, datetime as d; from ml_model_manager import MLModelManager\n"
        "m = MLModelManager(); t = d.datetime(2026, 1, 1)\n"
        "m.fit([t + d.timedelta(minutes=i) for i in range(300)], [float(i % 7) for i in range(300)])\n"
        "m.predict_one(t + d.timedelta(days=1), 3.0)\n"
        "import ml.serialization, ml.isolation_forest\n"
        "assert 'sklearn' not in sys.modules and 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


# ---- a machine that failed


@pytest.mark.skipif(not MACHINE.exists(), reason="the labelled series are not here")
def test_the_machine_that_failed_is_announced() -> None:
    with MACHINE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC) for row in rows]
    values = [float(row["value"]) for row in rows]
    manager = MLModelManager()
    manager.fit(times[:750], values[:750])
    alerts: list[datetime] = []
    latest = START - timedelta(days=10_000)
    for at, value in zip(times[750:], values[750:], strict=True):
        flag, confidence = manager.predict_one(at, value)
        if flag == -1 and confidence >= 0.70:
            if at - latest > timedelta(hours=1):
                alerts.append(at)
            latest = at
    windows = {
        "first": (datetime(2013, 12, 10, 6, 25, tzinfo=UTC), datetime(2013, 12, 12, 5, 35, tzinfo=UTC)),
        "shutdown": (datetime(2013, 12, 15, 17, 50, tzinfo=UTC), datetime(2013, 12, 17, 17, tzinfo=UTC)),
        "subtle": (datetime(2014, 1, 27, 14, 20, tzinfo=UTC), datetime(2014, 1, 29, 13, 30, tzinfo=UTC)),
        "failure": (datetime(2014, 2, 7, 14, 55, tzinfo=UTC), datetime(2014, 2, 9, 14, 5, tzinfo=UTC)),
    }
    found = {name for name, (first, last) in windows.items() if any(first <= at <= last for at in alerts)}
    false = [at for at in alerts if not any(first <= at <= last for first, last in windows.values())]
    assert {"shutdown", "failure"} <= found
    assert len(found) >= 3
    assert len(false) <= 2


SEALED = seal_trained(200, "surprise")
