"""How good the anomaly detector is on labelled series: ``python -m benchmarks.ml_evaluation --data DIR``.

DIR holds ``manifest.json`` and the series that it names. Each is trained on its first rows and then streamed, reading
by reading, through an ``MLModelManager`` of its own. ``--stress`` loses, swaps and repeats rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.ml_quality import (
    BAND_EDGES,
    WAKING_BAND_EDGES,
    AlertQuality,
    ScoredSeries,
    measure_alerts,
    measure_calibration_error,
    measure_nab,
    soil,
)
from ml.algorithms import ALGORITHMS, DEFAULT_ALGORITHM
from ml.answers import ANOMALY
from ml.calibration import TABLE_PATH, load_table
from ml.fit_confidence import digest_series
from ml.labelled_series import LabelledSeries, read_series
from ml_model_manager import MLModelManager

CONFIDENCES = (0.50, 0.70, 0.75, 0.80, 0.85, 0.95)
ALERT_CONFIDENCE = 0.70
HEADINGS = ("Confidence", "Alerts", "Windows found", "Precision", "Recall", "F1", "False a day and sensor")


def score_series(algorithm: str, series: LabelledSeries) -> ScoredSeries:
    """Train on the first rows of a series and stream the rest."""
    manager, split = MLModelManager(algorithm=algorithm), series.training_rows
    manager.fit(series.timestamps[:split], series.values[:split])
    said = manager.predict_many(series.timestamps[split:], series.values[split:])
    confidences = [confidence if is_anomaly == ANOMALY else 0.0 for is_anomaly, confidence in said]
    return ScoredSeries(series, np.array([0.0] * split + confidences))


def evaluate(series: Sequence[LabelledSeries], algorithm: str, processes: int) -> list[ScoredSeries]:
    """Score all series, several at a time."""
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(partial(score_series, algorithm), series))


def show_quality(console: Console, scored: Sequence[ScoredSeries]) -> None:
    """Print the table and the three figures below it."""
    qualities = [measure_alerts(scored, confidence) for confidence in CONFIDENCES]
    title = f"{len(scored)} series, {qualities[0].days:,.0f} sensor days after training"
    table = Table(title=title, title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for quality in qualities:
        table.add_row(*list_cells(quality))
    console.print(table)
    for edges in (BAND_EDGES, WAKING_BAND_EDGES):
        error = measure_calibration_error(scored, edges)
        console.print(f"ECE of the alerts at {edges[0]:.2f} and above: {show_share(error, 3)}")
    console.print(f"NAB score of the alerts at {ALERT_CONFIDENCE:.2f}: {measure_nab(scored, ALERT_CONFIDENCE):.1f}")


def list_cells(quality: AlertQuality) -> list[str]:
    """Return a row of the table."""
    return [
        f">= {quality.confidence:.2f}",
        str(quality.alerts),
        f"{quality.found} of {quality.windows}",
        show_share(quality.precision),
        show_share(quality.recall),
        show_share(quality.f1),
        f"{quality.false_a_day:.4f}",
    ]


def show_share(value: float, digits: int = 2) -> str:
    """Return a number, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def show_promise(console: Console, series: Sequence[LabelledSeries], algorithm: str) -> None:
    """Print how the promise held on halves of the series that the confidence table had not seen."""
    if not load_table(algorithm).version.endswith(digest_series(list(series))):
        console.print("The confidence table was fitted on other series: its split halves say nothing of these.")
        return
    fitted = json.loads(TABLE_PATH.read_text(encoding="utf-8"))["algorithms"][algorithm]
    table = Table(title="Fitted on one half of the series, counted on the other", title_justify="left")
    for heading in ("Nominal", "Realised", "Median half", "Halves where it held"):
        table.add_column(heading, justify="right")
    for half in fitted["split_halves"]:
        shares = [f"{half[name]:.2f}" for name in ("nominal", "realised", "median")]
        table.add_row(*shares, f"{half['held_share']:.0%}")
    console.print(table)


def main(words: Sequence[str] | None = None) -> int:
    """Score, print, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ml_evaluation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with manifest.json and the series")
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), default=DEFAULT_ALGORITHM)
    parser.add_argument("--stress", action="store_true", help="lose, swap and repeat some rows first")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="series scored at a time (%(default)s)")
    arguments = parser.parse_args(words)
    try:
        series = read_series(arguments.data)
    except OSError as error:
        sys.stderr.write(f"ml_evaluation: {arguments.data} holds no labelled series ({error})\n")
        return 1
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    given = [soil(one) for one in series] if arguments.stress else series
    console.print(f"{arguments.algorithm}{', with lost, swapped and repeated rows' if arguments.stress else ''}")
    show_quality(console, evaluate(given, arguments.algorithm, arguments.processes))
    if not arguments.stress:
        show_promise(console, series, arguments.algorithm)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
