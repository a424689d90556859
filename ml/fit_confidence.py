"""Fit the table from score to confidence on labelled series, and test by split halves whether its promise
holds.

python -m ml.fit_confidence --data DIR [--out FILE] [--splits N]

The same data give the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml.algorithms import ALGORITHMS, find_step
from ml.calibration import TABLE_FORMAT, TABLE_PATH, ConfidenceTable
from ml.labelled_series import AlertCounts, LabelledSeries, read_series, tabulate_alerts
from ml.state import Floats

FALSE_FROM_SCORE = 2.5
UNSEEN_FACTOR = 1.25
UNSEEN_ALERTS = 3.0  # the rule of three: where none was seen, up to three are not excluded (95 %)
LARGEST_CONFIDENCE = 0.90
THRESHOLDS = np.round(np.arange(1.8, 5.001, 0.02), 2)
NOMINALS = (0.70, 0.75, 0.80, 0.85)
SPLIT_SEED = 1
ANY_SCORE = ConfidenceTable("none", (0.0,), (0.0,))  # while scores are collected no confidence is needed


@dataclass(frozen=True)
class HalfResult:
    """What alerts at or above a nominal confidence came to on the halves that the table had not seen.

    `realised`: the share of real ones over all splits; `median` and `held_share` over the halves with any
    alert (`held_share`: where the share was at least nominal); `silent_share`: halves without one.
    """

    nominal: float
    realised: float
    median: float
    held_share: float
    silent_share: float


def score_series(algorithm: str, series: LabelledSeries) -> Floats:
    """The score of every row after training; 0 for the training rows."""
    seconds = [timestamp.timestamp() for timestamp in series.timestamps]
    split = series.training_rows
    detector = ALGORITHMS[algorithm](ANY_SCORE, find_step(seconds[:split]))
    detector.train(zip(seconds[:split], series.values[:split], strict=True))
    rows = zip(seconds[split:], series.values[split:], strict=True)
    return np.array([0.0] * split + [detector.update(at, value).score for at, value in rows])


def fit_confidences(counts: AlertCounts) -> Floats:
    """For each threshold the share of real alerts that a series nobody has seen can be promised.

    Real alerts are counted at every threshold. False ones are too few for that at high scores: they are
    counted at FALSE_FROM_SCORE alone, UNSEEN_ALERTS are added that nobody has seen yet, and from there they
    fall tenfold for each unit of a score that is -log10 of a chance. UNSEEN_FACTOR is what the detector,
    built on these series, may be worse on others. A share of real alerts at or above a score is then
    real / (real + false), made monotone and capped.
    """
    from sklearn.isotonic import IsotonicRegression

    found = counts.found.sum(axis=0)
    start = int(np.argmin(np.abs(counts.thresholds - FALSE_FROM_SCORE)))
    known = float(counts.false[:, start].sum()) + UNSEEN_ALERTS
    false = UNSEEN_FACTOR * known * 10.0 ** (FALSE_FROM_SCORE - counts.thresholds)
    weights = np.maximum(found, 1e-6)
    rising = IsotonicRegression(y_min=0.0, y_max=LARGEST_CONFIDENCE)
    fitted: Floats = rising.fit_transform(counts.thresholds, found / (found + false), sample_weight=weights)
    return np.round(fitted, 4)


def split_halves(counts: AlertCounts, splits: int) -> list[HalfResult]:
    """Fit on one random half of the series, count the alerts on the other, both ways round, many times."""
    generator = np.random.default_rng(SPLIT_SEED)
    results: list[list[tuple[float, float]]] = []
    series = len(counts.found)
    for _ in range(splits):
        order = generator.permutation(series)
        for half, other in (
            (order[: series // 2], order[series // 2 :]),
            (order[series // 2 :], order[: series // 2]),
        ):
            confidences = fit_confidences(counts.select(half))
            results.append([count_at(counts.select(other), confidences, nominal) for nominal in NOMINALS])
    return [summarise_halves(nominal, np.array(results)[:, k]) for k, nominal in enumerate(NOMINALS)]


def count_at(counts: AlertCounts, confidences: Floats, nominal: float) -> tuple[float, float]:
    """Windows found and false alerts at the first threshold that promises the nominal confidence."""
    reached = np.flatnonzero(confidences >= nominal)
    if not len(reached):
        return 0.0, 0.0
    return float(counts.found[:, reached[0]].sum()), float(counts.false[:, reached[0]].sum())


def summarise_halves(nominal: float, halves: Floats) -> HalfResult:
    """One line of the report from the (found, false) pairs of all halves."""
    raised = halves.sum(axis=1)
    spoke = raised > 0
    shares = halves[spoke, 0] / raised[spoke]
    return HalfResult(
        nominal=nominal,
        realised=float(halves[:, 0].sum() / max(1.0, raised.sum())),
        median=float(np.median(shares)) if len(shares) else 0.0,
        held_share=float(np.mean(shares >= nominal)) if len(shares) else 0.0,
        silent_share=float(np.mean(~spoke)),
    )


def fit_algorithm(algorithm: str, series: list[LabelledSeries], splits: int) -> dict[str, Any]:
    """The table of one algorithm with what speaks for it, ready for JSON."""
    counts = tabulate_alerts([(one, score_series(algorithm, one)) for one in series], THRESHOLDS)
    halves = split_halves(counts, splits)
    return {
        "scores": THRESHOLDS.tolist(),
        "confidences": fit_confidences(counts).tolist(),
        "windows_found": counts.found.sum(axis=0).astype(int).tolist(),
        "false_alerts": counts.false.sum(axis=0).astype(int).tolist(),
        "split_halves": [{name: round(value, 3) for name, value in vars(half).items()} for half in halves],
    }


def digest_series(series: list[LabelledSeries]) -> str:
    """A short name for the data that a table was fitted on."""
    digest = hashlib.sha256()
    for one in series:
        digest.update(repr((one.name, one.timestamps, one.values, one.windows, one.training_rows)).encode())
    return digest.hexdigest()[:12]


def report_algorithm(algorithm: str, fitted: dict[str, Any]) -> None:
    """Print nominal against realised precision."""
    sys.stdout.write(f"{algorithm}: fitted on one half of the series, realised on the other\n")
    sys.stdout.write("  nominal  realised  median  held  silent\n")
    for half in fitted["split_halves"]:
        row = (half[key] for key in ("nominal", "realised", "median", "held_share", "silent_share"))
        sys.stdout.write("  {:7.2f}  {:8.3f}  {:6.2f}  {:4.2f}  {:6.2f}\n".format(*row))


def main() -> None:
    """Read the series, fit every algorithm's table, write the file, print the split-half figures."""
    parser = argparse.ArgumentParser(prog="python -m ml.fit_confidence", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.json and the series")
    parser.add_argument("--out", type=Path, default=TABLE_PATH)
    parser.add_argument("--splits", type=int, default=400)
    arguments = parser.parse_args()
    series = read_series(arguments.data)
    fitted = {name: fit_algorithm(name, series, arguments.splits) for name in sorted(ALGORITHMS)}
    document = {"format": TABLE_FORMAT, "version": f"1-{digest_series(series)}", "algorithms": fitted}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name, table in fitted.items():
        report_algorithm(name, table)


if __name__ == "__main__":
    main()
