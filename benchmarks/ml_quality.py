"""How good alerts are, by the labels of the series: precision, recall, false alerts a day, calibration, the NAB score.

An alert is what the service would open: it begins with the first anomaly at or above a confidence, anomalies no further
apart than the series' gap belong to it, and one that goes on is raised again after a day. A labelled window is found
when an alert begins in it, and counts once; an alert that begins outside every window is false.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ml.labelled_series import LabelledSeries, count_alerts, open_alerts

BAND_EDGES = (0.70, 0.75, 0.85, 0.95, 1.0)
WAKING_BAND_EDGES = (0.80, 0.85, 0.95, 1.0)
SECONDS_A_DAY = 86_400.0
# The standard profile of the Numenta Anomaly Benchmark: what a found window, a false and a missed one are worth.
FALSE_WEIGHT, MISSED_WEIGHT = 0.11, 1.0
FARTHEST = 3.0
NAN_SHARE, SWAPPED_SHARE, REPEATED_SHARE = 0.02, 0.01, 0.01

Confidences = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredSeries:
    """A series with the confidence of every row, 0 where it is no anomaly or trains."""

    series: LabelledSeries
    confidences: Confidences


@dataclass(frozen=True)
class AlertQuality:
    """What the alerts at or above a confidence come to, over all series."""

    confidence: float
    alerts: int
    found: int
    windows: int
    false: int
    days: float

    @property
    def precision(self) -> float:
        """Found windows among found windows and false alerts; not a number where there is neither."""
        return self.found / (self.found + self.false) if self.found + self.false else math.nan

    @property
    def recall(self) -> float:
        """Found windows among all."""
        return self.found / self.windows if self.windows else math.nan

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.found / (self.found + self.false + self.windows) if self.windows else math.nan

    @property
    def false_a_day(self) -> float:
        """False alerts of one sensor in one day."""
        return self.false / self.days


def measure_alerts(scored: Sequence[ScoredSeries], confidence: float) -> AlertQuality:
    """Return what the alerts at or above a confidence come to."""
    counts = [count_alerts(one.series, one.confidences, confidence) for one in scored]
    return AlertQuality(
        confidence=confidence,
        alerts=sum(len(open_alerts(one.series, one.confidences, confidence)) for one in scored),
        found=sum(found for found, _ in counts),
        windows=sum(len(one.series.windows) for one in scored),
        false=sum(false for _, false in counts),
        days=sum(count_days(one.series) for one in scored),
    )


def count_days(series: LabelledSeries) -> float:
    """Return the days that are observed after training."""
    steps = np.diff(series.clock, prepend=series.clock[0])
    return float(steps[series.training_rows :].sum()) / SECONDS_A_DAY


def measure_calibration_error(scored: Iterable[ScoredSeries], edges: Sequence[float]) -> float:
    """Return the expected calibration error of the alerts that open at the first edge or above.

    The highest confidence of an alert stands against whether that reading lies in a window. Between each two edges the
    mean confidence differs from the share of real ones; the result is the mean difference, weighted by alerts.
    """
    peaks = np.array([peak for one in scored for peak in _list_peaks(one, edges[0])]).reshape(-1, 2)
    if not len(peaks):
        return math.nan
    confidences, are_real = peaks[:, 0], peaks[:, 1]
    error = 0.0
    for low, high in pairwise([*edges[:-1], math.inf]):
        band = (confidences >= low) & (confidences < high)
        if band.any():
            error += float(band.mean()) * abs(float(confidences[band].mean() - are_real[band].mean()))
    return error


def _list_peaks(one: ScoredSeries, confidence: float) -> list[tuple[float, bool]]:
    opened = open_alerts(one.series, one.confidences, confidence)
    rows = np.flatnonzero(one.confidences >= confidence)
    peaks = []
    for first, following in pairwise([*opened, len(one.confidences)]):
        own = rows[(rows >= first) & (rows < following)]
        row = int(own[one.confidences[own].argmax()])
        is_real = any(start <= row <= end for start, end in one.series.windows)
        peaks.append((float(one.confidences[row]), is_real))
    return peaks


def measure_nab(scored: Iterable[ScoredSeries], confidence: float) -> float:
    """Return the score of the Numenta Anomaly Benchmark, standard profile, each alert counted once, where it opens.

    100 is to find every window at its first row and nothing else, 0 to say nothing. An early alert in a window is worth
    more than a late one, a false one shortly after a window costs less than one elsewhere. (Lavin and Ahmad 2015,
    "Evaluating Real-time Anomaly Detection Algorithms".)
    """
    total = windows = 0.0
    for one in scored:
        opened = open_alerts(one.series, one.confidences, confidence)
        total += _score_openings(one.series.windows, opened)
        windows += len(one.series.windows)
    silent = -MISSED_WEIGHT * windows
    return 100.0 * (total - silent) / (windows - silent)


def _score_openings(windows: Sequence[tuple[int, int]], opened: Iterable[int]) -> float:
    best = dict.fromkeys(windows, -MISSED_WEIGHT)
    outside = 0.0
    for row in opened:
        within = next((window for window in windows if window[0] <= row <= window[1]), None)
        if within is None:
            outside += _cost_outside(windows, row)
        else:
            length = within[1] - within[0] + 1
            worth = _sigmoid(-(within[1] - row + 1) / length) / _sigmoid(-1.0)
            best[within] = max(best[within], worth)
    return outside + sum(best.values())


def _cost_outside(windows: Sequence[tuple[int, int]], row: int) -> float:
    before = [window for window in windows if window[1] < row]
    if not before:
        return -FALSE_WEIGHT
    start, end = before[-1]
    return FALSE_WEIGHT * _sigmoid((row - end) / max(end - start, 1e-9))


def _sigmoid(position: float) -> float:
    return -1.0 if position > FARTHEST else 2.0 / (1.0 + math.exp(5.0 * position)) - 1.0


def soil(series: LabelledSeries) -> LabelledSeries:
    """Return a series as a bad line would deliver it: values lost, neighbours swapped, rows given twice.

    Values are lost among the training rows too; the time observed and the windows stay. A name gives the same dirt
    each time.
    """
    chance = np.random.default_rng(crc32(series.name.encode()))
    rows = len(series.values)
    values = np.array(series.values)
    values[chance.random(rows) < NAN_SHARE] = math.nan
    order = np.arange(rows)
    for row in np.flatnonzero(chance.random(rows) < SWAPPED_SHARE).tolist():
        if series.training_rows <= row < rows - 1:
            order[[row, row + 1]] = order[[row + 1, row]]
    for row in np.flatnonzero(chance.random(rows) < REPEATED_SHARE).tolist():
        if row > series.training_rows:
            order[row] = order[row - 1]
    timestamps = [series.timestamps[row] for row in order]
    return replace(series, timestamps=timestamps, values=values[order].tolist())
