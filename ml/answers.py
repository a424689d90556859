"""What a model says of a reading, and what it said of late: a reading whose answer was lost is sent again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.state import Floats, State

ANOMALY = -1
NORMAL = 1
ANOMALY_CONFIDENCE = 0.50
REMEMBERED_ROWS = 1000
"""No request holds more readings: one that is sent again finds all its anomalies."""


class Prediction(NamedTuple):
    """What a model says of one reading: -1 anomaly or 1 normal, the confidence (0..1), the score behind it."""

    is_anomaly: int
    confidence: float
    score: float


NOTHING_SAID = Prediction(NORMAL, 0.0, 0.0)


def decide(confidence: float, score: float) -> Prediction:
    """The prediction of a confidence (0..1) and the score behind it."""
    return Prediction(ANOMALY if confidence >= ANOMALY_CONFIDENCE else NORMAL, confidence, score)


class Answer(NamedTuple):
    """What was said of a reading (time in seconds since 1970), and how many rows the model had then seen."""

    row: int
    at_seconds: float
    value: float
    prediction: Prediction


class RecentAnswers:
    """The answers to the newest reading and to the anomalies among the last 1,000 rows."""

    __slots__ = ("_anomalies", "_newest")

    def __init__(self) -> None:
        self._newest: Answer | None = None
        self._anomalies: dict[float, Answer] = {}  # by time, oldest first: the intake lets none come twice

    def remember(self, answer: Answer) -> None:
        """Take the answer to the newest reading."""
        self._newest = answer
        if answer.prediction.is_anomaly == ANOMALY:
            self._anomalies[answer.at_seconds] = answer
            # Only here: while no anomaly comes, those that are there take no more room.
            self._forget_before(answer.row - REMEMBERED_ROWS)

    def find(self, at_seconds: float, value: float, rows_seen: int) -> Prediction | None:
        """The answer to a reading of this time and value; None where there is none, or it is 1,000 rows ago."""
        answer = self._newest
        if answer is None or answer.at_seconds != at_seconds:
            answer = self._anomalies.get(at_seconds)
        if answer is None or answer.value != value or answer.row <= rows_seen - REMEMBERED_ROWS:
            return None
        return answer.prediction

    def _forget_before(self, row: int) -> None:
        while (oldest := next(iter(self._anomalies.values()))).row <= row:
            del self._anomalies[oldest.at_seconds]

    def export_state(self) -> State:
        """The answers as arrays (row, time, value, confidence, score), for `restore_state`."""
        return {
            "newest": pack_answers([] if self._newest is None else [self._newest]),
            "anomalies": pack_answers(list(self._anomalies.values())),
        }

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""
        newest = unpack_answers(state["newest"])
        self._newest = newest[0] if newest else None
        self._anomalies = {answer.at_seconds: answer for answer in unpack_answers(state["anomalies"])}


def pack_answers(answers: list[Answer]) -> Floats:
    """Answers as an array, five numbers each."""
    rows = [(row, at, value, said.confidence, said.score) for row, at, value, said in answers]
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def unpack_answers(rows: NDArray[Any]) -> list[Answer]:
    """The answers of `pack_answers`; raises ValueError where they are none."""
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise ValueError(f"expected five numbers an answer, found shape {rows.shape}")
    return [
        Answer(int(row), at, value, decide(confidence, score)) for row, at, value, confidence, score in rows.tolist()
    ]
