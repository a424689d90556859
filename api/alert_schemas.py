"""Requests and answers of alerts: what validates them is what Swagger shows."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from alert_state_machine import Transition
from alert_store import AlertFilter
from alert_store import AlertReport as Report
from api.escalation_log_schemas import AlertEscalation
from api.group_schemas import Group
from api.parsing import Schema, check_json_value, faults_within
from api.schemas import (
    SAFE_TEXT,
    AlertState,
    Identifier,
    IdentifierText,
    Instant,
    Notes,
    PageOf,
    RangeQuery,
    Severity,
    SlaTargets,
    Timestamp,
    split_words,
)
from foundation.errors import Fault

Resolution = Literal["fixed", "no_action", "false_positive", "duplicate"]
Message = Annotated[str, StringConstraints(min_length=1, max_length=2000), SAFE_TEXT]
LONGEST_METRIC = 200
LONGEST_TEXT_SEARCH = timedelta(days=31)
MetricName = Annotated[str, StringConstraints(max_length=LONGEST_METRIC), SAFE_TEXT]
EXAMPLE_DEVICE = "3a9ccfce-9773-4c72-b905-6a850e961587"


class AlertReport(Schema):
    """What a machine or a person reports."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "device_id": EXAMPLE_DEVICE,
                    "severity": "critical",
                    "message": "Temperature threshold exceeded",
                    "metric": "temperature",
                    "metadata": {"temperature": 85.5},
                }
            ]
        }
    }

    device_id: Annotated[UUID, Field(strict=False)]
    severity: Severity
    message: Message
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    metric: MetricName | None = Field(None, description="else metadata.metric, else empty")
    source: Annotated[str, StringConstraints(max_length=200), SAFE_TEXT] = ""
    occurred_at: Instant | None = Field(None, description="default: now; at most 5 minutes ahead")
    escalate: bool = True

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, value: dict[str, Any]) -> dict[str, Any]:
        faults = list(check_json_value(value, ""))
        metric = value.get("metric")
        if isinstance(metric, str) and len(metric) > LONGEST_METRIC:
            faults.append(Fault(".metric", f"must have at most {LONGEST_METRIC} characters"))
        if faults:
            raise faults_within(faults)
        return value

    def to_report(self) -> Report:
        """Return the report for the domain."""
        metric = self.metric or self.metadata.get("metric")
        return Report(
            device_id=str(self.device_id),
            severity=self.severity,
            message=self.message,
            metadata=self.metadata,
            metric=metric if isinstance(metric, str) else "",
            source=self.source,
            occurred_at=self.occurred_at,
            escalate=self.escalate,
        )


class AlertBatch(Schema):
    """Up to 1,000 reports, recorded all or nothing."""

    alerts: Annotated[list[AlertReport], Field(min_length=1, max_length=1000)]


class RaisedAlert(Schema):
    """What was recorded for a report."""

    alert_id: IdentifierText
    device_id: str
    severity: Severity
    message: str
    metric: str
    metadata: dict[str, JsonValue]
    state: AlertState
    sla_targets: SlaTargets
    group_id: IdentifierText
    is_duplicate: bool
    duplicate_of: IdentifierText | None
    escalation_id: IdentifierText | None = Field(description="the one that runs for it; null: none does")
    created_at: Timestamp


class RaisedAlerts(Schema):
    """One result for each report, in order."""

    data: list[RaisedAlert]


class SlaState(Schema):
    """The SLA clocks of one alert; minutes, fractions kept; null while a clock runs."""

    target_tta: int
    target_ttr: int
    actual_tta: float | None
    actual_ttr: float | None
    tta_due_at: Timestamp
    ttr_due_at: Timestamp
    acknowledged_at: Timestamp | None
    resolved_at: Timestamp | None
    tta_breached: bool
    ttr_breached: bool
    tta_at_risk: bool
    ttr_at_risk: bool


class ListedAlert(Schema):
    """An alert with the state of its SLA clocks."""

    alert_id: IdentifierText
    device_id: str
    severity: Severity
    message: str
    metric: str
    source: str
    metadata: dict[str, JsonValue]
    state: AlertState
    group_id: IdentifierText
    is_duplicate: bool
    duplicate_of: IdentifierText | None
    escalate: bool
    assigned_to_user_id: IdentifierText | None
    resolution: Resolution | None
    reported_by: str
    occurred_at: Timestamp
    created_at: Timestamp
    acknowledged_at: Timestamp | None
    resolved_at: Timestamp | None
    sla: SlaState


class Alert(ListedAlert):
    """An alert with its SLA clocks, its group and its escalation."""

    group: Group
    escalation: AlertEscalation | None = Field(description="the last one that concerns it; null: none ever did")


class MovedAlert(Alert):
    """An alert after a step."""

    in_flight: int = Field(description="notifications that were on their way at that moment and may still arrive")


class AlertPage(PageOf):
    """A page of alerts, newest first."""

    data: list[ListedAlert]


class AlertQuery(RangeQuery):
    """Which alerts to list."""

    severity: Annotated[tuple[Severity, ...], BeforeValidator(split_words)] = ()
    state: Annotated[tuple[AlertState, ...], BeforeValidator(split_words)] = ()
    device_id: Annotated[UUID, Field(strict=False)] | None = None
    metric: MetricName | None = None
    group_id: Identifier | None = None
    q: Annotated[str, StringConstraints(min_length=1, max_length=200), SAFE_TEXT] | None = Field(
        None, description="text in the message; with a device or at most 31 days"
    )

    @field_validator("q")
    @classmethod
    def _bound_text_search(cls, text: str | None, info: ValidationInfo) -> str | None:
        start, end = info.data.get("start_date"), info.data.get("end_date")
        is_bounded = start is not None and end is not None and end - start <= LONGEST_TEXT_SEARCH
        if text is not None and info.data.get("device_id") is None and not is_bounded:
            raise ValueError("needs a device_id, or a start_date and end_date at most 31 days apart")
        return text

    def to_filter(self) -> AlertFilter:
        """Return the filter for the domain."""
        return AlertFilter(
            severities=tuple(dict.fromkeys(self.severity)),
            states=tuple(dict.fromkeys(self.state)),
            device_id=str(self.device_id) if self.device_id else None,
            metric=self.metric,
            group_id=self.group_id,
            start_at=self.start_date,
            end_at=self.end_date,
            text=self.q,
        )


class AcknowledgeRequest(Schema):
    """I have it."""

    model_config = {"json_schema_extra": {"examples": [{"notes": "on my way to the press"}]}}

    notes: Notes | None = None

    def to_transition(self) -> Transition:
        """Return the transition for the domain."""
        return Transition("acknowledged", notes=self.notes)


class InvestigateRequest(Schema):
    """Somebody looks into it."""

    model_config = {"json_schema_extra": {"examples": [{"notes": "coolant flow is low"}]}}

    assign_to_user_id: Identifier | None = None
    notes: Notes | None = None

    def to_transition(self) -> Transition:
        """Return the transition for the domain."""
        return Transition("investigating", notes=self.notes, assign_to_user_id=self.assign_to_user_id)


class ResolveRequest(Schema):
    """It is over; with ``advance`` the missing steps are walked."""

    model_config = {"json_schema_extra": {"examples": [{"notes": "pump replaced", "resolution": "fixed"}]}}

    notes: Notes | None = None
    resolution: Resolution | None = None
    advance: bool = False

    def to_transition(self) -> Transition:
        """Return the transition for the domain."""
        return Transition("resolved", notes=self.notes, resolution=self.resolution, advance=self.advance)


class NoteRequest(Schema):
    """A note to keep with the alert."""

    model_config = {"json_schema_extra": {"examples": [{"notes": "spare pump is in store 3"}]}}

    notes: Annotated[str, StringConstraints(min_length=1, max_length=4000), SAFE_TEXT]


class Note(Schema):
    """A note as kept."""

    note_id: IdentifierText
    alert_id: IdentifierText
    notes: str
    written_by: str
    created_at: Timestamp
