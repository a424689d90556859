"""Scoring readings against the active model of their series, whichever process they reach.

A reading is appended to the log of its series and gets its number there, under the lock of the series' row; the same
call brings what other processes have appended meanwhile. The cached model learns that first, then scores the reading.
Only who appended a reading acts on its score.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from foundation.database import Connection, Database
from foundation.errors import DomainError, Unavailable
from foundation.queries import load_queries
from ml.hot_models import HotModels, StreamSlot
from ml.model_errors import ModelError, ModelMissingError
from ml.model_states import LiveModel, ModelStates
from ml.readings import Reading, ScoredReading, SeriesKey

SNAPSHOT_READINGS = 512
"""A snapshot costs 6 ms of processor time, 12 us a reading; replaying so many takes 30 ms."""
MOST_MISSED = 256
"""A cached model that is further behind is loaded anew: that takes 7 ms and replays 256 on average."""
SERIES_AT_ONCE = 100
"""A batch locks so many series at a time: while it loads cold models, others wait for a few of them only."""
LOAD_ATTEMPTS = 4


class ModelStreams:
    """Scores readings, learns them, and keeps the states."""

    def __init__(
        self, database: Database, states: ModelStates, hot: HotModels, ensure_log: Callable[[Connection], None]
    ) -> None:
        self._database = database
        self._states = states
        self._hot = hot
        self._ensure_log = ensure_log
        # Batches are scored one after another. Threads that score side by side win nothing, for only one can run, but
        # change places at every call of numpy, and all their answers come at the end.
        self._batch_turn = threading.Lock()
        self._queries = load_queries("ml_streams", rows_are_dicts=True, prepared=("append_reading",))

    def score(self, reading: Reading) -> ScoredReading:
        """Append a reading, score it and learn it.

        Raises:
            ModelMissingError: its series has no active model; nothing was appended.
            ModelFormatError, ModelTamperedError: the model cannot be used; nothing was appended.
        """
        slot = self._hot.find(reading.series)
        with slot.lock, self._database.autocommit() as connection:
            self._ensure_log(connection)
            for _ in range(LOAD_ATTEMPTS):
                model = self._wake(connection, reading.series, slot)
                row = self._append(connection, reading, model)
                if row["number"] is not None:
                    row["number_before"] = row["number"] - 1
                    before = model.number
                    [scored] = learn(slot, row, [reading], [row["at_seconds"]])
                    self._keep_now_and_then(connection, reading.series, model, before)
                    return scored
                slot.model = None
        raise Unavailable("the model of this series is being changed")

    def score_many(self, readings: Sequence[Reading]) -> list[ScoredReading | DomainError]:
        """Score readings of any series, each series in the order given; the result of each, or why it has none."""
        places: dict[SeriesKey, list[int]] = {}
        for place, reading in enumerate(readings):
            places.setdefault(reading.series, []).append(place)
        results: list[ScoredReading | DomainError] = [Unavailable("the model of this series is being changed")]
        results *= len(readings)
        keys = sorted(places)
        for start in range(0, len(keys), SERIES_AT_ONCE):
            wanted = {key: [readings[place] for place in places[key]] for key in keys[start : start + SERIES_AT_ONCE]}
            for key, found in self._score_series(wanted):
                for place, result in zip(places[key], found, strict=True):
                    results[place] = result
        return results

    def settle(self, series: SeriesKey) -> None:
        """Keep all that the active model of a series has learnt."""
        with self._database.autocommit() as connection:
            self._states.keep(connection, series, self._states.load(connection, series))

    def _score_series(
        self, wanted: Mapping[SeriesKey, Sequence[Reading]]
    ) -> Iterable[tuple[SeriesKey, Sequence[ScoredReading | DomainError]]]:
        slots = {key: self._hot.find(key) for key in wanted}
        with ExitStack() as locks:
            # Taken in the order of the keys, as everybody does who takes more than one.
            for slot in slots.values():
                locks.enter_context(slot.lock)
            connection = locks.enter_context(self._database.autocommit())
            self._ensure_log(connection)
            waiting = dict(wanted)
            for _ in range(LOAD_ATTEMPTS):
                for key in list(waiting):
                    try:
                        self._wake(connection, key, slots[key])
                    except ModelError as error:
                        yield key, [error] * len(waiting.pop(key))
                if not waiting:
                    return
                yield from self._score_waiting(connection, waiting, slots)
                for key in waiting:
                    slots[key].model = None

    def _score_waiting(
        self, connection: Connection, waiting: dict[SeriesKey, Sequence[Reading]], slots: Mapping[SeriesKey, StreamSlot]
    ) -> Iterable[tuple[SeriesKey, Sequence[ScoredReading]]]:
        before = {key: model.number for key in waiting if (model := slots[key].model)}
        appended = self._append_all(connection, waiting, slots)
        with self._batch_turn:
            scored = [(key, learn(slots[key], row, waiting.pop(key), seconds)) for key, row, seconds in appended]
        for key, _ in scored:
            if model := slots[key].model:
                self._keep_now_and_then(connection, key, model, before[key])
        return scored

    def _wake(self, connection: Connection, series: SeriesKey, slot: StreamSlot) -> LiveModel:
        if slot.model is None:
            try:
                slot.model = self._states.load(connection, series)
            except ModelMissingError:
                self._hot.forget(series)
                raise
        return slot.model

    def _append(self, connection: Connection, reading: Reading, model: LiveModel) -> dict[str, Any]:
        row: dict[str, Any] = self._queries.append_reading(
            connection,
            device_id=reading.series.device_id,
            metric=reading.series.metric,
            read_at=reading.read_at,
            value=reading.value,
            activation=model.activation,
            number=model.number,
            since=model.since,
            most_missed=MOST_MISSED,
        )
        return row

    def _append_all(
        self,
        connection: Connection,
        waiting: Mapping[SeriesKey, Sequence[Reading]],
        slots: Mapping[SeriesKey, StreamSlot],
    ) -> list[tuple[SeriesKey, dict[str, Any], list[float]]]:
        keys = list(waiting)
        models = [model for key in keys if (model := slots[key].model)]
        flat = [reading for readings in waiting.values() for reading in readings]
        rows = self._queries.append_readings(
            connection,
            device_ids=[key.device_id for key in keys],
            metrics=[key.metric for key in keys],
            activations=[model.activation for model in models],
            numbers=[model.number for model in models],
            sinces=[model.since for model in models],
            most_missed=MOST_MISSED,
            places=write_array(str(place) for place, key in enumerate(keys, 1) for _ in waiting[key]),
            read_ats=write_array(r.read_at.isoformat() if r.read_at else "NULL" for r in flat),
            values=write_array(repr(reading.value) for reading in flat),
        )
        appended = []
        for row in rows:
            key = keys[row["place"] - 1]
            times = [reading.read_at for reading in waiting[key]]
            appended.append((key, row, [row["now_seconds"] if at is None else at.timestamp() for at in times]))
        return appended

    def _keep_now_and_then(self, connection: Connection, series: SeriesKey, model: LiveModel, before: int) -> None:
        # Shifted from model to model: those fed by one batch would else all be due with the same one.
        shift = model.model_id * 97
        if (before + shift) // SNAPSHOT_READINGS == (model.number + shift) // SNAPSHOT_READINGS:
            return
        self._states.keep(connection, series, model)


def learn(
    slot: StreamSlot, row: Mapping[str, Any], readings: Sequence[Reading], seconds: Sequence[float]
) -> list[ScoredReading]:
    """Learn what the cached model has missed, then score the readings (at `seconds` since 1970) that were appended."""
    model, slot.model = slot.model, None
    assert model is not None
    model.learn_missed(row)
    scored = [answer(model, *reading) for reading in zip(readings, seconds, strict=True)]
    model.number, model.since = row["number_before"] + len(readings), row["stored_at"]
    # Only now it is whole again: one that failed half-way must not be used any more.
    slot.model = model
    return scored


def answer(model: LiveModel, reading: Reading, at_seconds: float) -> ScoredReading:
    """Score a reading and learn it; one that was given before has its answer again, which may have been lost."""
    detector = model.detector
    said_before = None if reading.read_at is None else detector.recall(at_seconds, reading.value)
    prediction = detector.update(at_seconds, reading.value)
    return ScoredReading(model.model_id, said_before or prediction, at_seconds, detector.step_seconds)


def write_array(items: Iterable[str]) -> str:
    """An array as PostgreSQL reads it: one literal costs both sides a tenth of a thousand."""
    return f"{{{','.join(items)}}}"
