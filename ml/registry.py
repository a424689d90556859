"""Versions of models on disk: kept, listed, activated, deleted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from foundation.database import Connection
from foundation.errors import Conflict, NotFound
from foundation.paging import Page, PageRequest, build_page
from foundation.queries import load_queries
from ml.detector import Detector
from ml.model_errors import ModelError
from ml.model_states import ModelStates
from ml.readings import SeriesKey, TrainingRows
from ml.training import TrainingSummary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOrder:
    """What is to be trained, for whom; `learns_from`: the newest reading of the log when the rows were taken."""

    series: SeriesKey
    algorithm: str
    rows: TrainingRows
    created_by: str
    learns_from: int = 0


@dataclass(frozen=True)
class ModelFilter:
    """Which versions to list; None means any."""

    device_id: str | None = None
    metric: str | None = None
    is_active: bool | None = None


class ModelRegistry:
    """Reads and writes versions on the caller's connection; never commits."""

    def __init__(self, states: ModelStates) -> None:
        self._states = states
        self._queries = load_queries("ml_registry", rows_are_dicts=True)

    def open_series(self, connection: Connection, series: SeriesKey) -> int:
        """Make the row of a series where there is none, and return the number of its newest reading."""
        self._queries.ensure_series(connection, **series._asdict())
        return int(self._queries.get_last_number(connection, **series._asdict()))

    def add_trained(
        self, connection: Connection, order: TrainingOrder, detector: Detector, summary: TrainingSummary
    ) -> int:
        """Keep a trained version, make it the active one, and return its identifier."""
        locked = self._lock(connection, order.series)
        version = int(self._queries.take_version(connection, series_id=locked["series_id"]))
        state = self._states.seal(detector, version, order.series)
        trained = {
            "status": "ready",
            "state": state,
            "rows_done": len(order.rows),
            "metrics": json.dumps(asdict(summary)),
        }
        model_id = self._insert(connection, locked, version, order, **trained)
        self._switch(connection, order.series, locked, model_id)
        return model_id

    def add_pending(self, connection: Connection, order: TrainingOrder) -> int:
        """Keep a version that is still to be trained, and return its identifier."""
        locked = self._lock(connection, order.series)
        version = int(self._queries.take_version(connection, series_id=locked["series_id"]))
        pending = {"status": "training", "state": None, "rows_done": 0, "metrics": "{}"}
        return self._insert(connection, locked, version, order, **pending)

    def complete(self, connection: Connection, model_id: int, detector: Detector, summary: TrainingSummary) -> None:
        """Put the trained state into a version and make it the active one, unless a later one is."""
        row = self.get(connection, model_id)
        series = SeriesKey(row["device_id"], row["metric"])
        locked = self._lock(connection, series)
        state = self._states.seal(detector, row["version"], series)
        self._queries.complete_model(connection, model_id=model_id, state=state, metrics=json.dumps(asdict(summary)))
        active_id = locked["active_model_id"]
        if active_id is None or self.get(connection, active_id)["version"] < row["version"]:
            self._switch(connection, series, locked, model_id)

    def fail(self, connection: Connection, model_id: int, reason: str) -> None:
        """Mark a version that could not be trained."""
        self._queries.fail_model(connection, model_id=model_id, error=reason)

    def get(self, connection: Connection, model_id: int) -> Mapping[str, Any]:
        """Return one version.

        Raises:
            NotFound: there is no such version.
        """
        row: Mapping[str, Any] | None = self._queries.get_model(connection, model_id=model_id)
        if row is None:
            raise NotFound("model", model_id)
        return row

    def get_record(self, connection: Connection, model_id: int) -> Mapping[str, Any]:
        """Return one version with its record: its alerts, those called false, the precision measured and promised."""
        row = self.get(connection, model_id)
        keys = {name: row[name] for name in ("model_id", "device_id", "metric")}
        return {**row, **self._queries.get_record(connection, **keys)}

    def list_page(self, connection: Connection, wanted: ModelFilter, page: PageRequest) -> Page:
        """Return a page of versions, newest first."""
        rows = list(self._queries.list_models(connection, **asdict(wanted), **page.parameters()))
        total = int(self._queries.count_models(connection, **asdict(wanted)))
        return build_page(rows, page, total, "created_at", "model_id", is_estimate=False)

    def activate(self, connection: Connection, model_id: int) -> None:
        """Make a version the one that scores; it goes on with what it knew when it last did.

        Raises:
            NotFound: there is no such version.
            Conflict: it is not trained.
            ModelFormatError, ModelTamperedError: its state cannot be used.
        """
        row = self.get(connection, model_id)
        if row["status"] != "ready":
            raise Conflict(f"model {model_id} cannot score: its training has not ended well ({row['status']})")
        series = SeriesKey(row["device_id"], row["metric"])
        locked = self._lock(connection, series)
        if locked["active_model_id"] == model_id:
            return
        kept = self._queries.get_state(connection, model_id=model_id)
        self._states.open(bytes(kept["state"]), row["version"], series)
        self._switch(connection, series, locked, model_id)
        self._queries.skip_to(connection, model_id=model_id, number=locked["last_number"])

    def delete(self, connection: Connection, model_id: int) -> Mapping[str, Any]:
        """Forget a version and return it as it was; after the active one nothing scores its series.

        Raises:
            NotFound: there is no such version.
        """
        row = self.get(connection, model_id)
        locked = self._lock(connection, SeriesKey(row["device_id"], row["metric"]))
        if locked["active_model_id"] == model_id:
            self._queries.set_active(connection, series_id=locked["series_id"], model_id=None)
        self._queries.delete_model(connection, model_id=model_id)
        return row

    def count_false_positives(self, connection: Connection) -> Mapping[str, int]:
        """Return how many alerts were called false, by algorithm."""
        return {row["algorithm"]: row["false_positives"] for row in self._queries.count_false_positives(connection)}

    def _lock(self, connection: Connection, series: SeriesKey) -> Mapping[str, Any]:
        row: Mapping[str, Any] = self._queries.lock_series(connection, **series._asdict())
        return row

    def _insert(
        self, connection: Connection, locked: Mapping[str, Any], version: int, order: TrainingOrder, **more: Any
    ) -> int:
        return int(
            self._queries.insert_model(
                connection,
                series_id=locked["series_id"],
                version=version,
                algorithm=order.algorithm,
                learns_from=order.learns_from,
                rows_total=len(order.rows),
                data_start=order.rows.starts_at,
                data_end=order.rows.ends_at,
                created_by=order.created_by,
                **more,
            )
        )

    def _switch(self, connection: Connection, series: SeriesKey, locked: Mapping[str, Any], model_id: int) -> None:
        former_id = locked["active_model_id"]
        if former_id is not None:
            self._put_to_rest(connection, series, locked, former_id)
        self._queries.set_active(connection, series_id=locked["series_id"], model_id=model_id)

    def _put_to_rest(
        self, connection: Connection, series: SeriesKey, locked: Mapping[str, Any], former_id: int
    ) -> None:
        readings = locked["last_number"] - locked["activated_number"]
        self._queries.end_activation(connection, model_id=former_id, readings=readings)
        try:
            # The lock on the series keeps its log as it is: this is all that the former model will have learnt.
            self._states.keep(connection, series, self._states.load(connection, series))
        except ModelError as error:
            logger.warning("model %d is put to rest as it was kept last: %s", former_id, error.message)
