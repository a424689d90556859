"""Models in the database: streams that processes share, restarts, versions, tampering, retention, long trainings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from foundation.clock import FrozenClock
from foundation.errors import Conflict, NotFound, ValidationFailed
from foundation.processes import await_condition
from foundation.settings import Settings
from ml.answers import ANOMALY, NOTHING_SAID
from ml.detector import Detector
from ml.hot_models import HotModels
from ml.model_errors import ModelFormatError, ModelMissingError, ModelTamperedError
from ml.model_states import ModelStates
from ml.readings import Reading, ScoredReading, SeriesKey, TrainingRows
from ml.registry import TrainingOrder
from ml.serialization import HEADER, MAGIC, derive_key
from ml.streams import SNAPSHOT_READINGS, ModelStreams
from ml.training import train
from ml.training_jobs import MOST_ATTEMPTS
from ml_model_manager import Judgement
from tests.factories import make_device
from tests.ml_streams import METRIC, STEP, STREAM_START, make_times, make_values
from wiring import Services, build_services

ROOT = Path(__file__).resolve().parent.parent
TRAINED = 650

Sql = Callable[..., list[tuple[Any, ...]]]


def make_training_rows(rows: int = TRAINED, seed: int = 1) -> TrainingRows:
    seconds = np.array([at.timestamp() for at in make_times(rows)])
    return TrainingRows(seconds, np.array(make_values(rows, seed)))


def train_kept(services: Services, series: SeriesKey, rows: TrainingRows | None = None, **more: Any) -> int:
    order = TrainingOrder(series, more.get("algorithm", "surprise"), rows or make_training_rows(), "tester")
    return int(services.ml.train(order)["model_id"])


def make_readings(series: SeriesKey, rows: int, start: int = TRAINED) -> list[Reading]:
    """Readings that go on where the training ended, with a fault on the way."""
    values = make_values(start + rows, seed=2)
    values[start + rows // 2] += 80.0
    return [Reading(series, values[row], STREAM_START + STEP * row) for row in range(start, start + rows)]


def score(services: Services, reading: Reading) -> tuple[float, float]:
    said = services.ml.score(reading).scored.prediction
    return said.score, said.confidence


def learn_alone(detector: Detector, readings: list[Reading]) -> list[tuple[float, float]]:
    """What one process would say that saw all of it."""
    said = [detector.update(r.read_at.timestamp(), r.value) for r in readings if r.read_at]
    return [(one.score, one.confidence) for one in said]


def load_detector(services: Services, series: SeriesKey) -> Detector:
    """The active model as a process that has just started would load it."""
    states = ModelStates(derive_key(services.settings.jwt_secret))
    with services.database.autocommit() as connection:
        return states.load(connection, series).detector


def assert_same_state(one: Detector, other: Detector) -> None:
    left, right = one.export_state(), other.export_state()
    assert left.keys() == right.keys()
    for name, values in left.items():
        assert np.array_equal(values, right[name], equal_nan=True), name


@pytest.fixture
def series() -> SeriesKey:
    """A series of this test's own."""
    return SeriesKey(make_device(), METRIC)


@pytest.fixture
def make_process(settings: Settings, clock: FrozenClock) -> Iterator[Callable[..., Services]]:
    """Make services with connections and caches of their own, as another process has them."""
    made: list[Services] = []

    def make(**changes: Any) -> Services:
        made.append(build_services(settings.model_copy(update=changes), clock))
        return made[-1]

    yield make
    for built in made:
        built.database.close()


# ---- one stream, several processes


@hypothesis_settings(max_examples=10)
@given(turns=st.lists(st.integers(0, 2), min_size=1, max_size=60))
def test_processes_that_take_turns_score_as_one_would(make_process, turns):
    processes = [make_process(), make_process(), make_process(ml_hot_models=1)]
    series = SeriesKey(make_device(), METRIC)
    train_kept(processes[0], series)
    readings = make_readings(series, len(turns))
    said = [score(processes[turn], reading) for turn, reading in zip(turns, readings, strict=True)]
    alone, _ = train("surprise", make_training_rows())
    assert said == learn_alone(alone, readings)
    assert_same_state(load_detector(processes[0], series), alone)


def test_readings_given_at_once_are_each_learnt_once(make_process, series, sql):
    processes = [make_process(), make_process()]
    train_kept(processes[0], series)
    readings = make_readings(series, 80)

    def give(place: int) -> tuple[float, ScoredReading]:
        return readings[place].value, processes[place % 2].ml.score(readings[place]).scored

    with ThreadPoolExecutor(8) as pool:
        given_at_once = dict(pool.map(give, range(80)))
    log = sql("SELECT number, read_at, value FROM telemetry ORDER BY number")
    assert [number for number, _, _ in log] == list(range(1, 81))
    assert sorted(value for _, _, value in log) == sorted(reading.value for reading in readings)
    alone, _ = train("surprise", make_training_rows())
    for _, read_at, value in log:
        assert given_at_once[value].prediction == alone.update(read_at.timestamp(), value)
    assert_same_state(load_detector(processes[0], series), alone)


PROGRAM = """
import json, sys
from datetime import datetime
from foundation.clock import FrozenClock
from foundation.settings import load_settings
from ml.model_states import ModelStates
from ml.readings import Reading, SeriesKey
from wiring import build_services
services = build_services(load_settings(), FrozenClock(datetime.fromisoformat(sys.argv[1])))
series = SeriesKey(*sys.argv[2:4])
for line in sys.stdin:
    at, value = json.loads(line)
    said = services.ml.score(Reading(series, value, datetime.fromisoformat(at))).scored.prediction
    print(json.dumps([said.score, said.confidence]), flush=True)
"""


@contextmanager
def start_process(settings: Settings, clock: FrozenClock, series: SeriesKey) -> Iterator[Callable[[Reading], Any]]:
    """Start a Python of its own that scores what it is told."""
    environment = {**os.environ, "DATABASE_URL": settings.database_url, "JWT_SECRET": settings.jwt_secret}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, clock.now().isoformat(), *series],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(reading: Reading) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        assert reading.read_at is not None
        process.stdin.write(json.dumps([reading.read_at.isoformat(), reading.value]) + "\n")
        process.stdin.flush()
        return tuple(json.loads(process.stdout.readline()))

    try:
        yield ask
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(30)


def test_real_processes_share_a_stream_and_one_may_die(services, settings, clock, series):
    train_kept(services, series)
    readings = make_readings(series, 40)
    said = []
    with start_process(settings, clock, series) as first:
        with start_process(settings, clock, series) as second:
            said += [(first, second)[place % 2](reading) for place, reading in enumerate(readings[:20])]
        # One has ended; what it learnt is in the log.
        said += [first(reading) for reading in readings[20:30]]
    said += [score(services, reading) for reading in readings[30:]]
    alone, _ = train("surprise", make_training_rows())
    assert said == learn_alone(alone, readings)


def test_a_restart_goes_on_where_the_snapshot_and_the_log_lead(make_process, series, sql):
    readings = make_readings(series, SNAPSHOT_READINGS + 40)
    first = make_process()
    train_kept(first, series)
    said = [score(first, reading) for reading in readings[: SNAPSHOT_READINGS + 20]]
    [(number,)] = sql("SELECT number FROM ml_snapshots")
    assert 0 < number <= SNAPSHOT_READINGS
    # What the snapshot holds is not needed any more: from here on only the rest of the log is read.
    sql("DELETE FROM telemetry WHERE number <= %s", number)
    second = make_process()
    said += [score(second, reading) for reading in readings[SNAPSHOT_READINGS + 20 :]]
    alone, _ = train("surprise", make_training_rows())
    assert said == learn_alone(alone, readings)


def test_a_process_far_behind_loads_the_model_anew(make_process, series):
    behind, ahead = make_process(), make_process()
    train_kept(behind, series)
    readings = make_readings(series, 3 * SNAPSHOT_READINGS)
    said = [score(behind, readings[0])]
    said += [score(ahead, reading) for reading in readings[1:-1]]
    said.append(score(behind, readings[-1]))
    alone, _ = train("surprise", make_training_rows())
    assert said == learn_alone(alone, readings)


def test_isolation_forests_are_shared_alike(make_process, series):
    processes = [make_process(), make_process()]
    train_kept(processes[0], series, algorithm="isolation_forest")
    readings = make_readings(series, 30)
    said = [score(processes[place % 2], reading) for place, reading in enumerate(readings)]
    alone, _ = train("isolation_forest", make_training_rows())
    assert said == learn_alone(alone, readings)


# ---- batches


def test_a_batch_says_what_its_readings_one_by_one_would(make_process, sql):
    one, other = make_process(), make_process(ml_hot_models=2)
    series = [SeriesKey(make_device(), METRIC) for _ in range(5)]
    for key in series:
        train_kept(one, key)
    streams = [make_readings(key, 20) for key in series]
    mixed = [stream[place] for place in range(20) for stream in streams]
    said = [*one.ml.score_many(mixed[:50]), *other.ml.score_many(mixed[50:75]), *one.ml.score_many(mixed[75:])]
    alone, _ = train("surprise", make_training_rows())
    expected = learn_alone(alone, streams[0])
    for place, key in enumerate(series):
        found = [result for reading, result in zip(mixed, said, strict=True) if reading.series == key]
        assert all(isinstance(result, Judgement) for result in found)
        assert [(r.scored.prediction.score, r.scored.prediction.confidence) for r in found] == expected, place
    assert sql("SELECT count(*), max(number) FROM telemetry") == [(100, 20)]


def test_batches_in_opposite_order_do_not_wait_for_each_other(make_process, sql):
    processes = [make_process(), make_process()]
    series = [SeriesKey(make_device(), METRIC) for _ in range(6)]
    for key in series:
        train_kept(processes[0], key)

    def give(turn: int) -> list[Any]:
        keys = series if turn % 2 else series[::-1]
        return processes[turn % 2].ml.score_many([Reading(key, 60.0) for key in keys])

    with ThreadPoolExecutor(4) as pool:
        results = [result for batch in pool.map(give, range(20)) for result in batch]
    assert all(isinstance(result, Judgement) for result in results)
    assert sql("SELECT count(*), max(number) FROM telemetry") == [(120, 20)]


def test_what_is_wrong_with_one_reading_spoils_no_other(services, clock, series):
    train_kept(services, series)
    late = clock.now() + timedelta(minutes=5, seconds=1)
    stranger = SeriesKey(make_device(), METRIC)
    fault = ValidationFailed.of("value", "must be a number")
    given_readings = [Reading(series, 60.0), fault, Reading(stranger, 60.0), Reading(series, 60.0, late)]
    good, broken, missing, ahead = services.ml.score_many(given_readings)
    assert isinstance(good, Judgement)
    assert broken is fault
    assert isinstance(missing, ModelMissingError)
    assert isinstance(ahead, ValidationFailed)


# ---- what is refused leaves no trace


def test_a_reading_too_far_ahead_changes_nothing(services, clock, series, sql):
    train_kept(services, series)
    before = load_detector(services, series)
    with pytest.raises(ValidationFailed, match="5 minutes ahead"):
        services.ml.score(Reading(series, 60.0, clock.now() + timedelta(minutes=5, microseconds=1)))
    assert sql("SELECT count(*) FROM telemetry") == [(0,)]
    assert_same_state(load_detector(services, series), before)
    assert services.ml.score(Reading(series, 60.0, clock.now() + timedelta(minutes=5))).scored.model_id


def test_training_rows_too_far_ahead_are_refused(services, clock, series, sql):
    rows = make_training_rows(30)
    rows.seconds[7] = (clock.now() + timedelta(minutes=6)).timestamp()
    with pytest.raises(ValidationFailed, match=r"rows\[7\].timestamp"):
        train_kept(services, series, rows)
    assert sql("SELECT count(*) FROM ml_models") == [(0,)]


def test_made_up_series_push_no_model_out(services, series):
    hot, parts = HotModels(2), services.model_parts
    states = ModelStates(derive_key(services.settings.jwt_secret))
    streams = ModelStreams(services.database, states, hot, parts.telemetry.ensure_partitions)
    train_kept(services, series)
    streams.score(make_readings(series, 1)[0])
    for _ in range(5):
        with pytest.raises(ModelMissingError, match="POST /api/v1/ml/models/train"):
            streams.score(Reading(SeriesKey(make_device(), METRIC), 1.0))
    assert len(hot) == 1
    assert hot.find(series).model is not None


def test_the_model_not_asked_for_the_longest_makes_room():
    hot = HotModels(2)
    first, second, third = (SeriesKey(make_device(), METRIC) for _ in range(3))
    slots = [hot.find(first), hot.find(second)]
    assert hot.find(first) is slots[0]
    hot.find(third)
    assert len(hot) == 2
    assert hot.find(first) is slots[0]
    assert hot.find(second) is not slots[1]


def test_late_and_repeated_readings_are_kept_but_not_learnt(make_process, series, sql):
    first, second = make_process(), make_process()
    train_kept(first, series)
    readings = make_readings(series, 20)
    shuffled = [*readings[:10], readings[9], readings[3], *readings[10:]]
    said = [score((first, second)[place % 2], reading) for place, reading in enumerate(shuffled)]
    alone, _ = train("surprise", make_training_rows())
    assert [*said[:10], *said[12:]] == learn_alone(alone, readings)
    # The newest once more has its answer again; the earlier one is late.
    assert said[10:12] == [said[9], (0.0, 0.0)]
    assert load_detector(first, series).rejected_times == 2
    assert sql("SELECT count(*) FROM telemetry") == [(22,)]


# ---- readings sent again, since their answer was lost


def give_with_faults(services: Services, series: SeriesKey) -> tuple[list[Reading], list[Judgement]]:
    """A batch with anomalies in its middle and normal readings after them."""
    readings = make_readings(series, 30)
    readings[12:16] = [reading._replace(value=180.0 + place) for place, reading in enumerate(readings[12:16])]
    said = [result for result in services.ml.score_many(readings) if isinstance(result, Judgement)]
    assert len(said) == 30
    return readings, said


def list_alerts(said: list[Any]) -> list[tuple[int, float]]:
    """For each judgement that raised an alert its place and its confidence."""
    return [(place, j.scored.prediction.confidence) for place, j in enumerate(said) if j.alert_id is not None]


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_reading_sent_again_has_its_answer_again_in_any_process(make_process, series, sql, snapshot):
    first, second = make_process(), make_process()
    train_kept(first, series)
    reading = make_readings(series, 1)[0]._replace(value=180.0)
    said = first.ml.score(reading).scored.prediction
    assert said.is_anomaly == ANOMALY
    if snapshot:
        first.model_parts.streams.settle(series)
        sql("DELETE FROM telemetry")
    for process in (first, second, make_process()):
        assert process.ml.score(reading).scored.prediction == said
    alone, _ = train("surprise", make_training_rows())
    learn_alone(alone, [reading] * 4)
    assert_same_state(load_detector(first, series), alone)


def test_an_alert_lost_between_commit_and_answer_is_raised_when_the_reading_comes_again(make_process, series, sql):
    dying = make_process()
    train_kept(dying, series)
    readings = make_readings(series, 8)
    for reading in readings[:3]:
        dying.ml.score(reading)
    faulty = readings[3]._replace(value=180.0)
    # The process dies here: the reading is in the log, and nobody was told of it.
    dying.model_parts.streams.score(faulty)
    assert sql("SELECT count(*) FROM alerts") == [(0,)]
    judgement = make_process().ml.score(faulty)
    assert judgement.alert_id is not None
    assert sql("SELECT id, duplicate_of FROM alerts") == [(judgement.alert_id, None)]


def test_a_batch_sent_again_raises_the_alerts_of_all_its_anomalies(make_process, series, sql):
    one = make_process()
    train_kept(one, series)
    readings, said = give_with_faults(one, series)
    assert list_alerts(said)
    originals = sql("SELECT count(*) FROM alerts WHERE duplicate_of IS NULL")
    again = make_process().ml.score_many(readings)
    assert list_alerts(again) == list_alerts(said)
    assert again[-1].scored.prediction == said[-1].scored.prediction
    assert sql("SELECT count(*) FROM alerts WHERE duplicate_of IS NULL") == originals
    assert sql("SELECT count(*) FROM alerts") == [(2 * len(list_alerts(said)),)]
    assert load_detector(one, series).rows_seen == TRAINED + 30


def test_only_a_given_time_makes_a_reading_a_repetition(make_process, series):
    services = make_process()
    train_kept(services, series)
    said = services.ml.score(Reading(series, 180.0)).scored
    assert said.prediction != NOTHING_SAID
    # The clock of this test stands still: to the model the next ones are late, and it must not take them for this one.
    assert services.ml.score(Reading(series, 180.0)).scored.prediction == NOTHING_SAID
    assert services.ml.score_many([Reading(series, 180.0)])[0].scored.prediction == NOTHING_SAID
    assert services.ml.score(Reading(series, 180.0, said.read_at)).scored.prediction == said.prediction


# ---- versions


def test_a_new_version_is_used_everywhere_at_once(make_process, series):
    one, other = make_process(), make_process()
    first_id = train_kept(one, series)
    readings = make_readings(series, 12)
    for reading in readings[:4]:
        assert other.ml.score(reading).scored.model_id == first_id
    second_id = train_kept(one, series, make_training_rows(seed=9))
    said = [other.ml.score(reading).scored for reading in readings[4:8]]
    assert {scored.model_id for scored in said} == {second_id}
    assert not one.ml.get_model(first_id)["is_active"]
    assert [one.ml.get_model(i)["rows_seen"] for i in (first_id, second_id)] == [TRAINED + 4, TRAINED + 4]


def test_rolling_back_goes_on_with_what_the_version_knew(make_process, series):
    one, other = make_process(), make_process()
    first_id = train_kept(one, series)
    readings = make_readings(series, 30)
    for place, reading in enumerate(readings[:10]):
        score((one, other)[place % 2], reading)
    train_kept(other, series, make_training_rows(seed=9))
    for reading in readings[10:20]:
        score(one, reading)
    one.ml.activate(first_id)
    one.ml.activate(first_id)
    said = [score((one, other)[place % 2], reading) for place, reading in enumerate(readings[20:])]
    alone, _ = train("surprise", make_training_rows())
    learn_alone(alone, readings[:10])
    assert said == learn_alone(alone, readings[20:])
    assert one.ml.get_model(first_id)["rows_seen"] == TRAINED + 20


def test_versions_are_numbered_per_series_and_never_twice(services, series):
    first = train_kept(services, series)
    services.ml.delete(first)
    with pytest.raises(NotFound):
        services.ml.get_model(first)
    with pytest.raises(ModelMissingError):
        services.ml.score(Reading(series, 60.0))
    assert services.ml.get_model(train_kept(services, series))["version"] == 2
    other = SeriesKey(make_device(), METRIC)
    assert services.ml.get_model(train_kept(services, other))["version"] == 1


def test_versions_trained_at_once_leave_one_active(make_process, series, sql):
    processes = [make_process(), make_process()]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda place: train_kept(processes[place % 2], series, make_training_rows(60)), range(6)))
    assert sql("SELECT array_agg(version ORDER BY version) FROM ml_models") == [([1, 2, 3, 4, 5, 6],)]
    [(active_id, activation)] = sql("SELECT active_model_id, activation FROM ml_series")
    assert active_id in made
    assert activation == 6


# ---- states that cannot be used


@pytest.mark.parametrize("column", ["state", "version"])
def test_a_tampered_model_is_refused_and_another_can_take_over(make_process, series, sql, column):
    process = make_process()
    sound_id = train_kept(process, series)
    tampered_id = train_kept(process, series)
    if column == "state":
        sql("UPDATE ml_models SET state = set_byte(state, 5000, get_byte(state, 5000) # 1) WHERE id = %s", tampered_id)
    else:
        # A state copied to where it does not belong.
        sql(
            "UPDATE ml_models SET state = (SELECT state FROM ml_models WHERE id = %s) WHERE id = %s",
            sound_id,
            tampered_id,
        )
    reading = make_readings(series, 1)[0]
    with pytest.raises(ModelTamperedError, match=f"version={2}.*{series.device_id}.*{METRIC}"):
        process.ml.score(reading)
    [error] = process.ml.score_many([reading])
    assert isinstance(error, ModelTamperedError)
    assert sql("SELECT count(*) FROM telemetry") == [(0,)]
    process.ml.activate(sound_id)
    assert process.ml.score(reading).scored.model_id == sound_id
    with pytest.raises(ModelTamperedError):
        process.ml.activate(tampered_id)
    assert process.ml.get_model(sound_id)["is_active"]


def test_models_sealed_with_another_secret_are_refused(make_process, series):
    train_kept(make_process(), series)
    with pytest.raises(ModelTamperedError):
        make_process(jwt_secret="another secret, as long as it has to be").ml.score(Reading(series, 60.0))


def test_a_model_of_an_older_format_asks_to_be_trained_again(services, series, sql):
    model_id = train_kept(services, series)
    header = bytearray(HEADER.pack(MAGIC, 0, b"\0" * 32, 2))
    sql("UPDATE ml_models SET state = %s WHERE id = %s", bytes(header) + b"{}", model_id)
    with pytest.raises(ModelFormatError, match="train it again"):
        services.ml.score(Reading(series, 60.0))


# ---- readings past their days


def list_partitions(sql: Sql) -> list[str]:
    return [
        name
        for (name,) in sql(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'telemetry'::regclass ORDER BY 1"
        )
    ]


def test_partitions_are_made_ahead_and_dropped_after_their_days(make_process, clock, series, sql):
    process = make_process(telemetry_days=3)
    train_kept(process, series)
    readings = make_readings(series, 20)
    said = []
    for day in range(5):
        said += [score(process, reading) for reading in readings[4 * day : 4 * day + 4]]
        process.telemetry_upkeep.run_once()
        clock.advance(timedelta(days=1))
    assert list_partitions(sql) == [f"telemetry_2026_03_0{day}" for day in range(3, 9)]
    result = process.telemetry_upkeep.run_once()
    assert (result.settled, result.dropped) == (0, 1)
    assert sql("SELECT min(number), max(number) FROM telemetry") == [(9, 20)]
    # What is gone was learnt, and kept before it went.
    alone, _ = train("surprise", make_training_rows())
    assert said == learn_alone(alone, readings)
    assert_same_state(load_detector(make_process(), series), alone)


def test_a_reading_does_not_depend_on_the_worker(make_process, clock, series, sql):
    process = make_process()
    train_kept(process, series)
    clock.advance(timedelta(days=40))
    score(process, make_readings(series, 1)[0])
    assert list_partitions(sql) == [f"telemetry_2026_04_{day}" for day in (11, 12, 13)]


def test_a_model_that_cannot_be_used_does_not_hold_up_the_upkeep(make_process, clock, series, sql):
    process = make_process(telemetry_days=1)
    model_id = train_kept(process, series)
    score(process, make_readings(series, 1)[0])
    sql("UPDATE ml_models SET state = 'x' WHERE id = %s", model_id)
    clock.advance(timedelta(days=3))
    assert process.telemetry_upkeep.run_once().dropped == 2


# ---- long trainings


@pytest.fixture
def pending(services: Services, series: SeriesKey) -> int:
    """A training that is left to the worker."""
    order = TrainingOrder(series, "surprise", make_training_rows(), "tester")
    return services.database.run(
        lambda c: (services.model_parts.registry.open_series(c, series), services.model_parts.jobs.add(c, order))[1]
    )


def test_a_training_of_many_rows_is_left_to_the_worker(services, series):
    seconds = 1.6e9 + 10.0 * np.arange(50_001)
    row = services.ml.train(TrainingOrder(series, "surprise", TrainingRows(seconds, np.zeros(50_001)), "tester"))
    assert (row["status"], row["is_active"], row["rows_done"], row["rows_total"]) == ("training", False, 0, 50_001)
    with pytest.raises(ModelMissingError):
        services.ml.score(Reading(series, 60.0))
    with pytest.raises(Conflict, match="training"):
        services.ml.activate(row["model_id"])


def test_the_worker_trains_what_a_request_would_have(services, series, pending):
    assert services.model_parts.jobs.work_off("worker 1") == pending
    assert services.model_parts.jobs.work_off("worker 1") is None
    row = services.ml.get_model(pending)
    assert (row["status"], row["is_active"], row["rows_done"]) == ("ready", True, TRAINED)
    alone, summary = train("surprise", make_training_rows())
    assert row["metrics"] == vars(summary)
    readings = make_readings(series, 10)
    assert [score(services, reading) for reading in readings] == learn_alone(alone, readings)


def test_readings_that_come_during_a_training_are_learnt_by_its_version(services, series):
    train_kept(services, series, make_training_rows(300))
    order = TrainingOrder(series, "surprise", make_training_rows(), "tester", learns_from=0)
    services.database.run(lambda c: services.model_parts.jobs.add(c, order))
    readings = make_readings(series, 10)
    for reading in readings[:5]:
        score(services, reading)
    services.model_parts.jobs.work_off("worker 1")
    alone, _ = train("surprise", make_training_rows())
    assert [score(services, reading) for reading in readings[5:]] == learn_alone(alone, readings)[5:]


def test_a_training_survives_the_death_of_its_worker(services, pending, sql):
    sql("UPDATE ml_training_jobs SET leased_by = 'dead', leased_until = now() + interval '1 hour', attempts = 1")
    assert services.model_parts.jobs.work_off("worker 2") is None
    sql("UPDATE ml_training_jobs SET leased_until = now() - interval '1 second'")
    assert services.model_parts.jobs.work_off("worker 2") == pending
    assert services.ml.get_model(pending)["status"] == "ready"


def test_a_training_that_kills_its_workers_is_given_up(services, pending, sql):
    sql(
        "UPDATE ml_training_jobs SET leased_by = 'dead', leased_until = now() - interval '1 second', attempts = %s",
        MOST_ATTEMPTS,
    )
    assert services.model_parts.jobs.work_off("worker 2") is None
    row = services.ml.get_model(pending)
    assert (row["status"], row["error"]) == ("failed", "the training was broken off 3 times")
    assert sql("SELECT count(*) FROM ml_training_jobs") == [(0,)]


def test_a_training_of_nothing_usable_fails_with_its_reason(services, series, sql):
    rows = TrainingRows(make_training_rows(40).seconds, np.full(40, np.nan))
    order = TrainingOrder(series, "surprise", rows, "tester")
    model_id = services.database.run(
        lambda c: (services.model_parts.registry.open_series(c, series), services.model_parts.jobs.add(c, order))[1]
    )
    services.model_parts.jobs.work_off("worker 1")
    row = services.ml.get_model(model_id)
    assert row["status"] == "failed"
    assert "0 usable rows" in row["error"]


def test_progress_is_seen_and_a_deleted_version_ends_its_training(services, series, sql):
    order = TrainingOrder(series, "surprise", make_training_rows(40_000), "tester")
    services.database.run(lambda c: services.model_parts.registry.open_series(c, series))
    model_id = services.database.run(lambda c: services.model_parts.jobs.add(c, order))
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(services.model_parts.jobs.work_off, "worker 1")
        assert await_condition(lambda: services.ml.get_model(model_id)["rows_done"] > 0, 60.0)
        row = services.ml.delete(model_id)
        assert row["status"] == "training"
        assert 0 < row["rows_done"] < 40_000
        assert ended.result() == model_id
    assert sql("SELECT (SELECT count(*) FROM ml_models), (SELECT count(*) FROM ml_training_jobs)") == [(0, 0)]
    with pytest.raises(ModelMissingError):
        services.ml.score(Reading(series, 60.0))


def test_an_earlier_training_that_ends_later_does_not_replace_the_newer_version(services, series, pending):
    newer = train_kept(services, series)
    services.model_parts.jobs.work_off("worker 1")
    assert services.ml.get_model(pending)["status"] == "ready"
    assert services.ml.get_model(newer)["is_active"]


def test_two_workers_never_hold_one_training(make_process, services, series, pending):
    processes = [make_process() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda p: p.model_parts.jobs.work_off(f"worker {id(p)}"), processes))
    assert sorted(done, key=str) == [pending, None, None, None]
