"""A sensor that falls silent raises one alert, which is resolved when it speaks again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from foundation.clock import FrozenClock
from foundation.settings import Settings
from ml.readings import Reading, SeriesKey, TrainingRows
from ml.registry import TrainingOrder
from sensor_silence import SilenceResult
from tests.conftest import START
from tests.factories import make_device
from tests.ml_streams import make_values
from wiring import Services, build_services

Sql = Callable[..., list[tuple[Any, ...]]]

STEP = timedelta(minutes=5)
NOTHING = SilenceResult(0, 0)


@pytest.fixture
def series(services: Services) -> SeriesKey:
    """A sensor with a model that was trained on a day of readings, the last of them before the test begins."""
    key = SeriesKey(make_device(), "temperature")
    seconds = START.timestamp() - 300.0 * np.arange(288, 0, -1)
    rows = TrainingRows(seconds, np.array(make_values(288, 1)))
    services.ml.train(TrainingOrder(key, "surprise", rows, "tester"))
    return key


@pytest.fixture
def deliver(services: Services, clock: FrozenClock, series: SeriesKey) -> Callable[..., None]:
    """Deliver readings a step apart, the clock moving with them: ``deliver(3)``."""

    def send(count: int, *, late: timedelta = timedelta()) -> None:
        for _ in range(count):
            clock.advance(STEP)
            services.ml.score(Reading(series, 20.0, clock.now() - late))

    return send


def list_alerts(sql: Sql) -> list[tuple[Any, ...]]:
    return sql("SELECT id, severity::text, state::text, source, metric, message FROM alerts ORDER BY id")


def test_silence_raises_one_alert_after_ten_steps(
    services: Services, clock: FrozenClock, sql: Sql, series: SeriesKey, deliver: Callable[..., None]
) -> None:
    deliver(12)
    last_at = clock.now()
    clock.advance(timedelta(minutes=49))
    assert services.sensor_silence.run_once() == NOTHING
    clock.advance(timedelta(minutes=1))
    assert services.sensor_silence.run_once() == SilenceResult(1, 0)
    assert services.sensor_silence.run_once() == NOTHING
    clock.advance(timedelta(hours=5))
    assert services.sensor_silence.run_once() == NOTHING

    [(alert_id, *alert)] = list_alerts(sql)
    message = f"Sensor silent: no temperature since {last_at.isoformat()}"
    assert alert == ["medium", "new", "sensor_silence", "temperature", message]
    assert sql("SELECT device_id::text, metadata ->> 'last_reading_at' FROM alerts WHERE id = %s", alert_id) == [
        (series.device_id, last_at.isoformat())
    ]


def test_alert_is_resolved_by_the_next_reading_and_the_next_silence_is_news(
    services: Services, clock: FrozenClock, sql: Sql, deliver: Callable[..., None]
) -> None:
    deliver(12)
    clock.advance(timedelta(hours=1))
    assert services.sensor_silence.run_once() == SilenceResult(1, 0)
    deliver(1)
    assert services.sensor_silence.run_once() == SilenceResult(0, 1)
    assert services.sensor_silence.run_once() == NOTHING
    assert [row[2] for row in list_alerts(sql)] == ["resolved"]
    assert sql("SELECT changed_by, notes FROM alert_states WHERE state = 'resolved'") == [
        ("sensor silence watch", "Readings come in again")
    ]
    clock.advance(timedelta(hours=1))
    assert services.sensor_silence.run_once() == SilenceResult(1, 0)
    assert [row[2] for row in list_alerts(sql)] == ["resolved", "new"]


def test_alert_that_a_person_resolved_stays_as_it_is(
    services: Services, clock: FrozenClock, sql: Sql, deliver: Callable[..., None], act: Callable[..., Any]
) -> None:
    deliver(12)
    clock.advance(timedelta(hours=1))
    services.sensor_silence.run_once()
    [(alert_id, *_)] = list_alerts(sql)
    assert act(alert_id, "resolve", advance=True, resolution="no_action").status_code == 200
    clock.advance(timedelta(hours=1))
    assert services.sensor_silence.run_once() == NOTHING, "the silence goes on: somebody has dealt with it"
    deliver(1)
    assert services.sensor_silence.run_once() == SilenceResult(0, 1)
    assert sql("SELECT resolution::text FROM alerts") == [("no_action",)]


def test_replayed_readings_promise_no_next_one(
    services: Services, clock: FrozenClock, deliver: Callable[..., None]
) -> None:
    deliver(12, late=timedelta(minutes=16))
    clock.advance(timedelta(days=1))
    assert services.sensor_silence.run_once() == NOTHING


def test_gateway_that_delivers_by_the_hour_is_not_silent_in_between(
    services: Services, clock: FrozenClock, series: SeriesKey
) -> None:
    for _ in range(8):
        clock.advance(timedelta(hours=1))
        times = [clock.now() - STEP * ago for ago in range(11, -1, -1)]
        services.ml.score_many([Reading(series, 20.0, at) for at in times])
    clock.advance(timedelta(minutes=179))
    assert services.sensor_silence.run_once() == NOTHING
    clock.advance(timedelta(minutes=1))
    assert services.sensor_silence.run_once() == SilenceResult(1, 0)


def test_fast_sensor_gets_a_quarter_of_an_hour(services: Services, clock: FrozenClock, series: SeriesKey) -> None:
    for _ in range(40):
        clock.advance(timedelta(seconds=10))
        services.ml.score(Reading(series, 20.0, clock.now()))
    clock.advance(timedelta(minutes=15) - timedelta(seconds=1))
    assert services.sensor_silence.run_once() == NOTHING
    clock.advance(timedelta(seconds=1))
    assert services.sensor_silence.run_once() == SilenceResult(1, 0)


def test_sensor_without_an_active_model_is_not_watched(
    services: Services, clock: FrozenClock, sql: Sql, deliver: Callable[..., None]
) -> None:
    deliver(12)
    [(model_id,)] = sql("SELECT id FROM ml_models")
    services.ml.delete(model_id)
    clock.advance(timedelta(hours=2))
    assert services.sensor_silence.run_once() == NOTHING


def test_workers_side_by_side_raise_it_once(
    services: Services, settings: Settings, clock: FrozenClock, sql: Sql, deliver: Callable[..., None]
) -> None:
    deliver(12)
    clock.advance(timedelta(hours=1))
    others = [build_services(settings, clock) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda one: one.sensor_silence.run_once(), [services, *others]))
    for other in others:
        other.database.close()
    assert sum(result.silent for result in results) == len(list_alerts(sql)) == 1


def test_no_steps_switch_the_watch_off(settings: Settings, clock: FrozenClock, deliver: Callable[..., None]) -> None:
    deliver(12)
    clock.advance(timedelta(hours=2))
    quiet = build_services(settings.model_copy(update={"sensor_silence_steps": 0}), clock)
    assert quiet.sensor_silence.run_once() == NOTHING
    quiet.database.close()
