"""The blueprint of anomaly models and kept readings, under /api/v1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import g

from alert_api import page_of, services
from api.auth import require_jwt, require_permission
from api.ml_schemas import (
    BatchResults,
    ModelPage,
    ModelQuery,
    Prediction,
    ReadingBatch,
    ReadingBody,
    ShownModel,
    TelemetryAnswer,
    TelemetryQuery,
    TrainRequest,
    TrainUpload,
)
from api.routing import BATCH_LIMIT_BYTES, TRAINING_LIMIT_BYTES, Answer, ApiBlueprint, operation
from api.serialising import show_identifier, show_page, show_time
from foundation.errors import DomainError, ValidationFailed
from ml.readings import SeriesKey
from ml.registry import TrainingOrder
from ml_model_manager import Judgement, MLModelManager

ml_bp = ApiBlueprint("ml_api", __name__, url_prefix="/api/v1")

NOT_SCORED = dict.fromkeys(("is_anomaly", "confidence", "score", "model_id", "alert_id"))


def _models() -> MLModelManager:
    return services().ml


@ml_bp.post("/ml/models/train")
@require_jwt
@require_permission("ml:train")
@operation(
    "Train a model on rows, a CSV file or kept readings",
    tag="Anomaly detection",
    description="The new version becomes the active one. Rows are learnt in the order given; late and repeated ones "
    "are counted and passed over. More than 50,000 rows are trained in the background: 202, and the progress is at "
    "GET /ml/models/{id}. A CSV file comes as a form: file, device_id, metric, algorithm.",
    body=TrainRequest,
    upload=TrainUpload,
    body_limit_bytes=TRAINING_LIMIT_BYTES,
    answers={201: ShownModel, 202: ShownModel},
)
def train_model(body: TrainRequest | TrainUpload) -> Answer:
    """Train a version."""
    trainer = g.caller.subject
    if body.from_ is not None:
        row = _models().train_on_kept(body.series, body.algorithm, body.from_, body.to, trainer)
    else:
        row = _models().train(TrainingOrder(body.series, body.algorithm, body.to_rows(), trainer))
    status = 201 if row["status"] == "ready" else 202
    return show_model(row), status, {"Location": f"/api/v1/ml/models/{row['model_id']}"}


@ml_bp.post("/ml/predict")
@require_jwt
@require_permission("ml:predict")
@operation(
    "Score a reading and learn it",
    tag="Anomaly detection",
    description="Readings of one metric belong in order: late ones are kept, but answered as normal with confidence 0 "
    "and not learnt. One that is sent again with its timestamp, after a lost answer, has the same answer again and is "
    "not learnt twice. No alert is raised before 200 rows were seen, nobody is woken before 600. Without "
    "an active model: 404.",
    body=ReadingBody,
    answers={200: Prediction},
    errors=(404, 409),
)
def predict(body: ReadingBody) -> Answer:
    """Score one reading."""
    return show_judgement(_models().score(body.to_reading())), 200


@ml_bp.post("/ml/predict/batch")
@require_jwt
@require_permission("ml:predict")
@operation(
    "Score up to 1,000 readings of any devices",
    tag="Anomaly detection",
    description="Each reading stands for itself: what is wrong with one is named in its place of the answer.",
    body=ReadingBatch,
    body_limit_bytes=BATCH_LIMIT_BYTES,
    answers={200: BatchResults},
)
def predict_batch(body: ReadingBatch) -> Answer:
    """Score readings."""
    return {"data": [show_result(result) for result in _models().score_many(body.to_readings())]}, 200


@ml_bp.get("/ml/models")
@require_jwt
@require_permission("ml:read")
@operation("List models, newest first", tag="Anomaly detection", query=ModelQuery, answers={200: ModelPage})
def list_models(query: ModelQuery) -> Answer:
    """List versions."""
    return show_page(_models().list_models(query.to_filter(), page_of(query)), show_listed_model), 200


@ml_bp.get("/ml/models/<model_id>")
@require_jwt
@require_permission("ml:read")
@operation("Read a model with its record", tag="Anomaly detection", answers={200: ShownModel})
def get_model(model_id: int) -> Answer:
    """Read one version."""
    return show_model(_models().get_model(model_id)), 200


@ml_bp.delete("/ml/models/<model_id>")
@require_jwt
@require_permission("ml:train")
@operation(
    "Delete a model",
    tag="Anomaly detection",
    description="Answers the model as it was. Once the active version is deleted nothing scores its metric until "
    "another is activated or trained.",
    answers={200: ShownModel},
)
def delete_model(model_id: int) -> Answer:
    """Delete one version."""
    return show_model(_models().delete(model_id)), 200


@ml_bp.post("/ml/models/<model_id>/activate")
@require_jwt
@require_permission("ml:train")
@operation(
    "Activate a model, or roll back to it",
    tag="Anomaly detection",
    description="It goes on with what it knew when it last scored, in every process at once.",
    answers={200: ShownModel},
    errors=(409,),
)
def activate_model(model_id: int) -> Answer:
    """Activate one version."""
    return show_model(_models().activate(model_id)), 200


@ml_bp.get("/devices/<device_id>/telemetry")
@require_jwt
@require_permission("devices:read")
@operation(
    "Read the kept readings of a metric",
    tag="Anomaly detection",
    description="Readings given to predict, in order of time, at most 5,000.",
    query=TelemetryQuery,
    answers={200: TelemetryAnswer},
)
def get_telemetry(device_id: str, query: TelemetryQuery) -> Answer:
    """Read kept readings."""
    if query.from_ is not None and query.to is not None and query.to <= query.from_:
        raise ValidationFailed.of("to", "must come after from")
    found = services().model_parts.telemetry.list_points(SeriesKey(device_id, query.metric), query.from_, query.to)
    return {
        "device_id": device_id,
        "metric": query.metric,
        "total": found.total,
        "is_thinned": found.is_thinned,
        "data": [{"timestamp": show_time(row["read_at"]), "value": row["value"]} for row in found.points],
    }, 200


def show_judgement(judgement: Judgement) -> dict[str, Any]:
    """Return the prediction for a reading."""
    scored = judgement.scored
    return {
        "is_anomaly": scored.prediction.is_anomaly,
        "confidence": scored.prediction.confidence,
        "score": scored.prediction.score,
        "model_id": str(scored.model_id),
        "alert_id": show_identifier(judgement.alert_id),
    }


def show_result(result: Judgement | DomainError) -> dict[str, Any]:
    """Return the result for a reading of a batch."""
    if isinstance(result, Judgement):
        return {**show_judgement(result), "error": None}
    faults = result.faults if isinstance(result, ValidationFailed) else ()
    details = [{"field": fault.field, "message": fault.message} for fault in faults]
    return {**NOT_SCORED, "error": {"error": result.message, "code": result.code, "details": details}}


def show_listed_model(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a version as lists show it."""
    names = ("device_id", "metric", "version", "algorithm", "status", "is_active", "rows_seen", "error", "created_by")
    times = ("data_start", "data_end", "created_at", "trained_at")
    return {
        "model_id": str(row["model_id"]),
        **{name: row[name] for name in names},
        "progress": row["rows_done"] / row["rows_total"],
        "rows": row["rows_total"],
        "training": row["metrics"] or None,
        **{name: show_time(row[name]) for name in times},
    }


def show_model(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a version with its record."""
    names = ("alerts_raised", "alerts_resolved", "false_positives", "measured_precision", "promised_precision")
    return {**show_listed_model(row), **{name: row[name] for name in names}}
