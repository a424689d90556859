"""The three channels with a long memory: time of day, shape and drift."""

from __future__ import annotations

import math

import numpy as np

from ml.channels import DAY_SECONDS
from ml.state import Floats, State, join_states, pack_numbers, select_state, unpack_numbers
from ml.windows import History, SortedWindow

DAYTIME_ROWS = 6
DAYTIME_DAYS = 14
DAYTIME_FEWEST_DAYS = 2
DAYTIME_SLOT_SECONDS = 300.0
SHAPE_ROWS = 32
SHAPE_KEPT = 1000
SHAPE_NEIGHBOURS = 3
SHAPE_FEWEST = 20  # earlier windows to compare with
DRIFT_ROWS = 96
DRIFT_BLOCK_SECONDS = 3600.0
DRIFT_DAYS = 14
DRIFT_FEWEST_BLOCKS = 24


class DaytimeChannel:
    """The mean over 6 readings of the difference to what this time of day used to be.

    Two expectations, the median of the same time over 14 days and the mean of the same time one and two weeks
    ago; what either of them explains is no deviation (a machine that rests on Sundays is no news every
    Sunday). The readings of one slot of the day stand at day modulo 15: 14 days and today.
    """

    def __init__(self, step_seconds: float) -> None:
        self._slot_seconds = max(DAYTIME_SLOT_SECONDS, step_seconds)
        slots = max(1, round(DAY_SECONDS / self._slot_seconds))
        self._values: Floats = np.zeros((slots, DAYTIME_DAYS + 1))
        self._days: Floats = np.full((slots, DAYTIME_DAYS + 1), -1.0)
        self._daily: list[float] = []
        self._weekly: list[float] = []

    def measure(self, at_seconds: float, value: float) -> float | None:
        """The smaller of the two mean differences; None until 6 readings in a row had two earlier days."""
        day, second = divmod(at_seconds, DAY_SECONDS)
        slot = min(len(self._values) - 1, int(second / self._slot_seconds))
        days: list[float] = self._days[slot].tolist()
        pairs = zip(days, self._values[slot].tolist(), strict=True)
        earliest = max(0.0, day - DAYTIME_DAYS)
        past = {then: seen for then, seen in pairs if earliest <= then < day}
        usual = find_median(sorted(past.values())) if len(past) >= DAYTIME_FEWEST_DAYS else None
        weeks = [past[then] for then in (day - 7.0, day - 14.0) if then in past]
        extend_run(self._daily, None if usual is None else value - usual)
        extend_run(self._weekly, value - math.fsum(weeks) / len(weeks) if weeks else None)
        place = int(day) % (DAYTIME_DAYS + 1)
        self._values[slot, place] = value
        self._days[slot, place] = day
        return self._compare_runs()

    def _compare_runs(self) -> float | None:
        if len(self._daily) < DAYTIME_ROWS:
            return None
        daily = math.fsum(self._daily) / DAYTIME_ROWS
        if len(self._weekly) < DAYTIME_ROWS:
            return daily
        weekly = math.fsum(self._weekly) / DAYTIME_ROWS
        if daily * weekly < 0.0:
            return 0.0  # above the one and below the other: between two expectations
        return min(daily, weekly, key=abs)

    def forget_recent(self) -> None:
        """Start the means over 6 readings anew."""
        self._daily.clear()
        self._weekly.clear()

    def export_state(self) -> State:
        """The days, and the runs of 6."""
        runs = {"daily": np.array(self._daily), "weekly": np.array(self._weekly)}
        return {"values": self._values.copy(), "days": self._days.copy(), **runs}

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""
        if state["values"].shape != self._values.shape or state["days"].shape != self._days.shape:
            raise ValueError("the days of a model do not fit its sampling step")
        self._values = state["values"].copy()
        self._days = state["days"].copy()
        self._daily = state["daily"].tolist()
        self._weekly = state["weekly"].tolist()


class ShapeChannel:
    """The distance of the last 32 readings, mean taken off, to their 3 nearest among 1,000 earlier windows.

    The windows are not stored: with c the centred window, |w - c|^2 = |w|^2 - 2 w.c + |c|^2, and w.c is one
    correlation of c with the readings themselves, since c sums to zero. Windows that overlap the newest are
    left out.
    """

    def __init__(self) -> None:
        self._readings = History(SHAPE_KEPT + 2 * SHAPE_ROWS, 2)  # value, squared norm of the window ending here
        self._run = 0
        self._reference = math.nan  # taken off every value, so that a large offset costs no precision

    def measure(self, at_seconds: float, value: float) -> float | None:
        """The mean distance; None until 32 readings came without a gap and 20 earlier windows are there."""
        if math.isnan(self._reference):
            self._reference = value
        self._run += 1
        self._readings.push(value - self._reference, math.inf)  # infinite: a window across a gap is never near
        if self._run < SHAPE_ROWS:
            return None
        newest = self._readings.view_last(0, SHAPE_ROWS)
        centred = newest - np.add.reduce(newest) / SHAPE_ROWS
        norm = float(centred @ centred)
        self._readings.view_last(1, 1)[0] = norm
        size = len(self._readings)
        if size < 2 * SHAPE_ROWS + SHAPE_FEWEST:
            return None
        earlier = self._readings.view_last(0, size)[: size - SHAPE_ROWS]
        norms = self._readings.view_last(1, size)[SHAPE_ROWS - 1 : size - SHAPE_ROWS]
        # In place: the hottest lines of all scoring.
        squared = np.correlate(earlier, centred, "valid")
        squared *= -2.0
        squared += norms
        squared.partition(SHAPE_NEIGHBOURS - 1)
        distance = 0.0
        for far in squared[:SHAPE_NEIGHBOURS].tolist():
            distance += math.sqrt(max(0.0, far + norm))
        return distance / SHAPE_NEIGHBOURS if distance < math.inf else None

    def forget_recent(self) -> None:
        """Start the window of 32 anew."""
        self._run = 0

    def export_state(self) -> State:
        """The readings with their norms."""
        own: State = {"scalars": pack_numbers(self._run, self._reference)}
        return join_states({"readings": self._readings.export_state(), "own": own})

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""
        self._readings.restore_state(select_state(state, "readings"))
        run, self._reference = unpack_numbers(state["own.scalars"], 2)
        self._run = int(run)


class DriftChannel:
    """The mean of the last 96 readings against the median of the hourly means of 14 days: what creeps."""

    def __init__(self, step_seconds: float) -> None:
        self._readings = History(DRIFT_ROWS, 1)
        self._run = 0
        self._block_rows = max(1, round(DRIFT_BLOCK_SECONDS / step_seconds))
        block_seconds = self._block_rows * step_seconds
        self._blocks = SortedWindow(max(DRIFT_FEWEST_BLOCKS, int(DRIFT_DAYS * DAY_SECONDS / block_seconds)))
        self._block_sum = 0.0
        self._block_count = 0

    def measure(self, at_seconds: float, value: float) -> float | None:
        """The difference; None until 96 readings came without a gap and 24 hourly means are there."""
        self._readings.push(value)
        self._run += 1
        deviation = None
        if self._run >= DRIFT_ROWS and len(self._blocks) >= DRIFT_FEWEST_BLOCKS:
            mean = float(np.add.reduce(self._readings.view_last(0, DRIFT_ROWS))) / DRIFT_ROWS
            deviation = mean - self._blocks.find_median()
        self._block_sum += value
        self._block_count += 1
        if self._block_count >= self._block_rows:
            self._blocks.push(self._block_sum / self._block_count)
            self._block_sum, self._block_count = 0.0, 0
        return deviation

    def forget_recent(self) -> None:
        """Start the window of 96 and the hour anew; the 14 days stay."""
        self._run = 0
        self._block_sum, self._block_count = 0.0, 0

    def export_state(self) -> State:
        """The window, the hourly means and the open hour."""
        own: State = {"scalars": pack_numbers(self._run, self._block_sum, self._block_count)}
        parts = {"readings": self._readings.export_state(), "blocks": self._blocks.export_state(), "own": own}
        return join_states(parts)

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""
        self._readings.restore_state(select_state(state, "readings"))
        self._blocks.restore_state(select_state(state, "blocks"))
        run, self._block_sum, count = unpack_numbers(state["own.scalars"], 3)
        self._run, self._block_count = int(run), int(count)


def find_median(ordered: list[float]) -> float:
    """The median of values in order of size; there must be one."""
    middle, odd = divmod(len(ordered), 2)
    return ordered[middle] if odd else 0.5 * (ordered[middle - 1] + ordered[middle])


def extend_run(run: list[float], difference: float | None) -> None:
    """Add to a run of at most 6 differences; an unknown one breaks it."""
    if difference is None:
        run.clear()
        return
    run.append(difference)
    if len(run) > DAYTIME_ROWS:
        run.pop(0)
