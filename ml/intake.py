"""From raw readings to rows that a model may learn: finite, in order, at most one in ten seconds."""

from __future__ import annotations

import math
from typing import NamedTuple

from ml.state import State, join_states, pack_numbers, select_state, unpack_numbers
from ml.windows import SortedWindow

FASTEST_STEP_SECONDS = 10.0
GAP_STEPS = 3.0
STEP_ROWS = 101
LARGEST_VALUE = 1e100  # beyond it squares overflow; no sensor measures such a quantity


class Row(NamedTuple):
    """A reading that a model may learn; its time is in seconds since 1970."""

    at_seconds: float
    value: float
    step_seconds: float
    after_gap: bool


class Intake:
    """Refuses what is not a reading, keeps order, averages what comes too fast, and notices gaps.

    The sampling step is the running median of the last 101 differences, so a sensor may change its pace.
    Where it is under 10 s, the mean of each 10 s is one row, given out with the first reading after it.
    """

    def __init__(self, step_seconds: float | None = None) -> None:
        self._steps = SortedWindow(STEP_ROWS)
        self._median_step: float | None = None
        if step_seconds is not None:
            self._push_step(step_seconds)
        self._last_at = -math.inf
        self._last_row_at = -math.inf
        self._bucket = math.nan
        self._bucket_sum = 0.0
        self._bucket_count = 0
        self.rejected_values = 0
        self.rejected_times = 0

    @property
    def step_seconds(self) -> float | None:
        """The step between rows; None until two readings came."""
        return None if self._median_step is None else max(FASTEST_STEP_SECONDS, self._median_step)

    def accept(self, at_seconds: float, value: float | None) -> Row | None:
        """The row to learn now, or None: not a finite value, late, repeated, or part of a mean still open."""
        if value is None or not abs(value) <= LARGEST_VALUE:
            self.rejected_values += 1
            return None
        if not at_seconds > self._last_at:
            self.rejected_times += 1
            return None
        if self._last_at > -math.inf:
            self._push_step(at_seconds - self._last_at)
        self._last_at = at_seconds
        if self._median_step is not None and self._median_step < FASTEST_STEP_SECONDS:
            return self._average(at_seconds, float(value))
        self._bucket = math.nan
        return self._make_row(at_seconds, float(value))

    def _push_step(self, step_seconds: float) -> None:
        self._steps.push(step_seconds)
        self._median_step = self._steps.find_median()

    def _average(self, at_seconds: float, value: float) -> Row | None:
        bucket = math.floor(at_seconds / FASTEST_STEP_SECONDS) * FASTEST_STEP_SECONDS
        closed, total, count = self._bucket, self._bucket_sum, self._bucket_count
        if bucket == closed:
            self._bucket_sum += value
            self._bucket_count += 1
            return None
        self._bucket, self._bucket_sum, self._bucket_count = bucket, value, 1
        if math.isnan(closed) or closed <= self._last_row_at:
            return None
        return self._make_row(closed, total / count)

    def _make_row(self, at_seconds: float, value: float) -> Row:
        step = self.step_seconds or 0.0
        after_gap = at_seconds - self._last_row_at > GAP_STEPS * step and self._last_row_at > -math.inf
        self._last_row_at = at_seconds
        return Row(at_seconds, value, step, after_gap)

    def export_state(self) -> State:
        """The intake as arrays, for `restore_state`."""
        scalars = pack_numbers(
            self._last_at,
            self._last_row_at,
            self._bucket,
            self._bucket_sum,
            self._bucket_count,
            self.rejected_values,
            self.rejected_times,
        )
        return join_states({"steps": self._steps.export_state(), "own": {"scalars": scalars}})

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""
        self._steps.restore_state(select_state(state, "steps"))
        self._median_step = self._steps.find_median() if len(self._steps) else None
        numbers = unpack_numbers(state["own.scalars"], 7)
        self._last_at, self._last_row_at, self._bucket, self._bucket_sum = numbers[:4]
        self._bucket_count, self.rejected_values, self.rejected_times = (int(number) for number in numbers[4:])
