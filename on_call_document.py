"""Schedules and overrides as clients write them: checked here, every fault named by its place."""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from foundation.errors import Fault, ValidationFailed
from on_call_rotation import (
    FIXED_INTERVAL_DAYS,
    INTERVAL_DAYS_MAX,
    OnCallUser,
    Override,
    RotationType,
    Schedule,
    require_instant,
    show_local,
)
from phone_numbers import normalise_phone


def _fault(message: str) -> PydanticCustomError:
    # The message is an argument, not the template: braces in what a client wrote are then only text.
    return PydanticCustomError("on_call_schedule", "{message}", {"message": message})


def _refuse_nul(text: str) -> str:
    if "\0" in text:
        raise _fault("must not hold a NUL character")  # PostgreSQL stores none
    return text


def _parse_user_id(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value) else value


def _check_email(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", text):
        raise _fault("must be an e-mail address")
    return text


def _parse_moment(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise _fault("must be an ISO 8601 date and time")
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise _fault("must be an ISO 8601 date and time") from error


def _parse_instant(value: object) -> datetime:
    moment = _parse_moment(value)
    if moment.tzinfo is None:
        if not (isinstance(value, str) and _is_date_alone(value)):
            raise _fault("must carry an offset, such as 2026-12-24T08:00:00+01:00")
        moment = moment.replace(tzinfo=UTC)
    try:
        return require_instant(moment)
    except ValueError as error:
        raise _fault(str(error)) from error


def _is_date_alone(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _check_rotation_start(moment: datetime) -> datetime:
    if not 1800 <= moment.year < 3000:
        raise _fault("must lie within the years 1800 to 2999")
    return moment


@functools.cache
def _list_zone_names() -> frozenset[str]:
    # "localtime" is another zone on each machine, "Factory" the word for a machine that was told none.
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


def _check_timezone(name: str) -> str:
    if name not in _list_zone_names():
        raise _fault("is not a known time zone, such as Europe/Paris")
    return name


_Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_refuse_nul)
]
_Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500), AfterValidator(_refuse_nul)]
_Email = Annotated[_Text, AfterValidator(_check_email)]
_Phone = Annotated[str, AfterValidator(normalise_phone)]
_UserId = Annotated[
    int,
    BeforeValidator(_parse_user_id),
    Field(ge=1, lt=2**63),
    WithJsonSchema({"oneOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[1-9][0-9]*$"}]}),
]
_Instant = Annotated[datetime, BeforeValidator(_parse_instant)]
_RotationStart = Annotated[
    datetime,
    BeforeValidator(_parse_moment),
    AfterValidator(_check_rotation_start),
    WithJsonSchema({"type": "string", "description": "ISO 8601; without an offset it is local time of the zone"}),
]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class UserEntry(_Document):
    """A user of a schedule as a client writes it."""

    user_id: _UserId
    name: _Text | None = None
    email: _Email | None = None
    phone: _Phone | None = None


class OverrideEntry(_Document):
    """An override as a client writes it; its times carry an offset, a date alone is its midnight in UTC."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "start": "2026-12-24T08:00:00+01:00",
                    "end": "2026-12-26T08:00:00+01:00",
                    "user_id": 2,
                    "reason": "vacation",
                }
            ]
        }
    )

    start: _Instant
    end: _Instant
    user_id: _UserId
    reason: _Reason | None = None

    @field_validator("end")
    @classmethod
    def _check_order(cls, end: datetime, info: ValidationInfo) -> datetime:
        start = info.data.get("start")
        if start is not None and end <= start:
            raise _fault("must be later than start")
        return end


class RosterEntry(_Document):
    """The users in the order of their shifts, and the overrides, oldest written first."""

    users: Annotated[list[UserEntry], Field(min_length=1)]
    overrides: list[OverrideEntry] = []


class ScheduleDocument(_Document):
    """A schedule as a client writes it; `rotation_interval_days` may be left out of daily and weekly ones."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Line 3",
                    "rotation_type": "weekly",
                    "rotation_start": "2026-11-02T08:00:00",
                    "rotation_interval_days": 7,
                    "timezone": "Europe/Paris",
                    "enabled": True,
                    "users": {
                        "users": [
                            {"user_id": 1, "name": "Engineer A", "email": "a@example.com", "phone": "+33612345678"},
                            {"user_id": 2, "name": "Engineer B", "email": "b@example.com"},
                        ],
                        "overrides": [],
                    },
                }
            ]
        }
    )

    name: _Text
    rotation_type: RotationType
    rotation_start: _RotationStart
    rotation_interval_days: Annotated[
        int | None, Field(ge=1, le=INTERVAL_DAYS_MAX, default=None, validate_default=True)
    ]
    timezone: Annotated[str, AfterValidator(_check_timezone)]
    enabled: bool = True
    users: RosterEntry

    @field_validator("rotation_interval_days")
    @classmethod
    def _check_interval(cls, interval_days: int | None, info: ValidationInfo) -> int | None:
        rotation_type = info.data.get("rotation_type")
        fixed = FIXED_INTERVAL_DAYS.get(str(rotation_type))
        if rotation_type == "custom" and interval_days is None:
            raise _fault("is required for a custom rotation")
        if fixed is not None and interval_days not in (None, fixed):
            raise _fault(f"must be {fixed} or left out for a {rotation_type} rotation; for others use custom")
        return fixed or interval_days


_DocumentType = TypeVar("_DocumentType", bound=_Document)


def _validate(model: type[_DocumentType], document: Mapping[str, Any]) -> _DocumentType:
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        faults = [Fault(_spell_path(each["loc"]), _spell_message(each)) for each in error.errors()]
        raise ValidationFailed(faults) from error


def _spell_path(location: Sequence[int | str]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).removeprefix(".")


def _spell_message(error: Mapping[str, Any]) -> str:
    return "unknown field" if error["type"] == "extra_forbidden" else str(error["msg"]).removeprefix("Value error, ")


def parse_override(document: Mapping[str, Any]) -> Override:
    """Return the override that a document describes; raises ValidationFailed with all its faults."""
    return build_override(_validate(OverrideEntry, document))


def build_override(entry: OverrideEntry) -> Override:
    """Return the override that a checked entry describes."""
    return Override(entry.start, entry.end, entry.user_id, entry.reason)


def parse_schedule(document: Mapping[str, Any]) -> Schedule:
    """Return the schedule that a document of the API's shape describes.

    Raises ValidationFailed with all its faults, each by its place (`users.users[1].phone`).
    """
    return build_schedule(_validate(ScheduleDocument, document))


def build_schedule(entry: ScheduleDocument) -> Schedule:
    """Return the schedule that a checked document describes.

    Phones come back as canonical E.164; a `rotation_start` with an offset becomes local time of the zone, and is
    cut to the minute.
    """
    zone = ZoneInfo(entry.timezone)
    start = entry.rotation_start
    local_start = show_local(start, zone) if start.tzinfo else start
    assert entry.rotation_interval_days is not None  # the document's own check has filled it in
    return Schedule(
        name=entry.name,
        rotation_type=entry.rotation_type,
        rotation_start=local_start.replace(second=0, microsecond=0, fold=0),
        interval_days=entry.rotation_interval_days,
        zone=zone,
        users=tuple(OnCallUser(user.user_id, user.name, user.email, user.phone) for user in entry.users.users),
        overrides=tuple(build_override(override) for override in entry.users.overrides),
        enabled=entry.enabled,
    )


def describe_override(override: Override) -> dict[str, Any]:
    """Return an override as the API shows and the database keeps it."""
    return {
        "start": override.start_at.isoformat(),
        "end": override.end_at.isoformat(),
        "user_id": override.user_id,
        "reason": override.reason,
    }


def describe_schedule(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as a document that ``parse_schedule`` reads back."""
    return {
        "name": schedule.name,
        "rotation_type": schedule.rotation_type,
        "rotation_start": schedule.rotation_start.isoformat(),
        "rotation_interval_days": schedule.interval_days,
        "timezone": schedule.zone.key,
        "enabled": schedule.enabled,
        "users": {
            "users": [
                {"user_id": user.user_id, "name": user.name, "email": user.email, "phone": user.phone}
                for user in schedule.users
            ],
            "overrides": [describe_override(override) for override in schedule.overrides],
        },
    }
