"""Requests and answers of anomaly models and kept readings."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import numpy as np
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from api.csv_rows import parse_training_csv
from api.parsing import Schema, describe_faults, faults_within
from api.schemas import SAFE_TEXT, FieldFault, Flag, IdentifierText, Instant, PageOf, PageQuery, Timestamp
from foundation.errors import Fault, ValidationFailed
from ml.algorithms import DEFAULT_ALGORITHM
from ml.readings import Reading, SeriesKey, TrainingRows
from ml.registry import ModelFilter
from ml_model_manager import MOST_ROWS

MOST_READINGS = 1000
EXAMPLE_DEVICE = "3a9ccfce-9773-4c72-b905-6a850e961587"

Algorithm = Literal["surprise", "isolation_forest"]
ModelStatus = Literal["training", "ready", "failed"]
Device = Annotated[UUID, Field(strict=False, examples=[EXAMPLE_DEVICE])]
Metric = Annotated[str, StringConstraints(min_length=1, max_length=200), SAFE_TEXT, Field(examples=["temperature"])]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class ReadingBody(Schema):
    """One reading of one metric of one device."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "device_id": EXAMPLE_DEVICE,
                    "metric": "temperature",
                    "value": 85.5,
                    "timestamp": "2026-01-05T00:15:00+00:00",
                }
            ]
        }
    }

    device_id: Device
    metric: Metric
    value: Finite
    timestamp: Instant | None = Field(None, description="default: now; at most 5 minutes ahead")

    def to_reading(self) -> Reading:
        """Return the reading for the domain."""
        return Reading(SeriesKey(str(self.device_id), self.metric), self.value, self.timestamp)


def _keep_fault(value: Any, validate: Any) -> Any:
    """Turn a reading that is not valid into its error: it must not spoil the others."""
    try:
        return validate(value)
    except ValidationError as error:
        return ValidationFailed(describe_faults(error))


class ReadingBatch(Schema):
    """Up to 1,000 readings of any devices; those that are not valid are named in their place of the answer."""

    readings: Annotated[
        list[Annotated[ReadingBody, WrapValidator(_keep_fault)]], Field(min_length=1, max_length=MOST_READINGS)
    ]

    def to_readings(self) -> list[Reading | ValidationFailed]:
        """Return the readings for the domain, and in its place what is wrong with one."""
        return [body if isinstance(body, ValidationFailed) else body.to_reading() for body in self.readings]


class Prediction(Schema):
    """What the active model says of a reading."""

    is_anomaly: Literal[-1, 1] = Field(description="-1 anomaly, 1 normal")
    confidence: float = Field(ge=0, le=1, description="the chance that it is a real fault; low for a normal reading")
    score: float = Field(description="what the confidence is read from; 0 where the model cannot say yet")
    model_id: IdentifierText
    alert_id: IdentifierText | None = Field(description="null where none was raised")


class ReadingError(Schema):
    """Why a reading was not scored."""

    error: str
    code: str
    details: list[FieldFault]


class BatchResult(Schema):
    """The prediction for one reading; all of it null where there is an error instead."""

    is_anomaly: Literal[-1, 1] | None
    confidence: float | None
    score: float | None
    model_id: IdentifierText | None
    alert_id: IdentifierText | None
    error: ReadingError | None


class BatchResults(Schema):
    """One result for each reading, in order."""

    data: list[BatchResult]


class TrainingRow(Schema):
    """One row to train on; null where the sensor gave no value."""

    timestamp: Instant
    value: Finite | None


def _to_pair(row: TrainingRow) -> tuple[float, float]:
    # A million models would take ten times the memory of a million pairs.
    return row.timestamp.timestamp(), math.nan if row.value is None else row.value


# The first wrong row is named and no other: a million of them would be no help.
TrainingPairs = Annotated[
    list[Annotated[TrainingRow, AfterValidator(_to_pair)]],
    Field(min_length=1, max_length=MOST_ROWS, fail_fast=True),
]


class ModelOrder(Schema):
    """Which series a model is trained for, and how."""

    device_id: Device
    metric: Metric
    algorithm: Algorithm = DEFAULT_ALGORITHM  # type: ignore[assignment]  # a test compares the names

    @property
    def series(self) -> SeriesKey:
        """The series for the domain."""
        return SeriesKey(str(self.device_id), self.metric)


class TrainRequest(ModelOrder):
    """Rows to train on, or a range of the readings kept from predict calls."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "device_id": EXAMPLE_DEVICE,
                    "metric": "temperature",
                    "rows": [
                        {"timestamp": "2026-01-05T00:00:00+00:00", "value": 61.2},
                        {"timestamp": "2026-01-05T00:05:00+00:00", "value": 61.4},
                        {"timestamp": "2026-01-05T00:10:00+00:00", "value": 60.9},
                    ],
                }
            ]
        }
    }

    rows: TrainingPairs | None = Field(
        None, description="at most 1,000,000; more than 50,000 are trained in the background"
    )
    from_: Instant | None = Field(None, alias="from", description="instead of rows: kept readings from here")
    to: Instant | None = Field(None, description="up to here, excluded; default: to the newest")

    @model_validator(mode="after")
    def _require_one_source(self) -> TrainRequest:
        if (self.rows is None) == (self.from_ is None):
            raise faults_within([Fault("rows", "is required, or from instead: exactly one of the two")])
        if self.to is not None and (self.from_ is None or self.to <= self.from_):
            raise faults_within([Fault("to", "must come after from")])
        return self

    def to_rows(self) -> TrainingRows:
        """Return the rows for the domain."""
        pairs = np.array(self.rows, dtype=float).reshape(-1, 2)
        return TrainingRows(pairs[:, 0].copy(), pairs[:, 1].copy())


def _parse_csv(content: bytes) -> Any:
    try:
        return parse_training_csv(content)
    except ValidationFailed as error:
        raise PydanticCustomError("faults_within", "is not valid", {"faults": list(error.faults)}) from error


class TrainUpload(ModelOrder):
    """A CSV file to train on, as a form. Its first line names the columns; timestamp and value are read."""

    file: Annotated[bytes, AfterValidator(_parse_csv), Field(json_schema_extra={"format": "binary"})] = Field(
        description="times without an offset are UTC; an empty value is none"
    )
    from_: ClassVar[None] = None  # a file is never beside a range of kept readings

    def to_rows(self) -> TrainingRows:
        """Return the rows for the domain."""
        rows: Any = self.file
        assert isinstance(rows, TrainingRows)
        return rows


class TrainingMetrics(Schema):
    """What the training took in."""

    rows: int = Field(description="learnt")
    rejected_values: int = Field(description="refused: no finite number")
    rejected_times: int = Field(description="refused: late or repeated")
    step_seconds: float | None = Field(description="the sampling step")


class ListedModel(Schema):
    """A version of a model."""

    model_id: IdentifierText
    device_id: str
    metric: str
    version: int
    algorithm: str
    status: ModelStatus
    is_active: bool = Field(description="whether it is the version that scores")
    progress: float = Field(ge=0, le=1, description="of its training")
    rows: int = Field(description="that it is trained on")
    data_start: Timestamp
    data_end: Timestamp
    training: TrainingMetrics | None = Field(description="null while it is not trained")
    rows_seen: int = Field(description="trained on and scored")
    error: str | None = Field(description="why the training failed")
    created_by: str
    created_at: Timestamp
    trained_at: Timestamp | None


class ShownModel(ListedModel):
    """A version of a model with its record."""

    alerts_raised: int
    alerts_resolved: int
    false_positives: int = Field(description="alerts that somebody resolved as false_positive")
    measured_precision: float | None = Field(description="1 - false_positives / alerts_resolved")
    promised_precision: float | None = Field(description="the mean confidence of the resolved alerts")


class ModelPage(PageOf):
    """A page of models, newest first."""

    data: list[ListedModel]


class ModelQuery(PageQuery):
    """Which models to list."""

    device_id: Annotated[UUID, Field(strict=False)] | None = None
    metric: Metric | None = Field(None, examples=None)
    is_active: Flag | None = None

    def to_filter(self) -> ModelFilter:
        """Return the filter for the domain."""
        device_id = None if self.device_id is None else str(self.device_id)
        return ModelFilter(device_id, self.metric, self.is_active)


class TelemetryQuery(Schema):
    """Which readings to give back."""

    metric: Metric
    from_: Instant | None = Field(None, alias="from", description="default: all that are kept")
    to: Instant | None = Field(None, description="excluded; default: to the newest")


class TelemetryPoint(Schema):
    """One reading."""

    timestamp: Timestamp
    value: float


class TelemetryAnswer(Schema):
    """Kept readings in order of time."""

    device_id: str
    metric: str
    total: int = Field(description="readings in the range")
    is_thinned: bool = Field(
        description="of more than 5,000 readings each of 2,500 equal runs shows its smallest and its largest"
    )
    data: list[TelemetryPoint]
