"""Who is on call when: rotations, overrides and the timeline they make, as pure functions.

Nothing here reads a clock, a database or a request: the instant is always an argument. The rules, for the
people who run schedules, stand in docs/on-call.md. A zone's rules come from `zoneinfo` alone: the machine's
own database, else the `tzdata` package.
"""

from __future__ import annotations

import functools
import heapq
import re
import zoneinfo
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise, takewhile
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import phonenumbers
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

RotationType = Literal["daily", "weekly", "custom"]

INTERVAL_DAYS_MAX: Final = 9000
FIXED_INTERVAL_DAYS: Final[Mapping[str, int]] = {"daily": 1, "weekly": 7}
EARLIEST_AT: Final = datetime.min.replace(tzinfo=UTC)
LATEST_AT: Final = datetime.max.replace(tzinfo=UTC)


# ---------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class OnCallUser:
    """A person of a schedule; what the entry leaves out (None) is resolved by whoever knows the user id."""

    user_id: int
    name: str | None = None
    email: str | None = None
    phone: str | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """A stretch [start_at, end_at), in UTC, in which `user_id` replaces whoever the rotation names."""

    start_at: datetime
    end_at: datetime
    user_id: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """A rotation and its overrides, oldest written first.

    `rotation_start` is a whole minute of local wall time in `zone`, without an offset. The order of `users`
    is the order of shifts; a user may stand in it twice.
    """

    name: str
    rotation_type: RotationType
    rotation_start: datetime
    interval_days: int
    zone: ZoneInfo
    users: tuple[OnCallUser, ...]
    overrides: tuple[Override, ...] = ()
    enabled: bool = True

    def __post_init__(self) -> None:
        if not self.users:
            raise ValueError("a schedule needs at least one user")
        if not 1 <= self.interval_days <= INTERVAL_DAYS_MAX:
            raise ValueError(f"interval_days must be 1 to {INTERVAL_DAYS_MAX}")
        start = self.rotation_start
        if start.tzinfo is not None or start.second or start.microsecond:
            raise ValueError("rotation_start must be a whole minute of local time, without an offset")


@dataclass(frozen=True, slots=True)
class RotationSlot:
    """One turn [start_at, end_at), in UTC, of the bare rotation; slot 0 begins at `rotation_start`."""

    slot: int
    user: OnCallUser
    start_at: datetime
    end_at: datetime


@dataclass(frozen=True, slots=True)
class Shift:
    """A piece [shift_start, shift_end), in UTC, of the timeline: the rotation with overrides laid over it."""

    user: OnCallUser
    shift_start: datetime
    shift_end: datetime
    is_override: bool
    override_reason: str | None


@dataclass(frozen=True, slots=True)
class CurrentShift(Shift):
    """The piece that holds an instant, and `next`: the first later piece of another person, if any."""

    next: Shift | None


# -------------------------------------------------------------------------------------------- rotation


def resolve_wall_time(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the earliest instant (UTC) at which the zone's clock shows `wall` or later.

    A repeated time is so its first occurrence, a missing one the first instant after the gap. `wall` is naive
    and of whole seconds. Raises OverflowError beyond the years 1 to 9999. Relies on what holds for every zone
    of the tz database: between two changes of a clock lie days, never less than the largest change.
    """
    after = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _show_local(after, zone) == wall:
        return after
    # In a gap fold=0 answers an instant as far behind the gap as `wall` is into it (02:30 gives 03:30) and
    # fold=1 one before it. zoneinfo does not tell its transitions: the gap's end is searched between the two.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while (half_seconds := (after - before) // timedelta(seconds=2)) > 0:
        middle = before + timedelta(seconds=half_seconds)
        if _show_local(middle, zone) >= wall:
            after = middle
        else:
            before = middle
    return after


def _show_local(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


def compute_handover(schedule: Schedule, slot: int) -> datetime:
    """Return the instant (UTC) at which `slot` begins; never falls as `slot` rises.

    Handovers beyond the years 1 to 9999 are pinned to EARLIEST_AT and LATEST_AT, so that every instant that
    can be written down lies in a slot.
    """
    try:
        wall = schedule.rotation_start + timedelta(days=slot * schedule.interval_days)
        return resolve_wall_time(wall, schedule.zone)
    except OverflowError:
        return EARLIEST_AT if slot < 0 else LATEST_AT


def find_slot(schedule: Schedule, at: datetime) -> RotationSlot:
    """Return the rotation's slot that holds `at`, overrides left aside; ValueError for a naive instant.

    Slots of no length (a handover in a day that the calendar skipped) hold no instant and are never returned.
    """
    instant = _require_instant(at)
    # An offset and a skipped day move a handover by two days at most: the estimate is a few slots off.
    slot = (instant.replace(tzinfo=None) - schedule.rotation_start) // timedelta(days=schedule.interval_days)
    start_at = compute_handover(schedule, slot)
    while start_at > instant:
        slot -= 1
        start_at = compute_handover(schedule, slot)
    while (end_at := compute_handover(schedule, slot + 1)) <= instant:
        slot, start_at = slot + 1, end_at
    return RotationSlot(slot, schedule.users[slot % len(schedule.users)], start_at, end_at)


def _require_instant(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("an instant needs an offset")
    try:
        instant = at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("an instant must lie within the years 1 to 9999 in UTC") from error
    if instant == LATEST_AT:
        raise ValueError("the last instant of the year 9999 ends every shift and begins none")
    return instant


# ------------------------------------------------------------------------------------------- overrides


def overlay_overrides(schedule: Schedule) -> list[Shift]:
    """Return the stretches that overrides rule, by time and without overlap; of two the later written wins.

    An override that a later one covers in its middle gives two pieces; a fully covered one gives none.
    """
    overrides = schedule.overrides
    waiting = sorted(range(len(overrides)), key=lambda index: overrides[index].start_at, reverse=True)
    running: list[int] = []  # a heap of negated indexes: the later written stands on top
    pieces: list[tuple[int, datetime, datetime]] = []
    edges = sorted({edge for override in overrides for edge in (override.start_at, override.end_at)})
    for left, right in pairwise(edges):
        while waiting and overrides[waiting[-1]].start_at <= left:
            heapq.heappush(running, -waiting.pop())
        while running and overrides[-running[0]].end_at <= left:
            heapq.heappop(running)
        if not running:
            continue
        winner = -running[0]
        if pieces and (pieces[-1][0], pieces[-1][2]) == (winner, left):
            pieces[-1] = (winner, pieces[-1][1], right)
        else:
            pieces.append((winner, left, right))
    users = {user.user_id: user for user in reversed(schedule.users)}
    return [_shape_override(overrides[winner], users, left, right) for winner, left, right in pieces]


def _shape_override(
    override: Override, users: Mapping[int, OnCallUser], shift_start: datetime, shift_end: datetime
) -> Shift:
    # Someone from outside the rotation may stand in: only the id is known here, the contact elsewhere.
    user = users.get(override.user_id) or OnCallUser(override.user_id)
    return Shift(user, shift_start, shift_end, is_override=True, override_reason=override.reason)


# -------------------------------------------------------------------------------------------- timeline


def current_shift(schedule: Schedule, at: datetime) -> CurrentShift:
    """Return who is on call at `at`: the very piece of the timeline that `shifts_between` yields for it.

    While an override rules, the bounds are those of its effective stretch; while the rotation does, they are
    the turn's, cut where an override ended or begins: `shift_end` is always the moment at which the answer
    changes. `next` is None where nobody else ever follows (one person, no further override).
    """
    instant = _require_instant(at)
    override_pieces = overlay_overrides(schedule)
    timeline = _walk_timeline(schedule, override_pieces, instant)
    current = next(timeline)
    person = current.user.user_id
    # Where this person is the whole rotation only overrides bring another: a walk would go on for millennia.
    alone = all(user.user_id == person for user in schedule.users)
    later = (
        (piece for piece in override_pieces if piece.shift_start >= current.shift_end) if alone else timeline
    )
    following = next((piece for piece in later if piece.user.user_id != person), None)
    return CurrentShift(
        user=current.user,
        shift_start=current.shift_start,
        shift_end=current.shift_end,
        is_override=current.is_override,
        override_reason=current.override_reason,
        next=following,
    )


def shifts_between(schedule: Schedule, start: datetime, end: datetime) -> Iterator[Shift]:
    """Yield the pieces of the timeline that touch [start, end), in order, without gap or overlap.

    Pieces are whole, not clipped: the first may begin before `start`, the last end after `end`, so that a
    shift has the same bounds in every range that shows it. An empty or reversed range yields nothing.
    Raises ValueError at once for naive bounds.
    """
    first, last = _require_instant(start), _require_instant(end)
    if last <= first:
        return iter(())
    timeline = _walk_timeline(schedule, overlay_overrides(schedule), first)
    return takewhile(lambda piece: piece.shift_start < last, timeline)


def _walk_timeline(schedule: Schedule, override_pieces: Sequence[Shift], at: datetime) -> Iterator[Shift]:
    """Yield the piece that holds `at` and all that follow; rotation turns fill the room between overrides."""
    position = bisect_right(override_pieces, at, key=lambda piece: piece.shift_start)
    free_from = override_pieces[position - 1].shift_end if position else EARLIEST_AT
    if free_from > at:
        position -= 1
    cursor = at
    while cursor < LATEST_AT:
        free_until = override_pieces[position].shift_start if position < len(override_pieces) else LATEST_AT
        if free_until <= cursor:
            piece = override_pieces[position]
            position += 1
        else:
            turn = find_slot(schedule, cursor)
            shift_start, shift_end = max(turn.start_at, free_from), min(turn.end_at, free_until)
            piece = Shift(turn.user, shift_start, shift_end, is_override=False, override_reason=None)
        yield piece
        cursor = free_from = piece.shift_end


# ------------------------------------------------------------------------------------------ validation


class Fault(NamedTuple):
    """What is wrong at one place of a document, such as `users.overrides[0].end`."""

    field: str
    message: str


class ValidationFailed(ValueError):  # noqa: N818 - the HTTP floor maps it under this name
    """A document is refused; `faults` names every fault that was found, each by its place."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


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


def _canonise_phone(text: str) -> str:
    fault = _fault("must be a possible E.164 number, such as +33612345678")
    # phonenumbers would also read letters and drop an extension: what is stored must be what was meant.
    if not re.fullmatch(r"\+[0-9]+", text):
        raise fault
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException as error:
        raise fault from error
    # Not is_possible_number: it also takes numbers that only work when dialled from within their own area.
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise fault
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


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
        return _require_instant(moment)
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
_Reason = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=500), AfterValidator(_refuse_nul)
]
_Email = Annotated[_Text, AfterValidator(_check_email)]
_Phone = Annotated[str, AfterValidator(_canonise_phone)]
_UserId = Annotated[int, BeforeValidator(_parse_user_id), Field(ge=1, lt=2**63)]
_Instant = Annotated[datetime, BeforeValidator(_parse_instant)]
_RotationStart = Annotated[datetime, BeforeValidator(_parse_moment), AfterValidator(_check_rotation_start)]


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
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).removeprefix(
        "."
    )


def _spell_message(error: Mapping[str, Any]) -> str:
    return "unknown field" if error["type"] == "extra_forbidden" else str(error["msg"])


def parse_override(document: Mapping[str, Any]) -> Override:
    """Return the override that a document describes; raises ValidationFailed with all its faults."""
    return _build_override(_validate(OverrideEntry, document))


def _build_override(entry: OverrideEntry) -> Override:
    return Override(entry.start, entry.end, entry.user_id, entry.reason)


def parse_schedule(document: Mapping[str, Any]) -> Schedule:
    """Return the schedule that a document of the API's shape describes.

    Raises ValidationFailed with all its faults, each by its place (`users.users[1].phone`). Identifiers may
    be numbers or strings of digits; phones come back as canonical E.164; a `rotation_start` with an offset
    becomes local time of the zone, and is cut to the minute.
    """
    entry = _validate(ScheduleDocument, document)
    zone = ZoneInfo(entry.timezone)
    start = entry.rotation_start
    local_start = _show_local(start, zone) if start.tzinfo else start
    assert entry.rotation_interval_days is not None  # the document's own check has filled it in
    return Schedule(
        name=entry.name,
        rotation_type=entry.rotation_type,
        rotation_start=local_start.replace(second=0, microsecond=0, fold=0),
        interval_days=entry.rotation_interval_days,
        zone=zone,
        users=tuple(
            OnCallUser(user.user_id, user.name, user.email, user.phone) for user in entry.users.users
        ),
        overrides=tuple(_build_override(override) for override in entry.users.overrides),
        enabled=entry.enabled,
    )
