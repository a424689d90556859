"""The kept readings: given back for plots and for training, and kept for as many days as is set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from foundation.clock import Clock
from foundation.database import Connection, Database
from foundation.queries import load_queries
from ml.readings import SeriesKey, TrainingRows

MOST_POINTS = 5000
DAYS_AHEAD = 2


@dataclass(frozen=True)
class TelemetryPoints:
    """Readings in order of time; `total` is how many there were before thinning."""

    points: Sequence[Mapping[str, Any]]
    total: int

    @property
    def is_thinned(self) -> bool:
        """Whether some were left out."""
        return self.total > len(self.points)


class Telemetry:
    """Reads the log of readings and looks after its partitions."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._queries = load_queries("telemetry", rows_are_dicts=True)
        self._ensured_day: date | None = None

    def list_points(self, series: SeriesKey, start_at: datetime | None, end_at: datetime | None) -> TelemetryPoints:
        """Return the readings in [start_at, end_at), at most 5,000.

        Of more, each of 2,500 equal runs is shown by its smallest and its largest reading.
        """
        with self._database.autocommit() as connection:
            rows = list(
                self._queries.list_points(
                    connection, **series._asdict(), start_at=start_at, end_at=end_at, most=MOST_POINTS
                )
            )
        return TelemetryPoints(rows, rows[0]["total"] if rows else 0)

    def read_rows(
        self, connection: Connection, series: SeriesKey, start_at: datetime, end_at: datetime | None, limit: int
    ) -> TrainingRows:
        """Return the readings in [start_at, end_at) to train on, in order of time, at most `limit`."""
        row = self._queries.list_training_rows(
            connection, **series._asdict(), start_at=start_at, end_at=end_at, limit=limit
        )
        return TrainingRows(np.array(row["seconds"] or (), dtype=float), np.array(row["readings"] or (), dtype=float))

    def ensure_partitions(self, connection: Connection) -> None:
        """Make the partitions of today and the days to come; it asks the database once a day.

        The worker does so too, but a reading must not depend on it.
        """
        today = self._clock.now().astimezone(UTC).date()
        if self._ensured_day != today:
            self._queries.ensure_partitions(connection, first_day=today, days=1 + DAYS_AHEAD)
            self._ensured_day = today

    def list_series_that_lag(self, before: date) -> list[SeriesKey]:
        """Return the series whose active model was last kept before a day, though readings have come since."""
        with self._database.autocommit() as connection:
            rows = self._queries.list_series_that_lag(connection, before=before)
            return [SeriesKey(row["device_id"], row["metric"]) for row in rows]

    def drop_partitions(self, connection: Connection, before: date) -> int:
        """Drop the readings stored before a day; return how many partitions those were."""
        return int(self._queries.drop_partitions(connection, before=before))

    def find_first_kept_day(self, days: int) -> date:
        """Return the first of the last so many days, today not counted."""
        return self._clock.now().astimezone(UTC).date() - timedelta(days=days)
