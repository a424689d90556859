"""Who is on call when: examples by hand, and properties against an oracle that scans the clock."""

from __future__ import annotations

import functools
import zoneinfo
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from foundation.errors import ValidationFailed
from on_call_document import parse_override, parse_schedule
from on_call_rotation import (
    EARLIEST_AT,
    LATEST_AT,
    OnCallUser,
    Override,
    Schedule,
    Shift,
    compute_handover,
    current_shift,
    find_slot,
    overlay_overrides,
    resolve_wall_time,
    shifts_between,
)

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
ANA, BEN, CHO = (OnCallUser(number, name) for number, name in ((1, "Ana"), (2, "Ben"), (3, "Cho")))


def make_schedule(
    start: str = "2026-11-02T08:00",
    zone: str = "UTC",
    *,
    interval_days: int = 1,
    users: tuple[OnCallUser, ...] = (ANA, BEN, CHO),
    overrides: tuple[Override, ...] = (),
) -> Schedule:
    return Schedule(
        name="Line 3",
        rotation_type="custom",
        rotation_start=datetime.fromisoformat(start),
        interval_days=interval_days,
        zone=ZoneInfo(zone),
        users=users,
        overrides=overrides,
    )


def make_document(**changes: Any) -> dict[str, Any]:
    return {
        "name": "Line 3",
        "rotation_type": "weekly",
        "rotation_start": "2026-11-02T08:00:00",
        "rotation_interval_days": 7,
        "timezone": "Europe/Paris",
        "enabled": True,
        "users": {"users": [{"user_id": 1, "name": "Ana"}, {"user_id": 2, "name": "Ben"}]},
    } | changes


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def override(start: str, end: str, user: OnCallUser = CHO, reason: str | None = None) -> Override:
    return Override(utc(start), utc(end), user.user_id, reason)


def summarise(shifts: list[Shift]) -> list[tuple[int, str, str, bool]]:
    return [
        (
            shift.user.user_id,
            f"{shift.shift_start:%d %H:%M}",
            f"{shift.shift_end:%d %H:%M}",
            shift.is_override,
        )
        for shift in shifts
    ]


def collect_faults(document: Mapping[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationFailed) as refusal:
        parse_schedule(document)
    return {fault.field: fault.message for fault in refusal.value.faults}


# --------------------------------------------------------------------------------- handovers, by hand


@pytest.mark.parametrize(
    ("zone", "wall", "expected"),
    [
        pytest.param("Europe/Paris", "2026-07-01T08:00", "2026-07-01T06:00", id="ordinary"),
        pytest.param("Europe/Paris", "2026-10-25T02:30", "2026-10-25T00:30", id="repeated-first"),
        pytest.param("Europe/Paris", "2026-10-25T02:00", "2026-10-25T00:00", id="repeated-from-its-beginning"),
        pytest.param("Europe/Paris", "2026-10-25T03:00", "2026-10-25T02:00", id="after-the-repeated-hour"),
        pytest.param("Europe/Paris", "2026-03-29T02:00", "2026-03-29T01:00", id="missing-from-its-beginning"),
        pytest.param("Europe/Paris", "2026-03-29T02:59", "2026-03-29T01:00", id="missing-to-its-end"),
        pytest.param("Europe/Paris", "2026-03-29T03:00", "2026-03-29T01:00", id="end-of-the-gap"),
        pytest.param("Australia/Lord_Howe", "2026-10-04T02:10", "2026-10-03T15:30", id="half-hour-gap"),
        pytest.param("Australia/Lord_Howe", "2026-04-05T01:45", "2026-04-04T14:45", id="half-hour-repeated"),
        pytest.param("America/Santiago", "2026-09-06T00:20", "2026-09-06T04:00", id="midnight-gap"),
        pytest.param("Africa/Cairo", "2026-04-24T00:00", "2026-04-23T22:00", id="midnight-itself-missing"),
        pytest.param("America/Havana", "2026-11-01T00:30", "2026-11-01T04:30", id="midnight-repeated"),
        pytest.param("Pacific/Apia", "2011-12-30T09:00", "2011-12-30T10:00", id="day-that-never-was"),
        pytest.param("Pacific/Kwajalein", "1993-08-21T12:00", "1993-08-21T12:00", id="another-skipped-day"),
        pytest.param("Africa/Monrovia", "1972-01-07T00:30", "1972-01-07T00:44:30", id="gap-of-44-min-30-s"),
        pytest.param("Africa/Monrovia", "1971-06-01T08:00", "1971-06-01T08:44:30", id="offset-of-44-min-30-s"),
        pytest.param("Europe/Paris", "1900-01-01T08:00", "1900-01-01T07:50:39", id="paris-mean-time"),
        pytest.param("Antarctica/Troll", "2026-03-29T02:30", "2026-03-29T01:00", id="two-hour-gap"),
    ],
)
def test_resolve_wall_time(zone: str, wall: str, expected: str) -> None:
    assert resolve_wall_time(datetime.fromisoformat(wall), ZoneInfo(zone)) == utc(expected)


def test_start_instant_belongs_to_the_first_and_the_end_to_the_next() -> None:
    schedule = make_schedule("2026-11-02T08:00", interval_days=7)

    assert current_shift(schedule, utc("2026-11-02T08:00")).user == ANA
    assert current_shift(schedule, utc("2026-11-09T07:59:59.999999")).user == ANA
    assert current_shift(schedule, utc("2026-11-09T08:00")).user == BEN


def test_pattern_runs_backwards_before_the_start() -> None:
    schedule = make_schedule("2026-11-02T08:00")

    people = [find_slot(schedule, utc("2026-11-02T08:00") - n * DAY).user.user_id for n in range(1, 7)]

    assert people == [3, 2, 1, 3, 2, 1]
    assert find_slot(schedule, utc("2026-11-02T07:59:59")).slot == -1


def test_handover_stays_at_the_wall_time_across_both_changes() -> None:
    schedule = make_schedule("2026-03-23T08:00", "Europe/Paris", interval_days=7)

    summer, winter = compute_handover(schedule, 1), compute_handover(schedule, 32)

    assert (compute_handover(schedule, 0), summer) == (utc("2026-03-23T07:00"), utc("2026-03-30T06:00"))
    assert winter == utc("2026-11-02T07:00")


def test_slot_of_a_skipped_day_has_no_length_and_is_never_current() -> None:
    schedule = make_schedule("2011-12-28T00:00", "Pacific/Apia")
    skipped_at = compute_handover(schedule, 2)

    shifts = list(shifts_between(schedule, skipped_at - DAY, skipped_at + DAY))

    assert skipped_at == compute_handover(schedule, 3) == utc("2011-12-30T10:00")
    assert [shift.user.user_id for shift in shifts] == [2, 1]
    assert find_slot(schedule, skipped_at).slot == 3


def test_turn_of_a_skipped_day_is_what_the_calendar_left_of_it() -> None:
    schedule = make_schedule("2011-12-28T09:00", "Pacific/Apia")

    turn = find_slot(schedule, utc("2011-12-30T10:00"))

    assert (turn.slot, turn.end_at - turn.start_at) == (2, timedelta(hours=9))


def test_longest_interval_is_years_long() -> None:
    schedule = make_schedule("2026-11-02T08:00", "Europe/Paris", interval_days=9000)

    turn = find_slot(schedule, utc("2051-06-24T06:00"))

    assert (turn.slot, turn.user, turn.start_at) == (1, BEN, utc("2051-06-24T06:00"))


def test_instants_of_any_offset_are_the_same_instants() -> None:
    schedule = make_schedule("2026-11-02T08:00")

    assert current_shift(schedule, datetime.fromisoformat("2026-11-03T17:30+09:30")).user == BEN


def test_someone_may_stand_in_the_order_twice() -> None:
    schedule = make_schedule(users=(ANA, BEN, ANA, CHO))

    shifts = shifts_between(schedule, utc("2026-11-02T08:00"), utc("2026-11-07T08:00"))

    assert [shift.user.user_id for shift in shifts] == [1, 2, 1, 3, 1]


@pytest.mark.parametrize("at", [EARLIEST_AT, LATEST_AT - SECOND], ids=["first", "last"])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
@pytest.mark.parametrize("interval_days", [1, 9000])
def test_edges_of_the_calendar_are_still_somebodys(zone: str, interval_days: int, at: datetime) -> None:
    shift = current_shift(make_schedule(zone=zone, interval_days=interval_days), at)

    assert shift.shift_start <= at < shift.shift_end


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(datetime(2026, 11, 2, 8), id="naive"),  # noqa: DTZ001 - the naive instant is the point
        pytest.param(datetime.fromisoformat("0001-01-01T00:00+05:00"), id="before-the-year-1"),
        pytest.param(LATEST_AT, id="end-of-the-calendar"),
    ],
)
def test_instants_that_cannot_be_answered_are_refused(at: datetime) -> None:
    with pytest.raises(ValueError, match="instant"):
        current_shift(make_schedule(), at)
    with pytest.raises(ValueError, match="instant"):
        shifts_between(make_schedule(), at, utc("2026-11-03T08:00"))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"users": ()}, id="nobody"),
        pytest.param({"interval_days": 0}, id="no-interval"),
        pytest.param({"interval_days": 9001}, id="interval-too-long"),
        pytest.param({"start": "2026-11-02T08:00:30"}, id="seconds"),
        pytest.param({"start": "2026-11-02T08:00Z"}, id="offset"),
    ],
)
def test_schedule_that_cannot_be_computed_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least one user|interval_days|rotation_start"):
        make_schedule(**changes)


# --------------------------------------------------------------------------------- overrides, by hand


def test_override_rules_from_its_start_to_its_end() -> None:
    schedule = make_schedule(overrides=(override("2026-11-02T12:00", "2026-11-02T18:00", CHO, "dentist"),))

    before = current_shift(schedule, utc("2026-11-02T11:59:59"))
    during = current_shift(schedule, utc("2026-11-02T12:00"))
    after = current_shift(schedule, utc("2026-11-02T18:00"))

    assert (before.user, before.is_override, before.override_reason) == (ANA, False, None)
    assert (during.user, during.is_override, during.override_reason) == (CHO, True, "dentist")
    assert (after.user, after.is_override) == (ANA, False)


def test_shift_is_cut_where_an_override_begins_or_ended() -> None:
    schedule = make_schedule(overrides=(override("2026-11-02T12:00", "2026-11-02T18:00"),))

    shifts = list(shifts_between(schedule, utc("2026-11-02T08:00"), utc("2026-11-03T08:00")))

    assert summarise(shifts) == [
        (1, "02 08:00", "02 12:00", False),
        (3, "02 12:00", "02 18:00", True),
        (1, "02 18:00", "03 08:00", False),
    ]


def test_later_written_override_wins_and_leaves_the_rest_to_the_earlier() -> None:
    long_leave = override("2026-11-02T00:00", "2026-11-06T00:00", BEN, "leave")
    one_evening = override("2026-11-03T18:00", "2026-11-03T22:00", CHO, "swap")
    schedule = make_schedule(overrides=(long_leave, one_evening))

    pieces = overlay_overrides(schedule)

    assert [(piece.override_reason, *summarise([piece])[0][:3]) for piece in pieces] == [
        ("leave", 2, "02 00:00", "03 18:00"),
        ("swap", 3, "03 18:00", "03 22:00"),
        ("leave", 2, "03 22:00", "06 00:00"),
    ]


def test_override_that_a_later_one_covers_is_gone() -> None:
    one_evening = override("2026-11-03T18:00", "2026-11-03T22:00", CHO)
    long_leave = override("2026-11-02T00:00", "2026-11-06T00:00", BEN)

    pieces = overlay_overrides(make_schedule(overrides=(one_evening, long_leave)))

    assert summarise(pieces) == [(2, "02 00:00", "06 00:00", True)]


def test_override_spans_handovers_as_one_shift() -> None:
    schedule = make_schedule(overrides=(override("2026-11-02T12:00", "2026-11-05T12:00", BEN),))

    shift = current_shift(schedule, utc("2026-11-03T09:00"))

    assert (shift.shift_start, shift.shift_end) == (utc("2026-11-02T12:00"), utc("2026-11-05T12:00"))
    assert shift.next is not None
    assert summarise([shift.next]) == [(1, "05 12:00", "06 08:00", False)]


def test_override_from_outside_the_rotation_carries_its_id_through() -> None:
    schedule = make_schedule(overrides=(override("2026-11-02T12:00", "2026-11-02T18:00", OnCallUser(99)),))

    assert current_shift(schedule, utc("2026-11-02T13:00")).user == OnCallUser(99)


def test_overrides_end_to_end_stay_two_shifts() -> None:
    overrides = (
        override("2026-11-02T12:00", "2026-11-02T18:00", CHO, "first"),
        override("2026-11-02T18:00", "2026-11-02T20:00", CHO, "second"),
    )
    schedule = make_schedule(overrides=overrides)

    shift = current_shift(schedule, utc("2026-11-02T12:00"))

    assert (shift.shift_end, shift.override_reason) == (utc("2026-11-02T18:00"), "first")
    assert shift.next is not None
    assert summarise([shift.next]) == [(1, "02 20:00", "03 08:00", False)]


# -------------------------------------------------------------------------------------- next, by hand


def test_next_is_the_override_that_cuts_into_the_shift() -> None:
    schedule = make_schedule(overrides=(override("2026-11-02T12:00", "2026-11-02T18:00", CHO, "swap"),))

    following = current_shift(schedule, utc("2026-11-02T09:00")).next

    assert following == Shift(CHO, utc("2026-11-02T12:00"), utc("2026-11-02T18:00"), True, "swap")


def test_next_passes_over_pieces_of_the_same_person() -> None:
    schedule = make_schedule(users=(ANA, ANA, BEN))

    following = current_shift(schedule, utc("2026-11-02T09:00")).next

    assert following is not None
    assert summarise([following]) == [(2, "04 08:00", "05 08:00", False)]


def test_next_of_one_person_is_nobody_or_the_next_override() -> None:
    alone = make_schedule(users=(ANA,))
    helped = make_schedule(
        users=(ANA,),
        overrides=(
            override("2026-11-01T00:00", "2026-11-01T12:00", BEN),
            override("2027-02-01T00:00", "2027-02-02T00:00", ANA),
            override("2027-03-01T00:00", "2027-03-02T00:00", BEN),
        ),
    )

    following = current_shift(helped, utc("2026-11-02T09:00")).next

    assert current_shift(alone, utc("2026-11-02T09:00")).next is None
    assert following is not None
    assert (following.user, following.shift_start) == (OnCallUser(BEN.user_id), utc("2027-03-01T00:00"))


# ------------------------------------------------------------------------------------- ranges, by hand


def test_range_yields_whole_shifts_that_touch_it() -> None:
    schedule = make_schedule(interval_days=7)

    shifts = list(shifts_between(schedule, utc("2026-11-05T00:00"), utc("2026-11-10T00:00")))

    assert summarise(shifts) == [(1, "02 08:00", "09 08:00", False), (2, "09 08:00", "16 08:00", False)]


def test_range_leaves_out_the_shift_that_begins_at_its_end() -> None:
    shifts = list(shifts_between(make_schedule(), utc("2026-11-02T08:00"), utc("2026-11-03T08:00")))

    assert summarise(shifts) == [(1, "02 08:00", "03 08:00", False)]


@pytest.mark.parametrize("end", ["2026-11-05T00:00", "2026-11-04T00:00"], ids=["empty", "reversed"])
def test_empty_or_reversed_range_yields_nothing(end: str) -> None:
    assert list(shifts_between(make_schedule(), utc("2026-11-05T00:00"), utc(end))) == []


def test_year_of_daily_shifts_has_every_day() -> None:
    schedule = make_schedule("2020-01-01T02:30", "Europe/Paris")

    shifts = list(shifts_between(schedule, utc("2026-01-01T01:30"), utc("2027-01-01T01:30")))

    hours = Counter((shift.shift_end - shift.shift_start) / timedelta(hours=1) for shift in shifts)
    assert hours == {
        24.0: 362,
        23.5: 2,  # 02:30 to 03:00 without the missing hour, then from 03:00 to 02:30
        25.0: 1,  # from the first 02:30 of the autumn night on
    }


# ----------------------------------------------------------------------------------------- validation


def test_document_becomes_a_schedule() -> None:
    document = make_document(
        users={
            "users": [
                {"user_id": 1, "name": " Ana ", "email": "ana@example.com", "phone": "+33612345678"},
                {"user_id": "2"},
            ],
            "overrides": [
                {
                    "start": "2026-12-24T08:00:00+01:00",
                    "end": "2026-12-26",
                    "user_id": "7",
                    "reason": "vacation",
                }
            ],
        }
    )

    assert parse_schedule(document) == Schedule(
        name="Line 3",
        rotation_type="weekly",
        rotation_start=datetime.fromisoformat("2026-11-02T08:00"),
        interval_days=7,
        zone=ZoneInfo("Europe/Paris"),
        users=(OnCallUser(1, "Ana", "ana@example.com", "+33612345678"), OnCallUser(2)),
        overrides=(Override(utc("2026-12-24T07:00"), utc("2026-12-26T00:00"), 7, "vacation"),),
        enabled=True,
    )


@pytest.mark.parametrize(
    ("written", "local"),
    [
        pytest.param("2026-11-02T08:00:59.999", "2026-11-02T08:00", id="cut-to-the-minute"),
        pytest.param("2026-11-02T08:00:00Z", "2026-11-02T09:00", id="with-an-offset-to-local-time"),
        pytest.param("2026-07-02T23:30:15-05:00", "2026-07-03T06:30", id="with-an-offset-in-summer"),
        pytest.param("2026-10-25T01:30:00Z", "2026-10-25T02:30", id="second-occurrence-is-the-same-wall-time"),
        pytest.param("2026-11-02", "2026-11-02T00:00", id="date-alone-is-local-midnight"),
        pytest.param(utc("2026-11-02T07:00"), "2026-11-02T08:00", id="datetime"),
    ],
)
def test_rotation_start_is_local_time(written: object, local: str) -> None:
    start = parse_schedule(make_document(rotation_start=written)).rotation_start

    assert (start, start.fold) == (datetime.fromisoformat(local), 0)


@pytest.mark.parametrize(
    ("rotation_type", "written", "days"),
    [("daily", 1, 1), ("daily", None, 1), ("weekly", 7, 7), ("weekly", None, 7), ("custom", 9000, 9000)],
)
def test_interval_of_each_type(rotation_type: str, written: int | None, days: int) -> None:
    document = make_document(rotation_type=rotation_type, rotation_interval_days=written)

    assert parse_schedule(document).interval_days == days


@pytest.mark.parametrize("rotation_type", ["daily", "weekly"])
def test_interval_may_be_left_out_but_of_custom(rotation_type: str) -> None:
    document = make_document(rotation_type=rotation_type)
    del document["rotation_interval_days"]

    assert parse_schedule(document).rotation_type == rotation_type
    assert list(collect_faults(document | {"rotation_type": "custom"})) == ["rotation_interval_days"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": "  "}, "name"),
        ({"name": "Line\0"}, "name"),
        ({"rotation_type": "hourly"}, "rotation_type"),
        ({"rotation_start": "next monday"}, "rotation_start"),
        ({"rotation_start": 1793606400}, "rotation_start"),
        ({"rotation_start": "1799-12-31T08:00"}, "rotation_start"),
        ({"rotation_type": "custom", "rotation_interval_days": 0}, "rotation_interval_days"),
        ({"rotation_type": "custom", "rotation_interval_days": 9001}, "rotation_interval_days"),
        ({"rotation_type": "custom", "rotation_interval_days": True}, "rotation_interval_days"),
        ({"rotation_type": "custom", "rotation_interval_days": "3"}, "rotation_interval_days"),
        ({"rotation_type": "custom", "rotation_interval_days": 3.0}, "rotation_interval_days"),
        ({"rotation_type": "daily", "rotation_interval_days": 7}, "rotation_interval_days"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "europe/paris"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": "Europe"}, "timezone"),
        ({"timezone": ""}, "timezone"),
        ({"timezone": "localtime"}, "timezone"),
        ({"enabled": "yes"}, "enabled"),
        ({"enabeld": True}, "enabeld"),
        ({"users": {"users": []}}, "users.users"),
        ({"users": {}}, "users.users"),
        ({"users": []}, "users"),
        ({"users": {"users": [7]}}, "users.users[0]"),
        ({"users": {"users": [{"name": "Ana"}]}}, "users.users[0].user_id"),
        ({"users": {"users": [{"user_id": True}]}}, "users.users[0].user_id"),
        ({"users": {"users": [{"user_id": 0}]}}, "users.users[0].user_id"),
        ({"users": {"users": [{"user_id": "ana"}]}}, "users.users[0].user_id"),
        ({"users": {"users": [{"user_id": 2**63}]}}, "users.users[0].user_id"),
        ({"users": {"users": [{"user_id": 1, "email": "ana"}]}}, "users.users[0].email"),
        ({"users": {"users": [{"user_id": 1, "email": "a@b.c\nBcc: d"}]}}, "users.users[0].email"),
        ({"users": {"users": [{"user_id": 1, "fone": "+33612345678"}]}}, "users.users[0].fone"),
    ],
)
def test_fault_is_named_by_its_place(changes: dict[str, Any], path: str) -> None:
    assert list(collect_faults(make_document(**changes))) == [path]


@pytest.mark.parametrize(
    "phone",
    [
        "0612345678",
        "+33",
        "+336",
        "+33612345678901",
        "+999612345678",
        "+33 6 12 34 56 78",
        "+1800FLOWERS",
        "+12530000",
        "tel:+33612345678",
        "+٣٣٦١٢٣٤٥٦٧٨",
        "",
        33612345678,
    ],
)
def test_phone_must_be_a_possible_e164_number(phone: object) -> None:
    users = {"users": [{"user_id": 1}, {"user_id": 2, "phone": phone}]}

    assert list(collect_faults(make_document(users=users))) == ["users.users[1].phone"]


def test_phone_is_kept_in_its_canonical_form() -> None:
    users = {"users": [{"user_id": 1, "phone": "+330612345678"}, {"user_id": 2, "phone": "+390612345678"}]}

    phones = [user.phone for user in parse_schedule(make_document(users=users)).users]

    assert phones == ["+33612345678", "+390612345678"]  # Italy keeps its 0


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"end": "2026-12-24T08:00:00Z"}, "end"),
        ({"end": "2026-12-24T07:00:00Z"}, "end"),
        ({"end": "2026-12-24T09:00:00+02:00"}, "end"),
        ({"end": "soon"}, "end"),
        ({"end": "9999-12-31T23:00:00-05:00"}, "end"),
        ({"start": "2026-12-24T08:00:00"}, "start"),
        ({"start": None}, "start"),
        ({"user_id": "x"}, "user_id"),
        ({"reason": 5}, "reason"),
        ({"until": "2026-12-25"}, "until"),
    ],
)
def test_override_fault_is_named_by_its_place(changes: dict[str, Any], path: str) -> None:
    entry = {"start": "2026-12-24T08:00:00Z", "end": "2026-12-25T08:00:00Z", "user_id": 2} | changes
    document = make_document(users={"users": [{"user_id": 1}], "overrides": [entry]})

    with pytest.raises(ValidationFailed) as refusal:
        parse_override(entry)

    assert [fault.field for fault in refusal.value.faults] == [path]
    assert list(collect_faults(document)) == [f"users.overrides[0].{path}"]


def test_override_alone_is_parsed() -> None:
    entry = {
        "start": "2026-12-24T08:00:00+01:00",
        "end": "2026-12-25T08:00:00Z",
        "user_id": "2",
        "reason": "",
    }

    assert parse_override(entry) == Override(utc("2026-12-24T07:00"), utc("2026-12-25T08:00"), 2, "")


def test_all_faults_are_told_at_once() -> None:
    document = make_document(
        rotation_type="daily",
        timezone="Mars/Olympus",
        users={
            "users": [{"user_id": 1}, {"user_id": 2, "phone": "{nope}", "mail": "x"}],
            "overrides": [{"start": "2026-12-26", "end": "2026-12-24", "user_id": 1}, {}],
        },
        colour="red",
    )

    faults = collect_faults(document)

    assert faults == {
        "rotation_interval_days": "must be 1 or left out for a daily rotation; for others use custom",
        "timezone": "is not a known time zone, such as Europe/Paris",
        "users.users[1].phone": "must be a phone number with its country code, such as +33612345678",
        "users.users[1].mail": "unknown field",
        "users.overrides[0].end": "must be later than start",
        "users.overrides[1].start": "Field required",
        "users.overrides[1].end": "Field required",
        "users.overrides[1].user_id": "Field required",
        "colour": "unknown field",
    }


def test_empty_document_lacks_every_required_field() -> None:
    assert set(collect_faults({})) == {"name", "rotation_type", "rotation_start", "timezone", "users"}


# ----------------------------------------------------------------- properties, against a scanning oracle

ODD_ZONES = (
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "America/Havana",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/Scoresbysund",
    "Antarctica/Troll",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Dublin",
    "Europe/Paris",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Kwajalein",
)
ZONES = sorted({*ODD_ZONES, *sorted(zoneinfo.available_timezones() - {"localtime"})[::12]})
# The years of local mean times' ends, of odd offsets, of skipped days, of today, and of the standing rules.
PROBED_YEARS = (1883, 1901, 1911, 1919, 1945, 1972, 1993, 1995, 2011, 2018, 2024, 2026, 2038, 2059)
property_test = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],
)


def show_local(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


def list_clock_changes(zone_name: str) -> list[datetime]:
    """List the instants, to the minute before, at which the zone's clock jumps in some telling years."""
    return [change_at for year in PROBED_YEARS for change_at in list_changes_of_year(zone_name, year)]


@functools.cache
def list_changes_of_year(zone_name: str, year: int) -> list[datetime]:
    zone = ZoneInfo(zone_name)
    probes = [datetime(year, 1, 1, tzinfo=UTC) + n * 3 * DAY for n in range(123)]
    offsets = [probe.astimezone(zone).utcoffset() for probe in probes]
    changes = []
    for (before, after), (offset, later_offset) in zip(pairwise(probes), pairwise(offsets), strict=True):
        if offset == later_offset:
            continue
        while after - before > MINUTE:
            middle = before + (after - before) // MINUTE // 2 * MINUTE
            same = middle.astimezone(zone).utcoffset() == offset
            before, after = (middle, after) if same else (before, middle)  # noqa: PLW2901 - a bisection
        changes.append(before)
    return changes


@functools.cache
def scan_handover(wall: datetime, zone: ZoneInfo) -> datetime:
    """Find the first instant whose local clock shows `wall` or later, by looking at every minute."""
    minute_at = (wall - timedelta(hours=26)).replace(tzinfo=UTC)
    while True:
        offset = minute_at.astimezone(zone).utcoffset()
        assert offset is not None
        if offset == (minute_at + MINUTE).astimezone(zone).utcoffset():
            first_at = max(minute_at, wall.replace(tzinfo=UTC) - offset)
            if first_at < minute_at + MINUTE:
                return first_at
        else:
            for second in range(60):
                if show_local(minute_at + second * SECOND, zone) >= wall:
                    return minute_at + second * SECOND
        minute_at += MINUTE


def scan_turn(schedule: Schedule, at: datetime) -> tuple[int, datetime, datetime]:
    """Find slot and bounds of the turn at `at` by stepping from the start, one slot at a time."""

    def scan(slot: int) -> datetime:
        return scan_handover(
            schedule.rotation_start + slot * schedule.interval_days * DAY,
            schedule.zone,
        )

    slot = 0
    while scan(slot) > at:
        slot -= 1
    while scan(slot + 1) <= at:
        slot += 1
    return slot, scan(slot), scan(slot + 1)


def name_ruler(schedule: Schedule, at: datetime) -> tuple[str, int]:
    """Name what rules at `at`: the last written override that holds it, else the turn."""
    ruler = ("turn", scan_turn(schedule, at)[0])
    for index, each in enumerate(schedule.overrides):
        if each.start_at <= at < each.end_at:
            ruler = ("override", index)
    return ruler


@st.composite
def walls_near_changes(draw: st.DrawFn) -> tuple[str, datetime]:
    """Draw a zone and a whole minute of wall time, most often within hours of a change of its clock."""
    zone_name = draw(st.sampled_from(ZONES))
    changes = list_clock_changes(zone_name)
    if not changes or draw(st.integers(0, 9)) == 0:
        wall = draw(st.datetimes(datetime(1880, 1, 2), datetime(2060, 1, 1)))  # noqa: DTZ001 - wall time
        return zone_name, wall.replace(second=0, microsecond=0, fold=0)
    near = show_local(draw(st.sampled_from(changes)), ZoneInfo(zone_name)).replace(second=0, microsecond=0, fold=0)
    reach = draw(st.sampled_from([5, 70, 130, 1500]))
    return zone_name, near + draw(st.integers(-reach, reach)) * MINUTE


@st.composite
def schedules(draw: st.DrawFn, *, max_overrides: int = 0) -> tuple[Schedule, datetime]:
    """Draw a schedule that hands over near a change of its zone's clock, and an instant about that time."""
    zone_name, wall = draw(walls_near_changes())
    interval_days = draw(st.sampled_from([1, 1, 2, 7, 10]))
    slots_before = draw(st.integers(-4, 4))
    around = resolve_wall_time(wall, ZoneInfo(zone_name))
    moments = st.integers(-4 * 24 * 60, 4 * 24 * 60).map(lambda minutes: around + minutes * MINUTE)
    overrides: list[Override] = []
    for _ in range(draw(st.integers(0, max_overrides))):
        start_at, end_at = sorted((draw(moments), draw(moments)))
        user_id = draw(st.sampled_from([1, 2, 3, 99]))
        overrides.append(Override(start_at, end_at + MINUTE, user_id, f"override {len(overrides)}"))
    schedule = Schedule(
        name="drawn",
        rotation_type="custom",
        rotation_start=wall - slots_before * interval_days * DAY,
        interval_days=interval_days,
        zone=ZoneInfo(zone_name),
        users=draw(st.sampled_from([(ANA,), (ANA, BEN), (ANA, BEN, CHO), (ANA, BEN, ANA, CHO)])),
        overrides=tuple(overrides),
    )
    at = draw(st.one_of(moments, st.just(around), st.just(around - SECOND)))
    return schedule, at


@property_test
@given(walls_near_changes())
@example(("Pacific/Apia", datetime.fromisoformat("2011-12-30T00:00")))
@example(("Africa/Monrovia", datetime.fromisoformat("1972-01-07T00:44")))
@example(("Australia/Lord_Howe", datetime.fromisoformat("2026-04-05T02:00")))
def test_handover_is_the_first_instant_that_shows_the_wall_time(drawn: tuple[str, datetime]) -> None:
    zone_name, wall = drawn
    zone = ZoneInfo(zone_name)

    assert resolve_wall_time(wall, zone) == scan_handover(wall, zone)


@pytest.mark.parametrize("zone_name", ZONES)
def test_handovers_about_a_zones_first_and_latest_changes(zone_name: str) -> None:
    zone = ZoneInfo(zone_name)
    changes = list_clock_changes(zone_name)

    for change_at in [*changes[:1], *changes[-2:]]:
        wall = show_local(change_at, zone).replace(second=0, microsecond=0, fold=0)
        for minutes in (-61, -1, 0, 1, 29, 61):
            near = wall + minutes * MINUTE
            assert resolve_wall_time(near, zone) == scan_handover(near, zone), (zone_name, near)


@property_test
@given(schedules())
def test_turn_agrees_with_stepping_from_the_start(drawn: tuple[Schedule, datetime]) -> None:
    schedule, at = drawn
    turn = find_slot(schedule, at)
    people = list(schedule.users)

    slot, start_at, end_at = scan_turn(schedule, at)
    for _ in range(abs(slot)):  # turn the list by hand, a step for each slot: no modulo
        people = [*people[1:], people[0]] if slot > 0 else [people[-1], *people[:-1]]

    assert (turn.slot, turn.start_at, turn.end_at) == (slot, start_at, end_at)
    assert turn.user == people[0]
    assert turn.start_at <= at < turn.end_at


@property_test
@given(schedules(), st.integers(-3000, 3000))
def test_pattern_repeats_forwards_and_backwards(drawn: tuple[Schedule, datetime], rounds: int) -> None:
    schedule, at = drawn
    turn = find_slot(schedule, at)
    far_slot = turn.slot + rounds * len(schedule.users)

    far_at = compute_handover(schedule, far_slot)
    far_turn = find_slot(schedule, far_at)

    if far_turn.slot == far_slot:
        assert far_turn.user == turn.user
    else:  # a slot of no length begins there as well, and the one after it rules
        assert compute_handover(schedule, far_slot + 1) == far_at


@property_test
@given(schedules(), st.integers(-40, 40))
def test_handover_shows_the_schedules_wall_time_or_ends_a_gap(drawn: tuple[Schedule, datetime], slot: int) -> None:
    schedule, _ = drawn
    wall = schedule.rotation_start + slot * schedule.interval_days * DAY

    handover_at = compute_handover(schedule, slot)

    if (shown := show_local(handover_at, schedule.zone)) != wall:
        assert show_local(handover_at - SECOND, schedule.zone) < wall < shown
    assert handover_at <= compute_handover(schedule, slot + 1)


@property_test
@given(schedules(max_overrides=6), st.integers(1, 12 * 24 * 60))
def test_every_instant_lies_in_exactly_one_shift(drawn: tuple[Schedule, datetime], minutes: int) -> None:
    schedule, start = drawn
    end = start + minutes * MINUTE

    shifts = list(shifts_between(schedule, start, end))

    assert shifts[0].shift_start <= start < shifts[0].shift_end
    assert shifts[-1].shift_start < end <= shifts[-1].shift_end
    assert all(shift.shift_start < shift.shift_end for shift in shifts)
    assert all(early.shift_end == late.shift_start for early, late in pairwise(shifts))


@property_test
@given(schedules(max_overrides=6))
def test_shift_agrees_with_asking_who_rules_at_every_edge(drawn: tuple[Schedule, datetime]) -> None:
    schedule, at = drawn
    shift = current_shift(schedule, at)
    kind, index = name_ruler(schedule, at)

    edges = {edge for each in schedule.overrides for edge in (each.start_at, each.end_at)}
    _, turn_start_at, turn_end_at = scan_turn(schedule, at)
    # Turns change at turn edges only; an override rules across them, so theirs count for turns alone.
    edges |= {turn_start_at, turn_end_at} if kind == "turn" else set()
    start_at = min(edge for edge in edges if edge <= at and rules_throughout(schedule, edge, at, edges))
    end_at = min(edge for edge in edges if edge > at and name_ruler(schedule, edge) != (kind, index))

    assert (shift.shift_start, shift.shift_end) == (start_at, end_at)
    assert shift.is_override == (kind == "override")
    if kind == "override":
        ruling = schedule.overrides[index]
        assert (shift.user.user_id, shift.override_reason) == (ruling.user_id, ruling.reason)
    else:
        assert shift.user == schedule.users[index % len(schedule.users)]


def rules_throughout(schedule: Schedule, start_at: datetime, at: datetime, edges: set[datetime]) -> bool:
    ruler = name_ruler(schedule, at)
    return all(name_ruler(schedule, edge) == ruler for edge in edges if start_at <= edge <= at)


@property_test
@given(schedules(max_overrides=6), st.integers(0, 10 * 24 * 60))
def test_range_shows_what_current_answers(drawn: tuple[Schedule, datetime], minutes: int) -> None:
    schedule, at = drawn
    later = at + minutes * MINUTE

    *_, last = shifts_between(schedule, at, later + SECOND)
    current = current_shift(schedule, later)

    assert (last.user, last.shift_start, last.shift_end) == (
        current.user,
        current.shift_start,
        current.shift_end,
    )
    assert (last.is_override, last.override_reason) == (current.is_override, current.override_reason)


@property_test
@given(schedules(max_overrides=6))
def test_next_is_the_first_later_shift_of_another_person(drawn: tuple[Schedule, datetime]) -> None:
    schedule, at = drawn
    current = current_shift(schedule, at)

    later = shifts_between(schedule, current.shift_end, current.shift_end + 60 * DAY)
    others = [shift for shift in later if shift.user.user_id != current.user.user_id]

    assert current.next == (others[0] if others else None)
