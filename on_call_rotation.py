"""Who is on call when: rotations, overrides and the timeline they make, as pure functions.

Nothing here reads a clock, a database or a request: the instant is always an argument. The rules, for the
people who run schedules, stand in docs/on-call.md. A zone's rules come from `zoneinfo` alone: the machine's
own database, else the `tzdata` package.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from typing import Final, Literal
from zoneinfo import ZoneInfo

RotationType = Literal["daily", "weekly", "custom"]

INTERVAL_DAYS_MAX: Final = 9000
FIXED_INTERVAL_DAYS: Final[Mapping[str, int]] = {"daily": 1, "weekly": 7}
EARLIEST_AT: Final = datetime.min.replace(tzinfo=UTC)
LATEST_AT: Final = datetime.max.replace(tzinfo=UTC)


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


def resolve_wall_time(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the earliest instant (UTC) at which the zone's clock shows `wall` or later.

    A repeated time is so its first occurrence, a missing one the first instant after the gap. `wall` is naive
    and of whole seconds. Raises OverflowError beyond the years 1 to 9999. Relies on what holds for every zone
    of the tz database: between two changes of a clock lie days, never less than the largest change.
    """
    after = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if show_local(after, zone) == wall:
        return after
    # In a gap fold=0 answers an instant as far behind the gap as `wall` is into it (02:30 gives 03:30) and
    # fold=1 one before it. zoneinfo does not tell its transitions: the gap's end is searched between the two.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    while (half_seconds := (after - before) // timedelta(seconds=2)) > 0:
        middle = before + timedelta(seconds=half_seconds)
        if show_local(middle, zone) >= wall:
            after = middle
        else:
            before = middle
    return after


def show_local(at: datetime, zone: ZoneInfo) -> datetime:
    """Return what the zone's clocks show at an instant."""
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
    instant = require_instant(at)
    # An offset and a skipped day move a handover by two days at most: the estimate is a few slots off.
    slot = (instant.replace(tzinfo=None) - schedule.rotation_start) // timedelta(days=schedule.interval_days)
    start_at = compute_handover(schedule, slot)
    while start_at > instant:
        slot -= 1
        start_at = compute_handover(schedule, slot)
    while (end_at := compute_handover(schedule, slot + 1)) <= instant:
        slot, start_at = slot + 1, end_at
    return RotationSlot(slot, schedule.users[slot % len(schedule.users)], start_at, end_at)


def require_instant(at: datetime) -> datetime:
    """Return the instant in UTC; raises ValueError for one without offset or outside the calendar."""
    if at.tzinfo is None:
        raise ValueError("an instant needs an offset")
    try:
        instant = at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("an instant must lie within the years 1 to 9999 in UTC") from error
    if instant == LATEST_AT:
        raise ValueError("the last instant of the year 9999 ends every shift and begins none")
    return instant


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


def current_shift(schedule: Schedule, at: datetime) -> CurrentShift:
    """Return who is on call at `at`: the very piece of the timeline that `shifts_between` yields for it.

    While an override rules, the bounds are those of its effective stretch; while the rotation does, they are
    the turn's, cut where an override ended or begins: `shift_end` is always the moment at which the answer
    changes. `next` is None where nobody else ever follows (one person, no further override).
    """
    instant = require_instant(at)
    override_pieces = overlay_overrides(schedule)
    timeline = _walk_timeline(schedule, override_pieces, instant)
    current = next(timeline)
    person = current.user.user_id
    # Where this person is the whole rotation only overrides bring another: a walk would go on for millennia.
    alone = all(user.user_id == person for user in schedule.users)
    later = (piece for piece in override_pieces if piece.shift_start >= current.shift_end) if alone else timeline
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
    first, last = require_instant(start), require_instant(end)
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
