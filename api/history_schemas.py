"""What happened to an alert, as the API shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from api.alert_schemas import Resolution
from api.escalation_log_schemas import EscalationStatus, UnreachableRecipient
from api.notification_schemas import NotificationStatus
from api.parsing import Schema
from api.schemas import AlertState, IdentifierText, Timestamp


class HistoryEntry(Schema):
    """One thing that happened to an alert; what does not belong to its kind is null."""

    kind: Literal["state", "note", "escalation", "escalation_step", "notification"] = Field(
        description="state: a step of the alert; note: what somebody wrote; escalation: one began (status pending) or "
        "ended (completed: unheard, cancelled: by whom); escalation_step: a tier was paged; notification: one was "
        "written for a tier, with what has become of it since"
    )
    created_at: Timestamp
    by: str
    previous_state: AlertState | None
    state: AlertState | None
    implied: bool | None = Field(description="taken along by a later step: nobody did it in person")
    notes: str | None
    resolution: Resolution | None
    assigned_to_user_id: IdentifierText | None
    escalation_id: IdentifierText | None
    policy_name: str | None
    status: Literal[EscalationStatus, NotificationStatus] | None = Field(
        description="of the escalation or the notification"
    )
    pass_: int | None = Field(alias="pass", description="1 is the first")
    tier: int | None = Field(description="1 is the first")
    unreachable: list[UnreachableRecipient] | None
    notification_id: IdentifierText | None
    channel: str | None
    recipient: str | None = Field(description="the address that the notification goes to")
    error: str | None


class History(Schema):
    """The whole timeline of an alert, oldest first."""

    alert_id: IdentifierText
    data: list[HistoryEntry]
