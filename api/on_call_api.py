"""The on-call blueprint: schedules, overrides, shifts, and whose turn it is."""

from __future__ import annotations

from typing import Any

from alert_api import page_of, services
from api.auth import require_jwt, require_permission
from api.on_call_schemas import (
    CurrentOnCall,
    CurrentQuery,
    OverrideQuery,
    SchedulePage,
    ScheduleQuery,
    ShiftList,
    ShiftQuery,
    ShownSchedule,
)
from api.routing import Answer, ApiBlueprint, operation
from api.serialising import show_page, show_time
from on_call_document import OverrideEntry, ScheduleDocument, build_override, build_schedule, describe_schedule
from on_call_manager import CurrentOnCall as Current
from on_call_manager import StoredSchedule, read_schedule
from on_call_rotation import OnCallUser, Shift

on_call_bp = ApiBlueprint("on_call_api", __name__, url_prefix="/api/v1")

NOBODY = {
    "schedule_id": None,
    "schedule_name": None,
    "user": None,
    "shift_start": None,
    "shift_end": None,
    "is_override": False,
    "override_reason": None,
    "next": None,
}


@on_call_bp.get("/on-call/current")
@require_jwt
@require_permission("on_call:read")
@operation("Read who is on call", tag="On-call", query=CurrentQuery, answers={200: CurrentOnCall}, errors=(404,))
def get_current_on_call(query: CurrentQuery) -> Answer:
    """Read who is on call on one schedule, or on all."""
    manager = services().on_call
    if query.schedule_id is not None:
        current = manager.get_current_on_call(query.schedule_id, query.at)
        return (NOBODY if current is None else show_current(current)), 200
    everyone = [show_current(current) for current in manager.list_current(query.at)]
    return {**(everyone[0] if everyone else NOBODY), "schedules": everyone}, 200


@on_call_bp.get("/on-call/schedules")
@require_jwt
@require_permission("on_call:read")
@operation("List on-call schedules", tag="On-call", query=ScheduleQuery, answers={200: SchedulePage})
def list_schedules(query: ScheduleQuery) -> Answer:
    """List schedules."""
    page = services().on_call.list_schedules(query.enabled, query.rotation_type, page_of(query))
    return show_page(page, lambda row: show_schedule(read_schedule(row))), 200


@on_call_bp.post("/on-call/schedules")
@require_jwt
@require_permission("on_call:write")
@operation(
    "Create an on-call schedule", tag="On-call", body=ScheduleDocument, answers={201: ShownSchedule}, errors=(409,)
)
def create_schedule(body: ScheduleDocument) -> Answer:
    """Create a schedule."""
    return show_schedule(services().on_call.create_schedule(build_schedule(body))), 201


@on_call_bp.get("/on-call/schedules/<schedule_id>")
@require_jwt
@require_permission("on_call:read")
@operation("Read an on-call schedule", tag="On-call", answers={200: ShownSchedule})
def get_schedule(schedule_id: int) -> Answer:
    """Read one schedule."""
    return show_schedule(services().on_call.get_schedule(schedule_id)), 200


@on_call_bp.put("/on-call/schedules/<schedule_id>")
@require_jwt
@require_permission("on_call:write")
@operation(
    "Replace an on-call schedule", tag="On-call", body=ScheduleDocument, answers={200: ShownSchedule}, errors=(409,)
)
def replace_schedule(schedule_id: int, body: ScheduleDocument) -> Answer:
    """Replace a schedule."""
    return show_schedule(services().on_call.replace_schedule(schedule_id, build_schedule(body))), 200


@on_call_bp.delete("/on-call/schedules/<schedule_id>")
@require_jwt
@require_permission("on_call:write")
@operation(
    "Delete an on-call schedule",
    tag="On-call",
    description="Answers the schedule as it was. A tier that names it reaches nobody from then on.",
    answers={200: ShownSchedule},
)
def delete_schedule(schedule_id: int) -> Answer:
    """Delete a schedule."""
    return show_schedule(services().on_call.delete_schedule(schedule_id)), 200


@on_call_bp.post("/on-call/schedules/<schedule_id>/overrides")
@require_jwt
@require_permission("on_call:write")
@operation(
    "Write an override",
    tag="On-call",
    description="Wins over the rotation and over overrides written before.",
    body=OverrideEntry,
    answers={201: ShownSchedule},
)
def add_override(schedule_id: int, body: OverrideEntry) -> Answer:
    """Write an override."""
    return show_schedule(services().on_call.add_override(schedule_id, build_override(body))), 201


@on_call_bp.delete("/on-call/schedules/<schedule_id>/overrides")
@require_jwt
@require_permission("on_call:write")
@operation(
    "Take an override back",
    tag="On-call",
    description="Named by its start, end and user.",
    query=OverrideQuery,
    answers={200: ShownSchedule},
)
def remove_override(schedule_id: int, query: OverrideQuery) -> Answer:
    """Take an override back."""
    stored = services().on_call.remove_override(schedule_id, query.start, query.end, query.user_id)
    return show_schedule(stored), 200


@on_call_bp.get("/on-call/schedules/<schedule_id>/shifts")
@require_jwt
@require_permission("on_call:read")
@operation("List the shifts of a range of up to a year", tag="On-call", query=ShiftQuery, answers={200: ShiftList})
def list_shifts(schedule_id: int, query: ShiftQuery) -> Answer:
    """List shifts."""
    shifts = services().on_call.list_shifts(schedule_id, query.from_, query.to)
    return {"schedule_id": str(schedule_id), "data": [show_shift(shift) for shift in shifts]}, 200


def show_schedule(stored: StoredSchedule) -> dict[str, Any]:
    """Return a schedule as the API shows it."""
    document = describe_schedule(stored.schedule)
    for entry in (*document["users"]["users"], *document["users"]["overrides"]):
        entry["user_id"] = str(entry["user_id"])
    times = {"created_at": show_time(stored.created_at), "updated_at": show_time(stored.updated_at)}
    return {"schedule_id": str(stored.schedule_id), **document, **times}


def show_shift(shift: Shift) -> dict[str, Any]:
    """Return a shift as the API shows it."""
    return {
        "user": show_user(shift.user),
        "shift_start": show_time(shift.shift_start),
        "shift_end": show_time(shift.shift_end),
        "is_override": shift.is_override,
        "override_reason": shift.override_reason,
    }


def show_current(current: Current) -> dict[str, Any]:
    """Return who is on call on a schedule, and who follows."""
    following = current.shift.next
    return {
        "schedule_id": str(current.schedule_id),
        "schedule_name": current.schedule_name,
        **show_shift(current.shift),
        "next": None if following is None else show_shift(following),
    }


def show_user(user: OnCallUser) -> dict[str, Any]:
    """Return somebody on a schedule."""
    return {"user_id": str(user.user_id), "name": user.name, "email": user.email, "phone": user.phone}
