"""What a channel is, and the three quick ones: step, level and spread of the newest readings.

A channel is one way in which a reading can be unlike the readings before it: a signed deviation or None.
None means that the channel cannot say yet: after a start, or after a gap that emptied its short windows.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from ml.state import Floats, State, join_states, pack_numbers, select_state, unpack_numbers
from ml.windows import History, SortedWindow

DAY_SECONDS = 86_400.0
DAY_ROWS = 288  # at most, for one day's window
FEWEST_DAY_ROWS = 24
FEWEST_MEDIAN_ROWS = 12
SPREAD_ROWS = 48
SPREAD_FLOOR = 1e-3  # in long-run standard deviations: below it a stream counts as flat


class Channel(Protocol):
    """One way of being unlike the past."""

    def measure(self, at_seconds: float, value: float) -> float | None:
        """The deviation of this reading from the past, which it then joins."""

    def forget_recent(self) -> None:
        """Empty the short windows: the readings before a gap are no neighbours of those after it."""

    def export_state(self) -> State:
        """The channel as arrays, for `restore_state`."""

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""


class StepChannel:
    """The difference to the reading before."""

    def __init__(self) -> None:
        self._previous = math.nan

    def measure(self, at_seconds: float, value: float) -> float | None:
        """The difference; None for the first reading after a start or a gap."""
        difference = value - self._previous
        self._previous = value
        return None if math.isnan(difference) else difference

    def forget_recent(self) -> None:
        """Forget the reading before."""
        self._previous = math.nan

    def export_state(self) -> State:
        """The reading before."""
        return {"previous": pack_numbers(self._previous)}

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave."""
        (self._previous,) = unpack_numbers(state["previous"], 1)


class LevelChannel:
    """The difference to the median of one day (at most 288 readings)."""

    def __init__(self, step_seconds: float) -> None:
        self._day = SortedWindow(count_day_rows(step_seconds))

    def measure(self, at_seconds: float, value: float) -> float | None:
        """The difference; None while fewer than 12 readings are there to take a median of."""
        enough = len(self._day) >= FEWEST_MEDIAN_ROWS
        deviation = value - self._day.find_median() if enough else None
        self._day.push(value)
        return deviation

    def forget_recent(self) -> None:
        """Nothing: a median over a day survives a gap."""

    def export_state(self) -> State:
        """The day's window."""
        return self._day.export_state()

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""
        self._day.restore_state(state)


class SpreadChannel:
    """The log standard deviation of the last 48 readings, against its own median of a day."""

    def __init__(self, step_seconds: float) -> None:
        self._readings = History(SPREAD_ROWS, 1)
        self._run = 0
        self._past = SortedWindow(count_day_rows(step_seconds))
        self._count = 0  # Welford's long-run mean and sum of squares: the scale of the floor
        self._mean = 0.0
        self._squares = 0.0

    def measure(self, at_seconds: float, value: float) -> float | None:
        """The difference of logarithms; None until 48 readings came without a gap."""
        self._count += 1
        offset = value - self._mean
        self._mean += offset / self._count
        self._squares += offset * (value - self._mean)
        self._readings.push(value)
        self._run += 1
        if self._run < SPREAD_ROWS:
            return None
        floor = SPREAD_FLOOR * math.sqrt(self._squares / self._count)
        spread = math.log(measure_spread(self._readings.view_last(0, SPREAD_ROWS)) + floor + 1e-300)
        deviation = spread - self._past.find_median() if len(self._past) >= FEWEST_MEDIAN_ROWS else None
        self._past.push(spread)
        return deviation

    def forget_recent(self) -> None:
        """Start the window of 48 anew."""
        self._run = 0

    def export_state(self) -> State:
        """The window, the day's medians and the long-run scale."""
        return join_states(
            {
                "readings": self._readings.export_state(),
                "past": self._past.export_state(),
                "own": {"scalars": pack_numbers(self._run, self._count, self._mean, self._squares)},
            }
        )

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""
        self._readings.restore_state(select_state(state, "readings"))
        self._past.restore_state(select_state(state, "past"))
        run, count, self._mean, self._squares = unpack_numbers(state["own.scalars"], 4)
        self._run, self._count = int(run), int(count)


def count_day_rows(step_seconds: float) -> int:
    """Readings in one day's window: 24 to 288."""
    return min(DAY_ROWS, max(FEWEST_DAY_ROWS, int(DAY_SECONDS / step_seconds)))


def measure_spread(values: Floats) -> float:
    """The standard deviation, without numpy's general and ten times slower `std`."""
    centred = values - np.add.reduce(values) / len(values)
    return math.sqrt(float(centred @ centred) / len(values))
