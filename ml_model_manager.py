"""Train, score and keep the anomaly models: the one door through which the rest of the product uses `ml`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ml.algorithms import DEFAULT_ALGORITHM, find_step, make_detector
from ml.detector import Detector
from ml.model_errors import TrainingRowsError


@dataclass(frozen=True)
class TrainingSummary:
    """What a training took in: rows learnt, readings refused for their value or their time, the step."""

    rows: int
    rejected_values: int
    rejected_times: int
    step_seconds: float | None


class MLModelManager:
    """One anomaly model, made, trained and asked; without training it learns from the readings alone.

    `algorithm`: `surprise` (the default) or `isolation_forest`, which needs training rows. Times are aware,
    or naive and then UTC. Not thread-safe: whoever shares a manager serialises the readings of its stream.
    """

    def __init__(self, *, algorithm: str = DEFAULT_ALGORITHM) -> None:
        self.algorithm = algorithm
        self._detector = make_detector(algorithm)

    @property
    def detector(self) -> Detector:
        """The model itself, for sealing and for its counts."""
        return self._detector

    def fit(self, timestamps: Sequence[datetime], values: Sequence[float | None]) -> TrainingSummary:
        """Start anew and learn the rows, in order; raises TrainingRowsError where they do not pair up."""
        if len(timestamps) != len(values):
            raise TrainingRowsError(f"{len(timestamps)} timestamps but {len(values)} values")
        seconds = [convert_time(timestamp) for timestamp in timestamps]
        self._detector = make_detector(self.algorithm, find_step(seconds))
        self._detector.train(zip(seconds, values, strict=True))
        return TrainingSummary(
            rows=self._detector.rows_seen,
            rejected_values=self._detector.rejected_values,
            rejected_times=self._detector.rejected_times,
            step_seconds=self._detector.step_seconds,
        )

    def predict_one(self, timestamp: datetime, value: float | None) -> tuple[int, float]:
        """Score one reading, then learn it: (-1 anomaly or 1 normal, confidence 0..1 that it is a real
        fault).
        """
        prediction = self._detector.update(convert_time(timestamp), value)
        return prediction.is_anomaly, prediction.confidence

    def predict_many(self, timestamps: Sequence[datetime], values: Sequence[float | None]) -> list[tuple[int, float]]:
        """Score readings in their order, each before it is learnt."""
        return [self.predict_one(*reading) for reading in zip(timestamps, values, strict=True)]


def convert_time(timestamp: datetime) -> float:
    """Seconds since 1970; a naive time is UTC."""
    return (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)).timestamp()
