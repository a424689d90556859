"""What predict is given and what it answers, and training rows as two arrays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from ml.answers import Prediction
from ml.state import Floats

FURTHEST_AHEAD = timedelta(minutes=5)


class SeriesKey(NamedTuple):
    """One metric of one device; the device is a UUID in its canonical form."""

    device_id: str
    metric: str


class Reading(NamedTuple):
    """A finite value of a series; no time means now, by the clock of the database."""

    series: SeriesKey
    value: float
    read_at: datetime | None = None


class ScoredReading(NamedTuple):
    """What the active model says of a reading; `step_seconds` is the sensor's sampling step, as it is now."""

    model_id: int
    prediction: Prediction
    at_seconds: float
    step_seconds: float | None

    @property
    def read_at(self) -> datetime:
        """The time of the reading. Made when it is asked for: of a thousand readings hardly one is an anomaly."""
        return datetime.fromtimestamp(self.at_seconds, UTC)


@dataclass(frozen=True)
class TrainingRows:
    """Rows to train on, in order: seconds since 1970 (UTC), and values, NaN where there was none."""

    seconds: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def starts_at(self) -> datetime:
        """The earliest time."""
        return datetime.fromtimestamp(float(self.seconds.min()), UTC)

    @property
    def ends_at(self) -> datetime:
        """The latest time."""
        return datetime.fromtimestamp(float(self.seconds.max()), UTC)

    def find_time_after(self, latest: datetime) -> int | None:
        """The place of the first row later than an instant; None where there is none."""
        late = self.seconds > latest.timestamp()
        return int(late.argmax()) if late.any() else None

    def to_bytes(self) -> bytes:
        """Both arrays, one behind the other, as little-endian doubles."""
        return np.concatenate([self.seconds, self.values]).astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> TrainingRows:
        """The rows that `to_bytes` gave."""
        numbers = np.frombuffer(data, "<f8").astype(np.float64)
        half = len(numbers) // 2
        return cls(numbers[:half], numbers[half:])
