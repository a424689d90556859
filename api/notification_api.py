"""The notification blueprint: what was sent to whom, and what Twilio reports of it."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from alert_api import page_of, services
from api.auth import public, require_jwt, require_permission
from api.notification_schemas import NotificationPage, StatusForm, StatusQuery
from api.routing import Answer, ApiBlueprint, NoContent, operation
from api.schemas import PageQuery
from api.serialising import Row, show_identifier, show_page
from foundation.errors import NotSigned
from notifications.twilio_status import STATUS_PATH, is_signed_by_twilio, parse_report

notification_bp = ApiBlueprint("notification_api", __name__, url_prefix="/api/v1")

SAME_NAMES = (
    "pass", "tier", "channel", "status", "attempts", "provider_id", "provider_status", "segments", "price_unit",
    "error", "created_at", "sent_at", "delivered_at",
)  # fmt: skip


@notification_bp.get("/alerts/<alert_id>/notifications")
@require_jwt
@require_permission("notifications:read")
@operation(
    "List the notifications of an alert, oldest first",
    tag="Notifications",
    description="Those of every escalation that spoke for its group while it was open.",
    query=PageQuery,
    answers={200: NotificationPage},
)
def list_notifications(alert_id: int, query: PageQuery) -> Answer:
    """List the notifications of one alert."""
    page = services().escalation_log.list_notifications(alert_id, page_of(query))
    return show_page(page, show_notification), 200


@notification_bp.post("/notifications/twilio/status")
@public
@operation(
    "Take in what Twilio reports of an SMS",
    tag="Notifications",
    description="For Twilio alone: it signs its reports with the account's token, over PUBLIC_URL, this path and the "
    "query. They may come more than once and in any order.",
    form=StatusForm,
    query=StatusQuery,
    answers={204: NoContent},
    errors=(403,),
)
def take_twilio_report(query: StatusQuery) -> Response:
    """Take in a status callback."""
    raw_path = _rebuild_raw_path()
    settings = services().settings
    signature = request.headers.get("X-Twilio-Signature")
    if not is_signed_by_twilio(settings.twilio_auth_token, settings.base_url, raw_path, request.form, signature):
        raise NotSigned("the request is not signed by Twilio")
    report = parse_report(raw_path, request.form)
    if report is not None:
        services().delivery_reports.record(report)
    return Response(status=204)


def _rebuild_raw_path() -> str:
    """Return the path with its query as they came over the wire.

    Servers hand on the path decoded only, but it is the one that Twilio was given, so its bytes are known.
    """
    query = request.environ.get("QUERY_STRING", "")
    return f"{STATUS_PATH}?{query}" if query else STATUS_PATH


def show_notification(row: Row) -> dict[str, Any]:
    """Return a notification."""
    identifiers = {name: show_identifier(row[name]) for name in ("notification_id", "escalation_id", "user_id")}
    price = None if row["price"] is None else float(row["price"])
    shown = {name: row[name] for name in SAME_NAMES}
    return {**identifiers, **shown, "recipient": row["address"], "named_as": row["recipient"], "price": price}
