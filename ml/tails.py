"""How rare a distance is, in orders of magnitude, measured against the stream's own past."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from itertools import pairwise
from typing import Protocol

import numpy as np

from ml.state import State, join_states, pack_numbers, select_state, unpack_numbers
from ml.windows import SortedWindow

TOP_SIZE = 200
RECENT_SIZE = 500
TAIL_ROWS = 100  # one row in so many belongs to the tail
FEWEST_EXCEEDANCES = 5
CLUSTER_ROWS = 24  # exceedances closer than this may be one event
LEARNING_ROWS = 50
TIE_SHARE = 0.05  # ties (a quantised stream) leave no excess; then this share of the threshold is the scale
LOG_TWO = math.log10(2.0)


class SurpriseScale(Protocol):
    """Turns a deviation into a surprise, -log10 of its chance, and learns from it."""

    def measure_surprise(self, deviation: float) -> float:
        """-log10 of the chance of a deviation at least this large."""

    def learn(self, deviation: float) -> None:
        """Take one deviation into the record."""

    def export_state(self) -> State:
        """The record as arrays, for `restore_state`."""

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""


class Tail:
    """The upper tail of the absolute deviation, learnt online in bounded memory.

    Above the 1 % quantile of everything seen, an exponential law of unknown mean in its predictive form:
    `-log10 p = -log10(rate) + m log10(1 + z/m)`, z the excess in mean excesses and m the number of *clusters*
    of exceedances (a run of neighbours tells about the tail once, not fifty times). The predictive form is
    heavier than the plain exponential while m is small, so a young tail claims little. Below the quantile:
    the rank among the last 500, which follows the stream as it changes. A stream without any spread has no
    scale: it claims the rate alone.
    """

    __slots__ = ("_excess", "_kept", "_recent", "_seen", "_threshold", "_top", "_top_rows", "_weight")

    def __init__(self) -> None:
        self._recent = SortedWindow(RECENT_SIZE)
        self._top = array("d")  # the largest ever seen, ascending
        self._top_rows = array("q")  # the row each of them was seen at, in the same order
        self._seen = 0
        self._kept = 0  # exceedances that the fit below stands on; 0: not fitted yet
        self._threshold = math.inf
        self._excess = 0.0
        self._weight = 1.0

    def measure_surprise(self, deviation: float) -> float:
        """-log10 of the chance of a deviation at least this large; 0 until 50 were learnt."""
        if not self._kept:
            return 0.0
        distance = abs(deviation)
        base = math.log10(self._seen / self._kept)
        if distance > self._threshold:
            if self._excess <= 0.0:
                return base
            scaled = (distance - self._threshold) / self._excess
            return base + self._weight * math.log10(1.0 + scaled / self._weight)
        return min(-math.log10(self._recent.estimate_chance(distance)), base)

    def learn(self, deviation: float) -> None:
        """Take one deviation into the tail."""
        distance = abs(deviation)
        self._recent.push(distance)
        self._seen += 1
        if len(self._top) < TOP_SIZE or distance > self._top[0]:
            self._take_into_top(distance)
        exceeds = distance > self._threshold
        if exceeds or not self._kept or self._seen % TAIL_ROWS == 0:
            kept = min(TOP_SIZE - 1, max(FEWEST_EXCEEDANCES, self._seen // TAIL_ROWS))
            if self._seen >= LEARNING_ROWS and (exceeds or kept != self._kept):
                self._fit(kept)

    def _take_into_top(self, distance: float) -> None:
        place = bisect_right(self._top, distance)
        self._top.insert(place, distance)
        self._top_rows.insert(place, self._seen)
        if len(self._top) > TOP_SIZE:
            self._top.pop(0)
            self._top_rows.pop(0)

    def _fit(self, kept: int) -> None:
        self._kept = kept
        self._threshold = self._top[-kept - 1]
        excess = math.fsum(self._top[-kept:]) / kept - self._threshold
        self._excess = max(excess, TIE_SHARE * self._threshold)
        rows = sorted(self._top_rows[-kept:])
        self._weight = 1.0 + sum(later - row > CLUSTER_ROWS for row, later in pairwise(rows))

    def export_state(self) -> State:
        """The tail as arrays, for `restore_state`."""
        return join_states(
            {
                "recent": self._recent.export_state(),
                "top": {
                    "values": np.array(self._top, dtype=np.float64),
                    "rows": np.array(self._top_rows, dtype=np.float64),
                    # The fit is kept and not made anew: it may be older than the newest of the values.
                    "fit": pack_numbers(self._seen, self._kept, self._threshold, self._excess, self._weight),
                },
            }
        )

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""
        top = select_state(state, "top")
        if top["values"].shape != top["rows"].shape or len(top["values"]) > TOP_SIZE:
            raise ValueError("a tail's largest values and their rows do not pair up")
        self._recent.restore_state(select_state(state, "recent"))
        self._top = array("d", top["values"].tolist())
        self._top_rows = array("q", top["rows"].astype(np.int64).tolist())
        seen, kept, self._threshold, self._excess, self._weight = unpack_numbers(top["fit"], 5)
        self._seen, self._kept = int(seen), int(kept)


class TwoTails:
    """A rise and a fall, each with its own tail: a rare fall is not hidden by frequent rises.

    The chance is doubled, since either side could have been the rare one.
    """

    __slots__ = ("_fall", "_rise")

    def __init__(self) -> None:
        self._rise = Tail()
        self._fall = Tail()

    def measure_surprise(self, deviation: float) -> float:
        """-log10 of the chance of a deviation at least this large on its side, doubled."""
        side = self._rise if deviation >= 0.0 else self._fall
        return max(0.0, side.measure_surprise(deviation) - LOG_TWO)

    def learn(self, deviation: float) -> None:
        """Take one deviation into both tails, as nothing into that of the other side."""
        own, other = (self._rise, self._fall) if deviation >= 0.0 else (self._fall, self._rise)
        own.learn(deviation)
        other.learn(0.0)

    def export_state(self) -> State:
        """Both tails as arrays, for `restore_state`."""
        return join_states({"rise": self._rise.export_state(), "fall": self._fall.export_state()})

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit."""
        self._rise.restore_state(select_state(state, "rise"))
        self._fall.restore_state(select_state(state, "fall"))
