"""The worker's care for kept readings: partitions ahead of time, and readings past their days dropped."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from foundation.database import Database
from ml.model_errors import ModelError
from ml.streams import ModelStreams
from telemetry import Telemetry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpkeepResult:
    """How many models were kept because their readings were about to go, and how many days of readings went."""

    settled: int
    dropped: int


class TelemetryUpkeep:
    """Keeps readings for a number of days after they were stored; whole days go, so up to one more is there."""

    def __init__(self, database: Database, telemetry: Telemetry, streams: ModelStreams, days: int) -> None:
        self._database = database
        self._telemetry = telemetry
        self._streams = streams
        self._days = days

    def run_once(self) -> UpkeepResult:
        """Make the partitions to come, and drop those past their days once all that is in them is learnt and kept."""
        with self._database.autocommit() as connection:
            self._telemetry.ensure_partitions(connection)
        first_kept_day = self._telemetry.find_first_kept_day(self._days)
        settled = 0
        for series in self._telemetry.list_series_that_lag(first_kept_day):
            try:
                self._streams.settle(series)
                settled += 1
            except ModelError as error:
                # It could not score either; the readings of all others must not stay for its sake.
                logger.warning("the model of %s of device %s: %s", series.metric, series.device_id, error.message)
        with self._database.autocommit() as connection:
            return UpkeepResult(settled, self._telemetry.drop_partitions(connection, first_kept_day))
