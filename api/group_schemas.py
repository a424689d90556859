"""Requests and answers of groups."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from api.parsing import Schema
from api.schemas import AlertState, IdentifierText, PageOf, RangeQuery, Severity, Timestamp


class Group(Schema):
    """Alerts of one device, metric and severity that belong together."""

    group_id: IdentifierText
    group_key: str
    device_id: str
    metric: str
    severity: Severity
    status: Literal["active", "closed"]
    occurrence_count: int
    open_alerts: int
    first_occurrence_at: Timestamp
    last_occurrence_at: Timestamp
    closed_at: Timestamp | None
    noise_reduction_pct: float


class GroupPage(PageOf):
    """A page of groups, newest first."""

    data: list[Group]


class GroupQuery(RangeQuery):
    """Which groups to list: first occurrence within the range."""

    status: Literal["active", "closed"] | None = None
    device_id: Annotated[UUID, Field(strict=False)] | None = None


class ChangedAlert(Schema):
    """An alert that a group action moved."""

    alert_id: IdentifierText
    previous_state: AlertState
    state: AlertState


class UnchangedAlert(Schema):
    """An open alert that could not take the step."""

    alert_id: IdentifierText
    state: AlertState
    reason: str


class GroupActionResult(Schema):
    """What a group action did to which alert."""

    group: Group
    changed: list[ChangedAlert]
    unchanged: list[UnchangedAlert]
    in_flight: int = Field(description="notifications that were on their way at that moment and may still arrive")


class GroupStatistics(Schema):
    """How much noise grouping takes away."""

    total_groups: int
    active_groups: int
    closed_groups: int
    total_alerts: int
    avg_alerts_per_group: float
    max_alerts_in_group: int
    noise_reduction_pct: float = Field(description="100 * (1 - groups / alerts), 0 without alerts")
