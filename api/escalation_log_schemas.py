"""Requests and answers of escalations that run or ran."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field

from api.parsing import Schema
from api.schemas import IdentifierText, Notes, PageOf, PageQuery, Severity, Timestamp, split_words
from escalation_log import EscalationFilter

EscalationStatus = Literal["pending", "in_progress", "completed", "cancelled"]
Pass = Annotated[int, Field(alias="pass", description="1 is the first")]
Tier = Annotated[int, Field(description="1 is the first")]


class AlertEscalation(Schema):
    """The last escalation that concerns an alert."""

    escalation_id: IdentifierText
    policy_id: IdentifierText
    policy_name: str
    status: EscalationStatus
    current_tier: int | None = Field(description="the last tier taken, 1 is the first; null before it")
    next_tier_at: Timestamp | None = Field(description="null where no tier follows")
    pass_: Pass
    started_at: Timestamp
    ended_at: Timestamp | None


class ShownEscalation(AlertEscalation):
    """An escalation."""

    alert_id: IdentifierText = Field(description="the alert that started it")
    group_id: IdentifierText
    device_id: str
    metric: str
    severity: Severity
    ended_by: str | None = Field(description="who cancelled it")
    ended_unheard: bool = Field(description="whether all tiers were paged and nobody answered: status completed")


class UnreachableRecipient(Schema):
    """A recipient that a tier could not reach."""

    recipient: str
    reason: str


class EscalationStep(Schema):
    """A tier that was paged."""

    pass_: Pass
    tier: Tier
    taken_at: Timestamp
    unreachable: list[UnreachableRecipient]


class EscalationWithSteps(ShownEscalation):
    """An escalation with the steps it has taken."""

    steps: list[EscalationStep]


class EscalationPage(PageOf):
    """A page of escalations, newest first."""

    data: list[ShownEscalation]


class EscalationQuery(PageQuery):
    """Which escalations to list."""

    status: Annotated[tuple[EscalationStatus, ...], BeforeValidator(split_words)] = ()
    severity: Severity | None = None
    device_id: Annotated[UUID, Field(strict=False)] | None = None

    def to_filter(self) -> EscalationFilter:
        """Return the filter for the domain."""
        device_id = str(self.device_id) if self.device_id else None
        return EscalationFilter(tuple(dict.fromkeys(self.status)), self.severity, device_id)


class EscalateRequest(Schema):
    """The next tier, now."""

    model_config = {"json_schema_extra": {"examples": [{"notes": "two more lines are down"}]}}

    notes: Notes | None = Field(None, description="kept with the alert")
