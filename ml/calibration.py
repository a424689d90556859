"""From a score to a confidence: a monotone table, fitted on labelled series, shipped as data."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from ml.model_errors import UnknownAlgorithmError

TABLE_PATH = Path(__file__).with_name("confidence_table.json")
TABLE_FORMAT = 1


@dataclass(frozen=True)
class ConfidenceTable:
    """Scores in ascending order, and for each the share of real alerts among those raised at or above it.

    Linear between two scores; below the first nothing is claimed (0), above the last no more than the last.
    """

    version: str
    scores: tuple[float, ...]
    confidences: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in pairwise(self.scores))
        monotone = all(low <= high for low, high in pairwise(self.confidences))
        bounded = all(0.0 <= confidence <= 1.0 for confidence in self.confidences)
        if not (self.scores and len(self.scores) == len(self.confidences) and rising and monotone and bounded):
            raise ValueError("a confidence table must rise in its scores and never fall in its confidences")

    def find_confidence(self, score: float) -> float:
        """The confidence (0..1) of a score."""
        above = bisect_right(self.scores, score)
        if above == 0:
            return 0.0
        if above == len(self.scores):
            return self.confidences[-1]
        low, high = self.scores[above - 1], self.scores[above]
        base = self.confidences[above - 1]
        return base + (self.confidences[above] - base) * (score - low) / (high - low)


@cache
def load_table(algorithm: str) -> ConfidenceTable:
    """The shipped table of an algorithm; raises UnknownAlgorithmError where there is none."""
    document: dict[str, Any] = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
    if document["format"] != TABLE_FORMAT:
        raise ValueError(f"{TABLE_PATH.name} has format {document['format']}, not {TABLE_FORMAT}")
    if algorithm not in document["algorithms"]:
        raise UnknownAlgorithmError(f"no confidence table for the algorithm {algorithm!r}")
    table = document["algorithms"][algorithm]
    return ConfidenceTable(document["version"], tuple(table["scores"]), tuple(table["confidences"]))
