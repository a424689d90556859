"""Series with labelled faults, and how many alerts a detector's scores would have raised on them."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml.state import Floats


@dataclass(frozen=True)
class LabelledSeries:
    """One series: its readings, how many train, and the windows (first and last row) that hold a fault.

    `clock` is the time observed: gaps count three steps at most. Alerts no further apart than `gap_seconds`
    are one; one that goes on is raised again after `remind_seconds`.
    """

    name: str
    timestamps: list[datetime]
    values: list[float]
    training_rows: int
    clock: Floats
    windows: list[tuple[int, int]]
    gap_seconds: float
    remind_seconds: float


@dataclass(frozen=True)
class AlertCounts:
    """Alerts by series and score threshold: windows found, false alerts (each series x thresholds)."""

    thresholds: Floats
    found: Floats
    false: Floats

    def select(self, series: NDArray[np.int64]) -> AlertCounts:
        """The counts of some of the series."""
        return AlertCounts(self.thresholds, self.found[series], self.false[series])


def read_series(data_dir: Path) -> list[LabelledSeries]:
    """All series that `manifest.json` in a folder names, in its order."""
    manifest: dict[str, Any] = json.loads((data_dir / "manifest.json").read_text(encoding="utf-8"))
    return [read_one_series(data_dir, entry) for entry in manifest["series"]]


def read_one_series(data_dir: Path, entry: dict[str, Any]) -> LabelledSeries:
    """One series of the manifest."""
    with (data_dir / entry["path"]).open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    timestamps = [parse_time(row[0]) for row in rows]
    seconds = np.array([timestamp.timestamp() for timestamp in timestamps])
    places = {timestamp: place for place, timestamp in reversed(list(enumerate(timestamps)))}
    windows = [(places[parse_time(first)], places[parse_time(last)]) for first, last in entry["windows"]]
    return LabelledSeries(
        name=entry["id"],
        timestamps=timestamps,
        values=[float(row[1]) if row[1] else math.nan for row in rows],
        training_rows=entry["train_rows"],
        clock=np.cumsum(np.clip(np.diff(seconds, prepend=seconds[0]), 0.0, 3.0 * entry["dt"])),
        windows=[window for window in windows if window[1] >= entry["train_rows"]],
        gap_seconds=entry["gap_s"],
        remind_seconds=entry["remind_s"],
    )


def parse_time(text: str) -> datetime:
    """A time of the files, to the second, as UTC."""
    return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)


def open_alerts(series: LabelledSeries, scores: Floats, threshold: float) -> list[int]:
    """The rows at which an alert would open, were each row at or above the threshold an anomaly."""
    opened: list[int] = []
    latest = -math.inf
    for row in np.flatnonzero(scores >= threshold).tolist():
        now = series.clock[row]
        if now - latest > series.gap_seconds or now - series.clock[opened[-1]] >= series.remind_seconds:
            opened.append(row)
        latest = now
    return opened


def count_alerts(series: LabelledSeries, scores: Floats, threshold: float) -> tuple[int, int]:
    """How many windows are found (each once, whatever number of alerts open in it), and the false alerts."""
    found: set[int] = set()
    false = 0
    for row in open_alerts(series, scores, threshold):
        within = next((k for k, (first, last) in enumerate(series.windows) if first <= row <= last), None)
        if within is None:
            false += 1
        else:
            found.add(within)
    return len(found), false


def tabulate_alerts(scored: list[tuple[LabelledSeries, Floats]], thresholds: Floats) -> AlertCounts:
    """The counts of every series at every threshold."""
    counts = np.array(
        [[count_alerts(series, scores, threshold) for threshold in thresholds] for series, scores in scored],
        dtype=np.float64,
    )
    return AlertCounts(thresholds, counts[..., 0], counts[..., 1])
