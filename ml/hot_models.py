"""The models that a process keeps in memory: those asked for last, up to a limit."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ml.model_states import LiveModel
from ml.readings import SeriesKey


class StreamSlot:
    """The place of one series: its lock, which whoever scores holds, and its model once that is loaded."""

    __slots__ = ("lock", "model")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.model: LiveModel | None = None


class HotModels:
    """At most `limit` slots; the one not asked for the longest makes room.

    A slot that is put out while somebody scores with it simply ends with that: its series is loaded anew, as another
    process would load it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots: OrderedDict[SeriesKey, StreamSlot] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._slots)

    def find(self, series: SeriesKey) -> StreamSlot:
        """The slot of a series, made where there is none."""
        with self._lock:
            slot = self._slots.get(series)
            if slot is None:
                slot = self._slots[series] = StreamSlot()
                if len(self._slots) > self._limit:
                    self._slots.popitem(last=False)
            else:
                self._slots.move_to_end(series)
            return slot

    def forget(self, series: SeriesKey) -> None:
        """Drop the slot of a series that has no model: made-up series must not push out real ones."""
        with self._lock:
            self._slots.pop(series, None)
