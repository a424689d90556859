"""Operations, at the root: /health, /ready and /metrics need no token."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from flask import Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field

from alert_api import services
from api.application import WholeResponse
from api.auth import public
from api.observability import render_metrics
from api.parsing import Schema
from api.routing import Answer, ApiBlueprint, PlainText, operation
from readiness import WorkFigures

operations_bp = ApiBlueprint("operations_api", __name__)

NO_FIGURES = {field.name: None for field in fields(WorkFigures)}


class Health(Schema):
    """The process is up."""

    status: Literal["ok"]


class Readiness(Schema):
    """Whether the service can do its work; the status code says the same: 200 or 503."""

    status: Literal["ready", "not_ready"]
    database: Literal["ok", "away"]
    pending_migrations: int | None
    worker_beat_age_seconds: float | None = Field(description="null: no worker has ever run")
    escalation_lag_seconds: float | None = Field(description="how long the most overdue step of an escalation is due")
    oldest_pending_notification_seconds: float | None = Field(description="0: none waits to be sent")
    channels: dict[str, str] = Field(
        description="channels that a wrong setting stopped within the hour, and why; the service is ready all the same"
    )


@operations_bp.get("/health")
@public
@operation("The process is up", tag="Operations", answers={200: Health}, takes_turns=False)
def get_health() -> Answer:
    """Answer at once, without asking anybody."""
    return {"status": "ok"}, 200


@operations_bp.get("/ready")
@public
@operation(
    "The database answers, is migrated, and a worker beats",
    tag="Operations",
    description="Also tells how late pages are, and which channels a wrong setting stops.",
    answers={200: Readiness, 503: Readiness},
)
def get_readiness() -> Answer:
    """Ask the database, the migrations, the worker's last beat, and how pages get on."""
    state = services().readiness.check()
    shown = {
        "status": "ready" if state.is_ready else "not_ready",
        "database": "ok" if state.is_database_up else "away",
        "pending_migrations": state.pending_migrations,
        **(NO_FIGURES if state.figures is None else vars(state.figures)),
        "channels": state.channel_faults,
    }
    return shown, 200 if state.is_ready else 503


@operations_bp.get("/metrics")
@public
@operation("Metrics in Prometheus' text format", tag="Operations", answers={200: PlainText})
def get_metrics() -> Response:
    """Answer the metrics of all web processes and of the database."""
    return WholeResponse(render_metrics(current_app.extensions["alert_collector"]), content_type=CONTENT_TYPE_LATEST)
