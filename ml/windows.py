"""Bounded windows over a stream: a sorted one for ranks and medians, a contiguous one for numpy."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort

import numpy as np

from ml.state import Floats, State, pack_numbers, unpack_numbers


class SortedWindow:
    """The last `capacity` values of a stream, kept both in order of arrival and in order of size.

    Plain `array` objects: 8 bytes a value, and `bisect` on them is several times faster than numpy.
    """

    __slots__ = ("_arrived", "_capacity", "_next", "_ordered")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._arrived = array("d")
        self._ordered = array("d")
        self._next = 0

    def __len__(self) -> int:
        return len(self._arrived)

    def push(self, value: float) -> None:
        """Add a value; the oldest leaves once the window is full."""
        arrived, ordered = self._arrived, self._ordered
        if len(arrived) < self._capacity:
            arrived.append(value)
        else:
            oldest = arrived[self._next]
            arrived[self._next] = value
            self._next = (self._next + 1) % self._capacity
            if value == oldest:
                return
            del ordered[bisect_left(ordered, oldest)]
        insort(ordered, value)

    def find_median(self) -> float:
        """The median of the values; the window must not be empty."""
        middle, odd = divmod(len(self._ordered), 2)
        if odd:
            return self._ordered[middle]
        return 0.5 * (self._ordered[middle - 1] + self._ordered[middle])

    def estimate_chance(self, value: float) -> float:
        """The chance (0..1) of a value at least as large as this one, by its rank among those of the window."""
        size = len(self._ordered)
        return (size - bisect_left(self._ordered, value) + 1) / (size + 1)

    def export_state(self) -> State:
        """The window as arrays, for `restore_state`."""
        return {"arrived": np.array(self._arrived, dtype=np.float64), "next": pack_numbers(self._next)}

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit this window."""
        arrived = state["arrived"]
        following = int(unpack_numbers(state["next"], 1)[0])
        if arrived.ndim != 1 or len(arrived) > self._capacity or not 0 <= following < self._capacity:
            raise ValueError("a window's state does not fit its capacity")
        self._arrived = array("d", arrived.tolist())
        self._ordered = array("d", np.sort(arrived).tolist())
        self._next = following


class History:
    """The last rows of a stream as contiguous numpy columns, so that windows on them cost no copy.

    The buffer is twice the capacity; when it is full its newer half moves to the front.
    """

    __slots__ = ("_buffer", "_capacity", "_columns", "_end")

    def __init__(self, capacity: int, columns: int) -> None:
        self._capacity = capacity
        self._buffer: Floats = np.zeros((columns, 2 * capacity))
        self._columns: list[Floats] = list(self._buffer)  # views: one index is faster than two
        self._end = 0

    def __len__(self) -> int:
        return min(self._end, self._capacity)

    def push(self, *row: float) -> None:
        """Add one row, one value for each column."""
        if self._end == self._buffer.shape[1]:
            self._buffer[:, : self._capacity] = self._buffer[:, self._capacity :]
            self._end = self._capacity
        for column, value in zip(self._columns, row, strict=True):
            column[self._end] = value
        self._end += 1

    def view_last(self, column: int, size: int) -> Floats:
        """The newest `size` values of a column, oldest first, as a view that may be written to."""
        return self._columns[column][self._end - size : self._end]

    def export_state(self) -> State:
        """The kept rows and their place in the buffer, for `restore_state`."""
        start = self._end - len(self)
        return {"rows": self._buffer[:, start : self._end].copy(), "end": pack_numbers(self._end)}

    def restore_state(self, state: State) -> None:
        """Take over what `export_state` gave; raises ValueError where it does not fit this history."""
        rows = state["rows"]
        end = int(unpack_numbers(state["end"], 1)[0])
        columns, size = self._buffer.shape
        if not 0 <= end <= size or rows.shape != (columns, min(end, self._capacity)):
            raise ValueError("a history's state does not fit its capacity")
        self._buffer[:] = 0.0
        self._buffer[:, end - rows.shape[1] : end] = rows
        self._end = end
