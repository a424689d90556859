"""Requests and answers of SLA targets and compliance."""

from __future__ import annotations

from pydantic import Field, model_validator

from api.parsing import Schema
from api.schemas import Instant, Severity, SlaTargets, Timestamp


class SlaTargetsBySeverity(Schema):
    """The targets of all severities."""

    critical: SlaTargets
    high: SlaTargets
    medium: SlaTargets
    low: SlaTargets
    info: SlaTargets


class SlaTargetChange(Schema):
    """Targets of one severity in minutes."""

    tta: int = Field(ge=1, le=5_256_000)
    ttr: int = Field(ge=1, le=5_256_000)


class SlaTargetChanges(Schema):
    """Targets to change, by severity; those not named stay."""

    model_config = {"json_schema_extra": {"examples": [{"critical": {"tta": 5, "ttr": 30}}]}}

    critical: SlaTargetChange | None = None
    high: SlaTargetChange | None = None
    medium: SlaTargetChange | None = None
    low: SlaTargetChange | None = None
    info: SlaTargetChange | None = None

    @model_validator(mode="after")
    def _require_one(self) -> SlaTargetChanges:
        if not self.model_fields_set:
            raise ValueError("names no severity")
        return self

    def to_targets(self) -> dict[str, tuple[int, int]]:
        """Return (tta, ttr) by severity."""
        named = {severity: getattr(self, severity) for severity in self.model_fields_set}
        return {severity: (change.tta, change.ttr) for severity, change in named.items() if change is not None}


class ComplianceQuery(Schema):
    """Alerts created in [start_date, end_date); default: the last 30 days."""

    start_date: Instant | None = None
    end_date: Instant | None = None
    severity: Severity | None = None


class Durations(Schema):
    """How long it took, in minutes; null where nothing counts."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None


class ClockCompliance(Schema):
    """One of the two clocks; an alert is eligible once its clock has stopped or run out."""

    eligible: int
    met: int
    breached: int
    open_past_due: int
    compliance_pct: float | None


class SeverityCompliance(Schema):
    """Compliance of one severity; duplicates are not counted."""

    severity: Severity
    tta: ClockCompliance
    ttr: ClockCompliance
    mtta: Durations = Field(description="explicit acknowledgements only")
    mttr: Durations


class ComplianceReport(Schema):
    """Compliance per severity, gravest first."""

    start_date: Timestamp
    end_date: Timestamp
    data: list[SeverityCompliance]
