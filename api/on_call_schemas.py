"""Requests and answers of on-call schedules."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from api.parsing import Schema
from api.schemas import Flag, Identifier, IdentifierText, Instant, PageOf, PageQuery, Timestamp

RotationType = Literal["daily", "weekly", "custom"]
LONGEST_RANGE = timedelta(days=366)


class OnCallUser(Schema):
    """Somebody on a schedule; null where the schedule has no contact of its own for them."""

    user_id: IdentifierText
    name: str | None
    email: str | None
    phone: str | None


class ShownOverride(Schema):
    """Somebody who takes over for a while."""

    start: Timestamp
    end: Timestamp
    user_id: IdentifierText
    reason: str | None


class Roster(Schema):
    """The users in the order of their shifts, and the overrides, oldest written first."""

    users: list[OnCallUser]
    overrides: list[ShownOverride]


class ShownSchedule(Schema):
    """An on-call schedule."""

    schedule_id: IdentifierText
    name: str
    rotation_type: RotationType
    rotation_start: str = Field(description="local time of the zone")
    rotation_interval_days: int
    timezone: str
    enabled: bool
    users: Roster
    created_at: Timestamp
    updated_at: Timestamp


class SchedulePage(PageOf):
    """A page of schedules, newest first."""

    data: list[ShownSchedule]


class ScheduleQuery(PageQuery):
    """Which schedules to list."""

    enabled: Flag | None = None
    rotation_type: RotationType | None = None


class ShownShift(Schema):
    """One person's stretch of time, its start included and its end excluded."""

    user: OnCallUser
    shift_start: Timestamp
    shift_end: Timestamp
    is_override: bool
    override_reason: str | None


class CurrentShift(ShownShift):
    """Who is on call on one schedule, and who follows."""

    schedule_id: IdentifierText
    schedule_name: str
    next: ShownShift | None = Field(description="the next other person; null where nobody else follows")


class CurrentOnCall(Schema):
    """Who is on call: the entry of one schedule, nulls where none is enabled."""

    schedule_id: IdentifierText | None
    schedule_name: str | None
    user: OnCallUser | None
    shift_start: Timestamp | None
    shift_end: Timestamp | None
    is_override: bool
    override_reason: str | None
    next: ShownShift | None
    schedules: list[CurrentShift] | None = Field(
        None, description="every enabled schedule; only where no schedule_id was given"
    )


class CurrentQuery(Schema):
    """Whose turn it is: on which schedule, at which instant (default: now)."""

    schedule_id: Identifier | None = None
    at: Instant | None = None


class ShiftQuery(Schema):
    """A range of at most 366 days."""

    from_: Annotated[Instant, Field(alias="from", examples=["2026-11-01"])]
    to: Annotated[Instant, Field(examples=["2026-12-01"])]

    @field_validator("to")
    @classmethod
    def _check_range(cls, to: datetime, info: ValidationInfo) -> datetime:
        start = info.data.get("from_")
        if start is not None and to <= start:
            raise ValueError("must be later than from")
        if start is not None and to - start > LONGEST_RANGE:
            raise ValueError("may lie at most 366 days after from")
        return to


class ShiftList(Schema):
    """The shifts that touch a range, overrides laid over the rotation."""

    schedule_id: IdentifierText
    data: list[ShownShift]


class OverrideQuery(Schema):
    """Which override to take back."""

    start: Annotated[Instant, Field(examples=["2026-12-24T08:00:00+01:00"])]
    end: Annotated[Instant, Field(examples=["2026-12-26T08:00:00+01:00"])]
    user_id: Annotated[Identifier, Field(examples=["2"])]
