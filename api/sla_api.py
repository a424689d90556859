"""The SLA blueprint: targets and compliance."""

from __future__ import annotations

from datetime import datetime, timedelta

from flask import g

from alert_api import services
from api.auth import require_jwt, require_permission
from api.routing import Answer, ApiBlueprint, operation
from api.serialising import show_compliance, show_time
from api.sla_schemas import (
    ComplianceQuery,
    ComplianceReport,
    SlaTargetChanges,
    SlaTargetsBySeverity,
)
from foundation.errors import ValidationFailed
from sla_tracker import SlaTarget

sla_bp = ApiBlueprint("sla_api", __name__, url_prefix="/api/v1")

DEFAULT_SPAN = timedelta(days=30)


def choose_range(query: ComplianceQuery, now: datetime) -> tuple[datetime, datetime]:
    """Return the range asked for, or the 30 days up to and including this moment.

    Raises:
        ValidationFailed: the range is reversed, or begins before the calendar does.
    """
    end_at = query.end_date or now + timedelta(seconds=1)
    try:
        start_at = query.start_date or end_at - DEFAULT_SPAN
    except OverflowError as error:
        raise ValidationFailed.of("end_date", "lies too early for the 30 days before it") from error
    if start_at > end_at:
        raise ValidationFailed.of("end_date", "lies before start_date")
    return start_at, end_at


def _show_targets(targets: list[SlaTarget]) -> dict[str, object]:
    return {target.severity: {"tta": target.tta, "ttr": target.ttr} for target in targets}


@sla_bp.get("/sla/targets")
@require_jwt
@require_permission("sla:read")
@operation("Read the SLA targets", tag="SLA", answers={200: SlaTargetsBySeverity})
def list_targets() -> Answer:
    """Read the targets."""
    return _show_targets(services().sla.list_targets()), 200


@sla_bp.put("/sla/targets")
@require_jwt
@require_permission("sla:write")
@operation(
    "Change SLA targets for alerts to come",
    tag="SLA",
    description="Takes what GET answers, whole or in part. Alerts that exist keep their targets.",
    body=SlaTargetChanges,
    answers={200: SlaTargetsBySeverity},
)
def change_targets(body: SlaTargetChanges) -> Answer:
    """Change targets."""
    return _show_targets(services().sla.change_targets(body.to_targets(), g.caller.subject)), 200


@sla_bp.get("/sla/compliance")
@require_jwt
@require_permission("sla:read")
@operation("Read SLA compliance per severity", tag="SLA", query=ComplianceQuery, answers={200: ComplianceReport})
def report_compliance(query: ComplianceQuery) -> Answer:
    """Read compliance."""
    start_at, end_at = choose_range(query, services().clock.now())
    rows = services().sla.report_compliance(start_at, end_at, query.severity)
    report = {"start_date": show_time(start_at), "end_date": show_time(end_at)}
    return {**report, "data": [show_compliance(row) for row in rows]}, 200
