"""The shift vectors: each rotation, instant, person and shift, through the validation and the core alike."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from foundation.errors import ValidationFailed
from on_call_document import parse_schedule
from on_call_rotation import (
    Schedule,
    compute_handover,
    current_shift,
    find_slot,
    shifts_between,
)

VECTORS_PATH = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "rotation_cases.json"
if not VECTORS_PATH.exists():
    pytest.skip("the shift vectors are not beside this repository", allow_module_level=True)

VECTORS: dict[str, Any] = json.loads(VECTORS_PATH.read_text(encoding="utf-8"))
DAYS_PER_UNIT = {"daily": 1, "weekly": 7}
ONE_PERSON = ["ana"]


def describe_rotation(rotation: dict[str, Any]) -> dict[str, Any]:
    """Write a vector's rotation as the document that a client would post."""
    length = rotation["shift_length"]
    participants = rotation.get("participants", ONE_PERSON)
    return {
        "name": "vector",
        "rotation_type": rotation["type"] if length == 1 else "custom",
        "rotation_start": rotation["start_local"],
        "rotation_interval_days": length * DAYS_PER_UNIT[rotation["type"]],
        "timezone": rotation["time_zone"],
        "users": {"users": [{"user_id": n, "name": name} for n, name in enumerate(participants, start=1)]},
    }


def by_id(key: str) -> list[Any]:
    return [pytest.param(case, id=case["id"]) for case in VECTORS[key]]


def show_local(at: datetime, schedule: Schedule) -> str:
    return at.astimezone(schedule.zone).isoformat()


@pytest.mark.parametrize("case", by_id("cases"))
def test_vector_person_and_shift(case: dict[str, Any]) -> None:
    schedule = parse_schedule(describe_rotation(case["rotation"]))
    at = datetime.fromisoformat(case["query"])
    expected = case["expected"]

    turn = find_slot(schedule, at)
    shift = current_shift(schedule, at)

    assert turn.slot == expected["slot"]
    assert schedule.users.index(turn.user) == expected["index"]
    assert shift.user.name == expected["participant"]
    assert (shift.shift_start, shift.shift_end) == (
        datetime.fromisoformat(expected["shift_start_utc"]),
        datetime.fromisoformat(expected["shift_end_utc"]),
    )
    assert (turn.start_at, turn.end_at) == (shift.shift_start, shift.shift_end)
    assert show_local(shift.shift_start, schedule) == expected["shift_start_local"]
    assert show_local(shift.shift_end, schedule) == expected["shift_end_local"]
    assert (shift.shift_end - shift.shift_start).total_seconds() == expected["shift_seconds"]
    assert not shift.is_override


@pytest.mark.parametrize("case", by_id("cases"))
def test_vector_stands_in_the_range_and_next_takes_over(case: dict[str, Any]) -> None:
    schedule = parse_schedule(describe_rotation(case["rotation"]))
    at = datetime.fromisoformat(case["query"])
    slot = case["expected"]["slot"]

    shift = current_shift(schedule, at)
    in_range = list(shifts_between(schedule, at, shift.shift_end))
    follower = schedule.users[(slot + 1) % len(schedule.users)]

    assert [(piece.user, piece.shift_start) for piece in in_range] == [(shift.user, shift.shift_start)]
    assert shift.shift_end == compute_handover(schedule, slot + 1)
    if follower == shift.user:  # the vector with one participant: nobody else ever follows
        assert shift.next is None
    else:
        assert shift.next is not None
        assert (shift.next.user, shift.next.shift_start) == (follower, shift.shift_end)


@pytest.mark.parametrize("case", by_id("invalid_cases"))
def test_invalid_vector_is_refused_by_its_field(case: dict[str, Any]) -> None:
    document = describe_rotation(case["rotation"])

    with pytest.raises(ValidationFailed) as refusal:
        parse_schedule(document)

    assert case["field"] == "shift_length"
    assert [fault.field for fault in refusal.value.faults] == ["rotation_interval_days"]


def test_vectors_are_all_of_the_known_kind() -> None:
    types = {case["rotation"]["type"] for case in VECTORS["cases"]}

    assert types == set(DAYS_PER_UNIT)
    assert len(VECTORS["cases"]) >= 29
