"""Requests and answers of escalation policies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from api.parsing import Schema, faults_within
from api.schemas import SAFE_TEXT, Flag, IdentifierText, Instant, PageOf, PageQuery, Severity, Timestamp
from escalation_policies import PolicyDraft
from escalation_rules import (
    LONGEST_DELAY_MINUTES,
    MOST_RECIPIENTS,
    MOST_REPEATS,
    MOST_TIERS,
    Rules,
    check_tiers,
)

Channel = Literal["email", "sms", "webhook"]


def _refuse_repetition(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("names something twice")
    return values


class TierSchema(Schema):
    """One step: whom to page, through what, how many minutes after the escalation or its pass began."""

    delay_minutes: int = Field(ge=0, le=LONGEST_DELAY_MINUTES)
    channels: Annotated[list[Channel], Field(min_length=1), AfterValidator(_refuse_repetition)]
    recipients: Annotated[
        list[Annotated[str, StringConstraints(max_length=2000), SAFE_TEXT]],
        Field(min_length=1, max_length=MOST_RECIPIENTS),
    ] = Field(description="an e-mail address, an E.164 number, user:ID, oncall:SCHEDULE, or a URL")


def _check_tiers(tiers: list[TierSchema]) -> list[TierSchema]:
    faults = list(check_tiers([tier.model_dump() for tier in tiers]))
    if faults:
        raise faults_within(faults)
    return tiers


class RulesSchema(Schema):
    """What a policy does for which severities."""

    severity_match: Annotated[list[Severity], Field(min_length=1), AfterValidator(_refuse_repetition)]
    repeat: int = Field(0, ge=0, le=MOST_REPEATS, description="how many passes follow the first")
    tiers: Annotated[list[TierSchema], Field(min_length=1, max_length=MOST_TIERS), AfterValidator(_check_tiers)]


class PolicyBody(Schema):
    """An escalation policy."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "name": "Critical line",
                    "priority": 10,
                    "rules": {
                        "severity_match": ["critical", "high"],
                        "tiers": [
                            {"delay_minutes": 0, "channels": ["email"], "recipients": ["shift@example.com"]},
                            {"delay_minutes": 5, "channels": ["sms"], "recipients": ["+33612345678"]},
                            {
                                "delay_minutes": 15,
                                "channels": ["webhook"],
                                "recipients": ["https://example.com/hook"],
                            },
                        ],
                    },
                }
            ]
        }
    }

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), SAFE_TEXT]
    description: Annotated[str, StringConstraints(max_length=2000), SAFE_TEXT] = ""
    enabled: bool = True
    priority: int = Field(0, ge=-1_000_000, le=1_000_000)
    rules: RulesSchema

    def to_draft(self) -> PolicyDraft:
        """Return the policy for the domain."""
        return PolicyDraft(
            name=self.name,
            rules=Rules.from_document(self.rules.model_dump()),
            description=self.description,
            enabled=self.enabled,
            priority=self.priority,
        )


class ShownPolicy(Schema):
    """A policy as kept."""

    policy_id: IdentifierText
    name: str
    description: str
    enabled: bool
    priority: int
    rules: RulesSchema
    created_at: Timestamp
    updated_at: Timestamp


class PolicyPage(PageOf):
    """A page of policies, newest first."""

    data: list[ShownPolicy]


class PolicyQuery(PageQuery):
    """Which policies to list."""

    enabled: Flag | None = None
    severity_match: Severity | None = None


class SimulationRequest(Schema):
    """An alert that is only imagined."""

    model_config = {"json_schema_extra": {"examples": [{"severity": "critical", "acknowledge_after_minutes": 12}]}}

    severity: Severity
    at: Instant | None = Field(None, description="when it is raised; default: now")
    acknowledge_after_minutes: float | None = Field(None, ge=0, le=1_000_000, allow_inf_nan=False)


class SimulatedTarget(Schema):
    """One page that would be sent."""

    channel: Channel
    address: str
    recipient: str
    name: str | None
    user_id: IdentifierText | None


class SimulatedFault(Schema):
    """A recipient that would not be reached."""

    recipient: str
    reason: str


class SimulatedStep(Schema):
    """One tier of one pass."""

    at: Timestamp
    minutes: float = Field(description="since the alert was raised")
    pass_: int = Field(alias="pass", description="1 is the first")
    tier: int = Field(description="1 is the first")
    targets: list[SimulatedTarget]
    unreachable: list[SimulatedFault]


class SimulationAnswer(Schema):
    """Who would be notified when and through which channel."""

    policy_id: IdentifierText
    severity: Severity
    matches: bool = Field(description="whether the policy is for this severity; if not, nobody is notified")
    started_at: Timestamp
    acknowledged_at: Timestamp | None
    timeline: list[SimulatedStep]
