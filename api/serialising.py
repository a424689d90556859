"""From rows to the shapes of the API; identifiers become texts here, times where the answer is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from orjson import Fragment

from alert_lifecycle import GroupOutcome
from foundation.database import load_json
from foundation.paging import Page

Row = Mapping[str, Any]

# A time as row_to_json writes it, without the zeros that end its fraction. Nothing but a time stands behind such a
# key: within a text the quotation marks are escaped, and jsonb writes a space behind a colon.
SHORT_FRACTION = re.compile(r'(_at":"[0-9T:-]{19}\.[0-9]{1,5})(\+00:00")')
LENGTH_OF_PADDED_TIME = len('_at":"2026-11-23T08:00:00.123456')

HISTORY_FIELDS = (
    "kind", "created_at", "by", "previous_state", "state", "implied", "notes", "resolution", "policy_name", "status",
    "pass", "tier", "unreachable", "channel", "recipient", "error",
)  # fmt: skip
HISTORY_IDENTIFIERS = ("assigned_to_user_id", "escalation_id", "notification_id")


def show_time(value: datetime | None) -> str | None:
    """Return an instant as ISO 8601 with its offset."""
    return None if value is None else value.isoformat()


def show_identifier(value: int | None) -> str | None:
    """Return an identifier as text."""
    return None if value is None else str(value)


def show_listed_alert(row: Row) -> Any:
    """Return an alert as lists show it: the JSON that the database wrote, which says what ``show_alert`` says."""
    text = SHORT_FRACTION.sub(_pad_fraction, row["shown"])
    # A number beyond 64 bits stands there with all its digits; whoever sent it as a float shall find one.
    return load_json(text) if row["has_long_number"] else Fragment(text)


def _pad_fraction(match: re.Match[str]) -> str:
    return match[1].ljust(LENGTH_OF_PADDED_TIME, "0") + match[2]


def show_alert(row: Row) -> dict[str, Any]:
    """Return an alert with its group and escalation, and after a step with what was on its way then."""
    group = dict(row["alert_group"])
    group["group_id"] = str(group["group_id"])
    for name in ("first_occurrence_at", "last_occurrence_at", "closed_at"):
        group[name] = group[name] and show_time(datetime.fromisoformat(group[name]))
    escalation = None if row["escalation"] is None else show_alert_escalation(row["escalation"])
    in_flight = {"in_flight": row["in_flight"]} if "in_flight" in row else {}
    return {**_show_alert_alone(row), "group": group, "escalation": escalation, **in_flight}


def _show_alert_alone(row: Row) -> dict[str, Any]:
    sla = {
        "target_tta": row["target_tta"],
        "target_ttr": row["target_ttr"],
        "actual_tta": row["actual_tta"],
        "actual_ttr": row["actual_ttr"],
        "tta_breached": row["tta_breached"],
        "ttr_breached": row["ttr_breached"],
        "tta_at_risk": row["tta_at_risk"],
        "ttr_at_risk": row["ttr_at_risk"],
        "tta_due_at": row["tta_due_at"],
        "ttr_due_at": row["ttr_due_at"],
        "acknowledged_at": row["acknowledged_at"],
        "resolved_at": row["resolved_at"],
    }
    return {
        "alert_id": str(row["alert_id"]),
        "device_id": row["device_id"],
        "severity": row["severity"],
        "message": row["message"],
        "metric": row["metric"],
        "source": row["source"],
        "metadata": row["metadata"],
        "state": row["state"],
        "group_id": str(row["group_id"]),
        "is_duplicate": row["duplicate_of"] is not None,
        "duplicate_of": show_identifier(row["duplicate_of"]),
        "escalate": row["escalate"],
        "assigned_to_user_id": show_identifier(row["assigned_to_user_id"]),
        "resolution": row["resolution"],
        "reported_by": row["reported_by"],
        "occurred_at": row["occurred_at"],
        "created_at": row["created_at"],
        "acknowledged_at": row["acknowledged_at"],
        "resolved_at": row["resolved_at"],
        "sla": sla,
    }


def show_alert_escalation(row: Row) -> dict[str, Any]:
    """Return what an alert tells of its escalation; times come as the database's texts."""
    shown = {name: row[name] for name in ("policy_name", "status", "current_tier", "pass")}
    for name in ("next_tier_at", "started_at", "ended_at"):
        shown[name] = row[name] and datetime.fromisoformat(row[name])
    return {"escalation_id": str(row["escalation_id"]), "policy_id": str(row["policy_id"]), **shown}


def show_group(row: Row) -> dict[str, Any]:
    """Return a group."""
    return {**row, "group_id": str(row["group_id"])}


def show_page(page: Page, show_row: Callable[[Row], Any]) -> dict[str, Any]:
    """Return a page of a list."""
    return {
        "data": [show_row(row) for row in page.rows],
        "page": page.number,
        "limit": page.limit,
        "total": page.total,
        "total_is_estimate": page.total_is_estimate,
        "next_cursor": page.next_cursor,
    }


def show_history(alert_id: int, rows: Any) -> dict[str, Any]:
    """Return the timeline of an alert: every entry has every field, null where it does not belong to its kind."""
    entries = [
        {
            **{name: row.get(name) for name in HISTORY_FIELDS},
            **{name: show_identifier(row.get(name)) for name in HISTORY_IDENTIFIERS},
        }
        for row in rows
    ]
    return {"alert_id": str(alert_id), "data": entries}


def show_group_outcome(outcome: GroupOutcome, target: str) -> dict[str, Any]:
    """Return what a group action did to which alert."""
    return {
        "group": show_group(outcome.group),
        "changed": [
            {"alert_id": str(alert_id), "previous_state": before, "state": after}
            for alert_id, (before, after) in outcome.changed.items()
        ],
        "unchanged": [
            {
                "alert_id": str(alert_id),
                "state": state,
                "reason": f"an alert in state {state} cannot become {target}",
            }
            for alert_id, state in outcome.unchanged.items()
        ],
        "in_flight": outcome.in_flight,
    }


def show_compliance(row: Row) -> dict[str, Any]:
    """Return the compliance of one severity; a severity without alerts has zeros and nulls."""

    def clock(name: str) -> dict[str, Any]:
        counts = {field: row.get(f"{name}_{field}", 0) for field in ("eligible", "met", "breached", "open_past_due")}
        return {**counts, "compliance_pct": row.get(f"{name}_compliance_pct")}

    def durations(name: str) -> dict[str, Any]:
        return {field: row.get(f"{name}_{field}") for field in ("mean", "p50", "p90", "p95")}

    return {
        "severity": row["severity"],
        "tta": clock("tta"),
        "ttr": clock("ttr"),
        "mtta": durations("mtta"),
        "mttr": durations("mttr"),
    }
