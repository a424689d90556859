"""Training: rows in, a model and an account of what it took in out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ml.algorithms import find_step, make_detector
from ml.detector import Detector
from ml.isolation_forest import FEWEST_TRAINING_ROWS, IsolationForestModel
from ml.model_errors import TrainingRowsError
from ml.readings import TrainingRows

FEWEST_ROWS = {IsolationForestModel.algorithm: FEWEST_TRAINING_ROWS}
WATCHED_ROWS = 100


@dataclass(frozen=True)
class TrainingSummary:
    """What a training took in: rows learnt, readings refused for their value or their time, the step."""

    rows: int
    rejected_values: int
    rejected_times: int
    step_seconds: float | None


def train(
    algorithm: str, rows: TrainingRows, watch: Callable[[int], None] | None = None
) -> tuple[Detector, TrainingSummary]:
    """Return a model of the rows and what it took in; `watch` is told now and then how many it has seen.

    Raises:
        UnknownAlgorithmError: there is no such algorithm.
    """
    seconds, values = rows.seconds.tolist(), rows.values.tolist()
    detector = make_detector(algorithm, find_step(seconds))
    detector.train(watch_rows(seconds, values, watch))
    summary = TrainingSummary(
        rows=detector.rows_seen,
        rejected_values=detector.rejected_values,
        rejected_times=detector.rejected_times,
        step_seconds=detector.step_seconds,
    )
    return detector, summary


def watch_rows(
    seconds: list[float], values: list[float], watch: Callable[[int], None] | None
) -> Iterator[tuple[float, float]]:
    """Yield the rows, and tell `watch` after every hundred."""
    for place, row in enumerate(zip(seconds, values, strict=True)):
        if watch is not None and place % WATCHED_ROWS == 0:
            watch(place)
        yield row


def require_enough_rows(algorithm: str, summary: TrainingSummary) -> None:
    """Raise TrainingRowsError where a model of so few rows would never say anything."""
    fewest = FEWEST_ROWS.get(algorithm, 1)
    if summary.rows < fewest:
        raise TrainingRowsError(f"{summary.rows} usable rows are too few: {algorithm} needs at least {fewest}")
