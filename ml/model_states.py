"""The state of active models: taken from the database and brought up to date, and kept there now and then.

What a model knows is defined by the database alone: the state that was kept, and the readings of the log with a higher
number, learnt in order. So every process that loads a model arrives at the very same scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from foundation.database import Connection
from foundation.queries import load_queries
from ml.detector import Detector
from ml.model_errors import ModelMissingError
from ml.readings import SeriesKey
from ml.serialization import ModelIdentity, open_model, seal_model


@dataclass(slots=True)
class LiveModel:
    """An active model with all readings up to `number` learnt, the newest of them stored at `since`."""

    model_id: int
    version: int
    activation: int
    number: int
    since: datetime
    detector: Detector

    def learn_missed(self, row: Mapping[str, Any]) -> None:
        """Learn the readings of the log that came between."""
        update = self.detector.update
        for at_seconds, value in zip(row["missed_seconds"] or (), row["missed_values"] or (), strict=True):
            update(at_seconds, value)


class ModelStates:
    """Loads and keeps states on the caller's connection; never commits. `key` seals them."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._queries = load_queries("ml_states")

    def load(self, connection: Connection, series: SeriesKey) -> LiveModel:
        """Return the active model of a series, with the whole log learnt.

        Raises:
            ModelMissingError: none is active.
            ModelFormatError, ModelTamperedError: its state cannot be used.
        """
        row = self._queries.load_state(connection, device_id=series.device_id, metric=series.metric)
        if row is None:
            raise ModelMissingError(series.device_id, series.metric)
        detector = self.open(bytes(row["state"]), row["version"], series)
        model = LiveModel(
            row["model_id"], row["version"], row["activation"], row["last_number"], row["since"], detector
        )
        model.learn_missed(row)
        return model

    def keep(self, connection: Connection, series: SeriesKey, model: LiveModel) -> None:
        """Keep how far a model has learnt."""
        state = self.seal(model.detector, model.version, series)
        self._queries.keep_snapshot(
            connection, model_id=model.model_id, number=model.number, since=model.since, state=state
        )

    def open(self, sealed: bytes, version: int, series: SeriesKey) -> Detector:
        """Return the model in sealed bytes; raises ModelFormatError or ModelTamperedError."""
        return open_model(sealed, ModelIdentity(version, series.device_id, series.metric), self._key)

    def seal(self, detector: Detector, version: int, series: SeriesKey) -> bytes:
        """Return a model as sealed bytes."""
        return seal_model(detector, ModelIdentity(version, series.device_id, series.metric), self._key)
