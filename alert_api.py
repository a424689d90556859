"""The alert blueprint: the plan's endpoints for alerts and groups, with batch, notes and history, under /api/v1."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from flask import current_app, g, request

from alert_grouping import GroupFilter
from alert_lifecycle import RaisedAlerts as Raised
from alert_state_machine import Actor, Transition
from api.alert_schemas import (
    AcknowledgeRequest,
    Alert,
    AlertBatch,
    AlertPage,
    AlertQuery,
    AlertReport,
    InvestigateRequest,
    MovedAlert,
    Note,
    NoteRequest,
    RaisedAlert,
    RaisedAlerts,
    ResolveRequest,
)
from api.auth import require_jwt, require_permission
from api.group_schemas import Group, GroupActionResult, GroupPage, GroupQuery, GroupStatistics
from api.history_schemas import History
from api.parsing import Schema, check_text
from api.routing import BATCH_LIMIT_BYTES, Answer, ApiBlueprint, View, operation
from api.schemas import PageQuery
from api.serialising import (
    show_alert,
    show_group,
    show_group_outcome,
    show_history,
    show_listed_alert,
    show_page,
    show_time,
)
from foundation.errors import ValidationFailed
from foundation.paging import Cursor, PageRequest
from idempotency import IdempotentRequest
from wiring import Services

alert_bp = ApiBlueprint("alert_api", __name__, url_prefix="/api/v1")

IDEMPOTENCY_HEADER = {"Idempotency-Key": "the same request again within 24 hours gets the first answer back"}
LONGEST_IDEMPOTENCY_KEY = 255


def services() -> Services:
    """Return the services of the running app."""
    found: Services = current_app.extensions["services"]
    return found


def acting() -> Actor:
    """Return the caller as an actor of the domain."""
    return Actor(g.caller.subject)


def page_of(query: PageQuery) -> PageRequest:
    """Return the page that a query asks for."""
    return PageRequest(query.page, query.limit, None if query.cursor is None else Cursor.decode(query.cursor))


def _idempotent_request() -> IdempotentRequest | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= LONGEST_IDEMPOTENCY_KEY or check_text(key):
        raise ValidationFailed.of("Idempotency-Key", f"must have 1 to {LONGEST_IDEMPOTENCY_KEY} characters")
    digest = hashlib.sha256(request.path.encode() + b"\n" + request.get_data()).hexdigest()
    return IdempotentRequest(g.caller.subject, key, digest)


def _replay_header(raised: Raised) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if raised.is_replay else {}


@alert_bp.post("/alerts")
@require_jwt
@require_permission("alerts:create")
@operation(
    "Report an alert",
    tag="Alerts",
    description="Records the alert with its state and SLA clocks, joins it to its group and finds duplicates. Where "
    "nobody has the group in hand, the escalation policy for its severity begins.",
    body=AlertReport,
    answers={201: RaisedAlert},
    headers=IDEMPOTENCY_HEADER,
    errors=(409,),
    takes_turns=False,
)
def create_alert(body: AlertReport) -> Answer:
    """Record one alert."""
    raised = services().lifecycle.raise_alert(body.to_report(), acting(), _idempotent_request())
    return raised.answers[0], 201, _replay_header(raised)


@alert_bp.post("/alerts/batch")
@require_jwt
@require_permission("alerts:create")
@operation(
    "Report up to 1,000 alerts, all or nothing",
    tag="Alerts",
    body=AlertBatch,
    body_limit_bytes=BATCH_LIMIT_BYTES,
    answers={201: RaisedAlerts},
    headers=IDEMPOTENCY_HEADER,
    errors=(409,),
)
def create_alerts(body: AlertBatch) -> Answer:
    """Record a batch."""
    reports = [report.to_report() for report in body.alerts]
    raised = services().lifecycle.raise_alerts(reports, acting(), _idempotent_request())
    return {"data": raised.answers}, 201, _replay_header(raised)


@alert_bp.get("/alerts")
@require_jwt
@require_permission("alerts:read")
@operation("List alerts, newest first", tag="Alerts", query=AlertQuery, answers={200: AlertPage})
def list_alerts(query: AlertQuery) -> Answer:
    """List alerts."""
    page = services().lifecycle.list_alerts(query.to_filter(), page_of(query))
    return show_page(page, show_listed_alert), 200


@alert_bp.get("/alerts/<alert_id>")
@require_jwt
@require_permission("alerts:read")
@operation("Read an alert with its SLA clocks, group and escalation", tag="Alerts", answers={200: Alert})
def get_alert(alert_id: int) -> Answer:
    """Read one alert."""
    return show_alert(services().lifecycle.get_alert(alert_id)), 200


def _transition(alert_id: int, transition: Transition) -> Answer:
    return show_alert(services().lifecycle.transition(alert_id, transition, acting())), 200


@alert_bp.post("/alerts/<alert_id>/acknowledge")
@require_jwt
@require_permission("alerts:acknowledge")
@operation(
    "Acknowledge: new to acknowledged",
    tag="Alerts",
    description="Stops the clock to acknowledge and ends the escalation. Duplicates follow their original.",
    body=AcknowledgeRequest,
    body_is_optional=True,
    answers={200: MovedAlert},
    errors=(409,),
)
def acknowledge_alert(alert_id: int, body: AcknowledgeRequest) -> Answer:
    """Acknowledge one alert."""
    return _transition(alert_id, body.to_transition())


@alert_bp.post("/alerts/<alert_id>/investigate")
@require_jwt
@require_permission("alerts:investigate")
@operation(
    "Investigate: acknowledged to investigating",
    tag="Alerts",
    body=InvestigateRequest,
    body_is_optional=True,
    answers={200: MovedAlert},
    errors=(409,),
)
def investigate_alert(alert_id: int, body: InvestigateRequest) -> Answer:
    """Start the investigation of one alert."""
    return _transition(alert_id, body.to_transition())


@alert_bp.post("/alerts/<alert_id>/resolve")
@require_jwt
@require_permission("alerts:resolve")
@operation(
    "Resolve: investigating to resolved",
    tag="Alerts",
    description="With advance the missing steps are walked. The last open alert closes its group.",
    body=ResolveRequest,
    body_is_optional=True,
    answers={200: MovedAlert},
    errors=(409,),
)
def resolve_alert(alert_id: int, body: ResolveRequest) -> Answer:
    """Resolve one alert."""
    return _transition(alert_id, body.to_transition())


@alert_bp.get("/alerts/<alert_id>/history")
@require_jwt
@require_permission("alerts:read")
@operation("Read the timeline of an alert, oldest first", tag="Alerts", answers={200: History})
def get_alert_history(alert_id: int) -> Answer:
    """Read the history of one alert."""
    return show_history(alert_id, services().lifecycle.list_history(alert_id)), 200


@alert_bp.post("/alerts/<alert_id>/notes")
@require_jwt
@require_permission("alerts:note")
@operation("Keep a note with an alert", tag="Alerts", body=NoteRequest, answers={201: Note})
def add_alert_note(alert_id: int, body: NoteRequest) -> Answer:
    """Keep a note."""
    note = dict(services().lifecycle.add_note(alert_id, body.notes, acting()))
    return {
        **note,
        "note_id": str(note["note_id"]),
        "alert_id": str(note["alert_id"]),
        "created_at": show_time(note["created_at"]),
    }, 201


@alert_bp.get("/groups")
@require_jwt
@require_permission("groups:read")
@operation("List groups, newest first", tag="Groups", query=GroupQuery, answers={200: GroupPage})
def list_groups(query: GroupQuery) -> Answer:
    """List groups."""
    device_id = str(query.device_id) if query.device_id else None
    wanted = GroupFilter(query.status, device_id, query.start_date, query.end_date)
    return show_page(services().grouping.list_groups(wanted, page_of(query)), show_group), 200


@alert_bp.get("/groups/stats")
@require_jwt
@require_permission("groups:read")
@operation("Read how much noise grouping takes away", tag="Groups", answers={200: GroupStatistics})
def get_group_statistics() -> Answer:
    """Read the statistics of all groups."""
    return dict(services().grouping.read_statistics()), 200


@alert_bp.get("/groups/<group_id>")
@require_jwt
@require_permission("groups:read")
@operation("Read a group", tag="Groups", answers={200: Group})
def get_group(group_id: int) -> Answer:
    """Read one group."""
    return show_group(services().grouping.read_group(group_id)), 200


def _transition_group(group_id: int, transition: Transition) -> Answer:
    outcome = services().lifecycle.transition_group(group_id, transition, acting())
    return show_group_outcome(outcome, transition.target), 200


def _group_operation(summary: str, body: type[Schema]) -> Callable[[View], View]:
    return operation(
        summary,
        tag="Groups",
        description="Acts on all open alerts of the group that can take the step, and says what was done to which.",
        body=body,
        body_is_optional=True,
        answers={200: GroupActionResult},
    )


@alert_bp.post("/groups/<group_id>/acknowledge")
@require_jwt
@require_permission("alerts:acknowledge")
@_group_operation("Acknowledge the open alerts of a group", AcknowledgeRequest)
def acknowledge_group(group_id: int, body: AcknowledgeRequest) -> Answer:
    """Acknowledge the alerts of a group."""
    return _transition_group(group_id, body.to_transition())


@alert_bp.post("/groups/<group_id>/investigate")
@require_jwt
@require_permission("alerts:investigate")
@_group_operation("Investigate the open alerts of a group", InvestigateRequest)
def investigate_group(group_id: int, body: InvestigateRequest) -> Answer:
    """Start the investigation of the alerts of a group."""
    return _transition_group(group_id, body.to_transition())


@alert_bp.post("/groups/<group_id>/resolve")
@require_jwt
@require_permission("alerts:resolve")
@_group_operation("Resolve the open alerts of a group", ResolveRequest)
def resolve_group(group_id: int, body: ResolveRequest) -> Answer:
    """Resolve the alerts of a group."""
    return _transition_group(group_id, body.to_transition())
