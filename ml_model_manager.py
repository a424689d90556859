"""Train, score and keep the anomaly models: the one door through which the rest of the product uses `ml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import numpy as np

from foundation.clock import Clock
from foundation.database import Connection, Database
from foundation.errors import DomainError, ValidationFailed
from foundation.paging import Page, PageRequest
from ml.algorithms import DEFAULT_ALGORITHM, make_detector
from ml.answers import ANOMALY
from ml.detector import Detector
from ml.model_errors import ModelError, TrainingRowsError
from ml.readings import FURTHEST_AHEAD, Reading, ScoredReading, SeriesKey, TrainingRows
from ml.registry import ModelFilter, ModelRegistry, TrainingOrder
from ml.streams import ModelStreams
from ml.training import TrainingSummary, require_enough_rows, train
from ml.training_jobs import TrainingJobs
from telemetry import Telemetry

MOST_ROWS_AT_ONCE = 50_000
"""More rows than that are left to the worker: a request would take too long."""
MOST_ROWS = 1_000_000


class AnomalyHandler(Protocol):
    """What is to be done about an anomaly; called once for each, by the process that was given the reading."""

    def __call__(
        self,
        device_id: str,
        metric: str,
        value: float,
        model_id: str,
        confidence: float,
        *,
        occurred_at: datetime,
        step_seconds: float | None,
    ) -> int | None:
        """Return the identifier of the alert that was raised, None where none was."""


@dataclass(frozen=True)
class ModelParts:
    """What a manager of kept models works with."""

    database: Database
    clock: Clock
    registry: ModelRegistry
    streams: ModelStreams
    jobs: TrainingJobs
    telemetry: Telemetry


class Judgement(NamedTuple):
    """The score of a reading and what came of it: an alert's identifier, or None."""

    scored: ScoredReading
    alert_id: int | None


class MLModelManager:
    """Anomaly models: a single one in memory, or, made with `parts`, all those kept in the database.

    In memory: `fit`, then `predict_one` or `predict_many`; without training it learns from the readings alone.
    `algorithm` is `surprise` (the default) or `isolation_forest`, which needs training rows. Times are aware, or naive
    and then UTC. Not thread-safe: whoever shares such a manager serialises the readings of its stream.

    Kept: `train`, `score`, `score_many`, `list_models`, `get_model`, `activate`, `delete`; any number of threads and
    processes. `on_anomaly` is told of every anomaly.
    """

    def __init__(
        self,
        *,
        algorithm: str = DEFAULT_ALGORITHM,
        parts: ModelParts | None = None,
        on_anomaly: AnomalyHandler | None = None,
    ) -> None:
        self.algorithm = algorithm
        self._detector = make_detector(algorithm)
        self._given_parts = parts
        self._on_anomaly = on_anomaly

    @property
    def detector(self) -> Detector:
        """The model in memory, for sealing and for its counts."""
        return self._detector

    def fit(self, timestamps: Sequence[datetime], values: Sequence[float | None]) -> TrainingSummary:
        """Start anew and learn the rows, in order; raises TrainingRowsError where they do not pair up."""
        if len(timestamps) != len(values):
            raise TrainingRowsError(f"{len(timestamps)} timestamps but {len(values)} values")
        seconds = np.array([convert_time(timestamp) for timestamp in timestamps], dtype=float)
        self._detector, summary = train(self.algorithm, TrainingRows(seconds, np.array(values, dtype=float)))
        return summary

    def predict_one(self, timestamp: datetime, value: float | None) -> tuple[int, float]:
        """Score one reading, then learn it: (-1 anomaly or 1 normal, confidence 0..1 that it is a real
        fault).
        """
        prediction = self._detector.update(convert_time(timestamp), value)
        return prediction.is_anomaly, prediction.confidence

    def predict_many(self, timestamps: Sequence[datetime], values: Sequence[float | None]) -> list[tuple[int, float]]:
        """Score readings in their order, each before it is learnt."""
        return [self.predict_one(*reading) for reading in zip(timestamps, values, strict=True)]

    def train(self, order: TrainingOrder) -> Mapping[str, Any]:
        """Train a version on rows and make it the active one; of more than 50,000 rows the worker does it later.

        Raises:
            ValidationFailed: a row lies more than five minutes ahead, or nothing can be learnt of the rows.
        """
        late = order.rows.find_time_after(self._parts.clock.now() + FURTHEST_AHEAD)
        if late is not None:
            raise ValidationFailed.of(f"rows[{late}].timestamp", "lies more than 5 minutes ahead")
        learns_from = self._parts.database.run(lambda c: self._parts.registry.open_series(c, order.series))
        return self._train(replace(order, learns_from=learns_from))

    def train_on_kept(
        self, series: SeriesKey, algorithm: str, start_at: datetime, end_at: datetime | None, created_by: str
    ) -> Mapping[str, Any]:
        """Train a version on the readings kept from earlier calls in [start_at, end_at).

        Raises:
            ValidationFailed: there are none, too many, or nothing can be learnt of them.
        """

        def read(connection: Connection) -> TrainingOrder:
            learns_from = self._parts.registry.open_series(connection, series)
            rows = self._parts.telemetry.read_rows(connection, series, start_at, end_at, MOST_ROWS + 1)
            return TrainingOrder(series, algorithm, rows, created_by, learns_from)

        order = self._parts.database.run(read)
        if not len(order.rows):
            raise ValidationFailed.of("from", "no readings of this metric are kept in this range")
        if len(order.rows) > MOST_ROWS:
            raise ValidationFailed.of("from", f"the range holds more than {MOST_ROWS:,} readings")
        return self._train(order)

    def score(self, reading: Reading) -> Judgement:
        """Score one reading against the active model of its series, learn it, and tell of an anomaly.

        Raises:
            ValidationFailed: it lies more than five minutes ahead; nothing has changed.
            ModelError: there is no active model, or it cannot be used; nothing has changed.
        """
        checked = check_time(reading, self._parts.clock.now() + FURTHEST_AHEAD)
        if isinstance(checked, DomainError):
            raise checked
        return self._judge(reading, self._parts.streams.score(reading))

    def score_many(self, readings: Sequence[Reading | DomainError]) -> list[Judgement | DomainError]:
        """Score readings in order; the judgement of each, or why it has none. What is an error already stays one."""
        results: list[Judgement | DomainError] = []
        latest = self._parts.clock.now() + FURTHEST_AHEAD
        checked = [check_time(reading, latest) for reading in readings]
        good = [reading for reading in checked if isinstance(reading, Reading)]
        scores = iter(self._parts.streams.score_many(good))
        for reading in checked:
            if isinstance(reading, DomainError):
                results.append(reading)
                continue
            scored = next(scores)
            results.append(scored if isinstance(scored, DomainError) else self._try_to_judge(reading, scored))
        return results

    def list_models(self, wanted: ModelFilter, page: PageRequest) -> Page:
        """Return a page of versions, newest first."""
        with self._parts.database.autocommit() as connection:
            return self._parts.registry.list_page(connection, wanted, page)

    def get_model(self, model_id: int) -> Mapping[str, Any]:
        """Return one version with its record; raises NotFound."""
        with self._parts.database.autocommit() as connection:
            return self._parts.registry.get_record(connection, model_id)

    def activate(self, model_id: int) -> Mapping[str, Any]:
        """Make a version the one that scores its series, which is also how to roll back, and return it.

        Raises:
            NotFound: there is no such version.
            Conflict: it is not trained.
            ModelError: its state cannot be used.
        """
        self._parts.database.run(lambda c: self._parts.registry.activate(c, model_id))
        return self.get_model(model_id)

    def delete(self, model_id: int) -> Mapping[str, Any]:
        """Forget a version and return it as it was; raises NotFound."""

        def delete(connection: Connection) -> Mapping[str, Any]:
            record = self._parts.registry.get_record(connection, model_id)
            self._parts.registry.delete(connection, model_id)
            return record

        return self._parts.database.run(delete)

    @property
    def _parts(self) -> ModelParts:
        if self._given_parts is None:
            raise ModelError("this manager was made without a database: it keeps no models")
        return self._given_parts

    def _train(self, order: TrainingOrder) -> Mapping[str, Any]:
        run, registry = self._parts.database.run, self._parts.registry
        if len(order.rows) > MOST_ROWS_AT_ONCE:
            return self.get_model(run(lambda c: self._parts.jobs.add(c, order)))
        detector, summary = train(order.algorithm, order.rows)
        try:
            require_enough_rows(order.algorithm, summary)
        except TrainingRowsError as error:
            raise ValidationFailed.of("rows", error.message) from error
        return self.get_model(run(lambda c: registry.add_trained(c, order, detector, summary)))

    def _judge(self, reading: Reading, scored: ScoredReading) -> Judgement:
        if self._on_anomaly is None or scored.prediction.is_anomaly != ANOMALY:
            return Judgement(scored, None)
        alert_id = self._on_anomaly(
            *reading.series,
            reading.value,
            str(scored.model_id),
            scored.prediction.confidence,
            occurred_at=scored.read_at,
            step_seconds=scored.step_seconds,
        )
        return Judgement(scored, alert_id)

    def _try_to_judge(self, reading: Reading, scored: ScoredReading) -> Judgement | DomainError:
        try:
            return self._judge(reading, scored)
        except DomainError as error:
            return error


def check_time(reading: Reading | DomainError, latest: datetime) -> Reading | DomainError:
    """The reading, or what is wrong with it; what is an error already stays one."""
    if isinstance(reading, Reading) and reading.read_at is not None and reading.read_at > latest:
        # Else one wrong clock would make every later reading of the series come late.
        return ValidationFailed.of("timestamp", "lies more than 5 minutes ahead")
    return reading


def convert_time(timestamp: datetime) -> float:
    """Seconds since 1970; a naive time is UTC."""
    return (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)).timestamp()
