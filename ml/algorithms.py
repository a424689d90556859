"""The algorithms there are, and how an empty model of each is made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ml.calibration import load_table
from ml.detector import Detector
from ml.isolation_forest import IsolationForestModel
from ml.model_errors import UnknownAlgorithmError
from ml.surprise_model import SurpriseModel

DEFAULT_ALGORITHM = SurpriseModel.algorithm
ALGORITHMS: dict[str, type[Detector]] = {
    SurpriseModel.algorithm: SurpriseModel,
    IsolationForestModel.algorithm: IsolationForestModel,
}


def make_detector(algorithm: str, step_seconds: float | None = None) -> Detector:
    """An empty model with its shipped table; raises UnknownAlgorithmError where there is none such."""
    if algorithm not in ALGORITHMS:
        raise UnknownAlgorithmError(f"{algorithm!r} is none of {', '.join(sorted(ALGORITHMS))}")
    return ALGORITHMS[algorithm](load_table(algorithm), step_seconds)


def find_step(seconds: Sequence[float]) -> float | None:
    """The median of the steps forward in time; None where there is none."""
    steps = sorted(later - before for before, later in pairwise(seconds) if later > before)
    return steps[len(steps) // 2] if steps else None
