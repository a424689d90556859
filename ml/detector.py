"""What every online model has in common: intake, warm-up, smoothing, cold start, confidence, state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np

from ml.answers import NOTHING_SAID, Answer, Prediction, RecentAnswers, decide
from ml.calibration import ConfidenceTable
from ml.intake import FASTEST_STEP_SECONDS, Intake, Row
from ml.state import State, join_states, pack_numbers, select_state, unpack_numbers

WARM_UP_ROWS = 24
ALERT_ROWS = 200  # no alert under this many rows
WAKING_ROWS = 600  # nobody is woken under this many
SLEEPING_CONFIDENCE = 0.79
REFERENCE_STEP_SECONDS = 300.0
STEP_WEIGHT = 0.5
SMOOTHING = 0.5 ** (1.0 / 1.5)  # an exponential mean with a half-life of one and a half samples


class Detector(ABC):
    """One online model of one metric of one device.

    `update` scores a reading against the past and then learns it. A reading that cannot be scored (not
    finite, late, repeated, part of an open mean of ten seconds) is normal with confidence 0 and, the last
    case apart, leaves the model as it was but for a count.
    """

    algorithm: str

    def __init__(self, table: ConfidenceTable, step_seconds: float | None = None) -> None:
        self._table = table
        self._intake = Intake(step_seconds)
        self._answers = RecentAnswers()
        self._built_step_seconds = 0.0
        self._waiting: list[Row] = []
        self._smoothed = 0.0
        self.rows_seen = 0
        if step_seconds is not None:
            self._build_for(max(step_seconds, FASTEST_STEP_SECONDS))

    def update(self, at_seconds: float, value: float | None) -> Prediction:
        """Score one reading (time in seconds since 1970, UTC) against the past, and learn it."""
        row = self._intake.accept(at_seconds, value)
        if row is None or value is None:
            return NOTHING_SAID
        self.rows_seen += 1
        if not self._built_step_seconds:
            self._wait_for_step(row)
            return NOTHING_SAID
        prediction = self._decide(self._learn(row))
        self._answers.remember(Answer(self.rows_seen, at_seconds, value, prediction))
        return prediction

    def recall(self, at_seconds: float, value: float) -> Prediction | None:
        """What `update` said of a reading with this time and value, if it was the newest or an anomaly of late.

        None where there was no such reading. To update with it once more says nothing and learns nothing.
        """
        return self._answers.find(at_seconds, value, self.rows_seen)

    def train(self, readings: Iterable[tuple[float, float | None]]) -> None:
        """Learn readings (seconds since 1970, value) in their order."""
        for at_seconds, value in readings:
            self.update(at_seconds, value)

    @property
    def rejected_values(self) -> int:
        """Readings that were no finite number."""
        return self._intake.rejected_values

    @property
    def rejected_times(self) -> int:
        """Readings that came late or twice."""
        return self._intake.rejected_times

    @property
    def step_seconds(self) -> float | None:
        """The sampling step as it is now; None until two readings came."""
        return self._intake.step_seconds

    def _wait_for_step(self, row: Row) -> None:
        """Without training rows the step shows only after some readings: keep those and learn them then."""
        self._waiting.append(row)
        if len(self._waiting) < WARM_UP_ROWS:
            return
        self._build_for(self._intake.step_seconds or REFERENCE_STEP_SECONDS)
        for waiting in self._waiting:
            self._learn(waiting)
        self._waiting.clear()

    def _learn(self, row: Row) -> float:
        if row.after_gap:
            self._forget_recent()
            self._smoothed = 0.0
        surprise = self._measure(row)
        if surprise is None:
            return 0.0
        self._smoothed = SMOOTHING * self._smoothed + (1.0 - SMOOTHING) * surprise
        # A slower sensor has fewer chances to cry wolf.
        return self._smoothed + STEP_WEIGHT * math.log10(max(row.step_seconds, 1.0) / REFERENCE_STEP_SECONDS)

    def _decide(self, score: float) -> Prediction:
        if self.rows_seen < ALERT_ROWS:
            return NOTHING_SAID
        confidence = self._table.find_confidence(score)
        if self.rows_seen < WAKING_ROWS:
            confidence = min(confidence, SLEEPING_CONFIDENCE)
        return decide(confidence, score)

    def _build_for(self, step_seconds: float) -> None:
        self._built_step_seconds = step_seconds
        self._build(step_seconds)

    @abstractmethod
    def _build(self, step_seconds: float) -> None:
        """Make the parts whose size depends on the sampling step."""

    @abstractmethod
    def _measure(self, row: Row) -> float | None:
        """The surprise of a row, which is then learnt; None where nothing could be compared."""

    @abstractmethod
    def _forget_recent(self) -> None:
        """Empty the short windows."""

    @abstractmethod
    def _export_parts(self) -> dict[str, State]:
        """The algorithm's own parts, by name."""

    @abstractmethod
    def _restore_parts(self, state: State) -> None:
        """Take over `_export_parts`, joined."""

    def export_state(self) -> State:
        """The whole model as named arrays: restored, it gives the very same scores from here on."""
        waiting = np.array([[*row] for row in self._waiting], dtype=np.float64).reshape(-1, 4)
        own: State = {
            "scalars": pack_numbers(self._built_step_seconds, self._smoothed, self.rows_seen),
            "waiting": waiting,
        }
        parts = self._export_parts() if self._built_step_seconds else {}
        answers = self._answers.export_state()
        return join_states({"own": own, "intake": self._intake.export_state(), "answers": answers, **parts})

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises KeyError or ValueError where it does not fit."""
        step_seconds, self._smoothed, rows_seen = unpack_numbers(state["own.scalars"], 3)
        self.rows_seen = int(rows_seen)
        self._waiting = [Row(at, value, step, gap > 0.0) for at, value, step, gap in state["own.waiting"].tolist()]
        self._intake.restore_state(select_state(state, "intake"))
        self._answers.restore_state(select_state(state, "answers"))
        if step_seconds:
            self._build_for(step_seconds)
            self._restore_parts(state)
