"""On-call schedules over HTTP: kept as written, answered for any instant."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

SCHEDULES = "/api/v1/on-call/schedules"
ANA = {"user_id": "1", "name": "Engineer A", "email": "a@example.com", "phone": "+33612345678"}
BEN = {"user_id": "2", "name": "Engineer B", "email": "b@example.com", "phone": None}


def make_schedule(**fields):
    return {
        "name": "Line 3",
        "rotation_type": "weekly",
        "rotation_start": "2026-02-23T08:00:00",
        "rotation_interval_days": 7,
        "timezone": "Europe/Paris",
        "enabled": True,
        "users": {"users": [ANA, BEN], "overrides": []},
        **fields,
    }


@pytest.fixture
def create(client, headers):
    def post(expected=201, **fields):
        response = client.post(SCHEDULES, json=make_schedule(**fields), headers=headers("engineer"))
        assert response.status_code == expected, response.json
        return response.json

    return post


@pytest.fixture
def get(client, headers):
    def read(path, **query):
        response = client.get(f"/api/v1/on-call{path}", query_string=query, headers=headers("viewer"))
        assert response.status_code == 200, response.json
        return response.json

    return read


def test_a_schedule_comes_back_as_it_was_written(create, get):
    created = create()
    assert created["users"] == {"users": [ANA, BEN], "overrides": []}
    assert created["rotation_start"] == "2026-02-23T08:00:00"
    assert get(f"/schedules/{created['schedule_id']}") == created


def test_the_clock_of_the_test_falls_into_the_second_week(create, get):
    # The clock stands at Monday 2 March 2026, 08:00 UTC: 09:00 in Paris, an hour after the handover to B.
    schedule = create()
    current = get("/current", schedule_id=schedule["schedule_id"])
    assert current["user"] == BEN
    assert current["shift_start"] == "2026-03-02T07:00:00+00:00"
    assert current["shift_end"] == "2026-03-09T07:00:00+00:00"
    assert current["next"]["user"] == ANA
    assert "schedules" not in current


def test_the_first_enabled_schedule_answers_when_none_is_named(create, get):
    create(name="off", enabled=False)
    first = create(name="first")
    second = create(name="second", users={"users": [ANA]})
    current = get("/current")
    assert current["schedule_id"] == first["schedule_id"]
    assert [entry["schedule_id"] for entry in current["schedules"]] == [first["schedule_id"], second["schedule_id"]]
    assert current["schedules"][1]["next"] is None


def test_without_a_schedule_nobody_is_on_call(get):
    current = get("/current")
    assert current["user"] is None
    assert current["schedules"] == []


def test_a_schedule_that_is_switched_off_has_nobody_on_call(create, get):
    schedule = create(enabled=False)
    assert get("/current", schedule_id=schedule["schedule_id"])["user"] is None


def test_handover_keeps_its_local_time_over_the_change_of_clocks(create, get):
    schedule = create()
    before = get("/current", schedule_id=schedule["schedule_id"], at="2026-03-24T00:00:00+00:00")
    after = get("/current", schedule_id=schedule["schedule_id"], at="2026-03-31T00:00:00+00:00")
    assert before["shift_start"] == "2026-03-23T07:00:00+00:00"
    assert after["shift_start"] == "2026-03-30T06:00:00+00:00"


def test_an_override_wins_and_is_taken_back(client, create, get, headers):
    schedule = create()
    address = f"{SCHEDULES}/{schedule['schedule_id']}/overrides"
    override = {
        "start": "2026-03-02T07:30:00+00:00",
        "end": "2026-03-02T12:00:00+00:00",
        "user_id": 1,
        "reason": "dentist",
    }
    assert client.post(address, json=override, headers=headers("engineer")).status_code == 201
    current = get("/current", schedule_id=schedule["schedule_id"])
    assert (current["user"]["name"], current["is_override"], current["override_reason"]) == (
        "Engineer A",
        True,
        "dentist",
    )
    assert current["next"]["user"] == BEN
    query = {name: override[name] for name in ("start", "end", "user_id")}
    assert client.delete(address, query_string=query, headers=headers("engineer")).status_code == 200
    assert get("/current", schedule_id=schedule["schedule_id"])["user"] == BEN
    assert client.delete(address, query_string=query, headers=headers("engineer")).status_code == 404


def test_of_two_overrides_the_later_written_wins(create, get):
    span = {"start": "2026-03-02T00:00:00+00:00", "end": "2026-03-03T00:00:00+00:00"}
    overrides = [{**span, "user_id": 2, "reason": "first"}, {**span, "user_id": 1, "reason": "second"}]
    schedule = create(users={"users": [ANA, BEN], "overrides": overrides})
    assert get("/current", schedule_id=schedule["schedule_id"])["override_reason"] == "second"


def test_shifts_of_a_year_follow_one_another_without_gap(create, get):
    schedule = create(rotation_type="daily", rotation_interval_days=1)
    shifts = get(f"/schedules/{schedule['schedule_id']}/shifts", **{"from": "2026-01-01", "to": "2027-01-01"})["data"]
    assert len(shifts) == 366
    assert all(one["shift_end"] == two["shift_start"] for one, two in pairwise(shifts))
    assert {one["user"]["name"] for one in shifts} == {"Engineer A", "Engineer B"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "2026-01-01"}, "to"),
        ({"to": "2026-01-01"}, "from"),
        ({"from": "2026-01-02", "to": "2026-01-01"}, "to"),
        ({"from": "2026-01-01", "to": "2027-06-01"}, "to"),
        ({"from": "yesterday", "to": "2026-01-01"}, "from"),
    ],
)
def test_a_range_of_shifts_is_checked(client, create, headers, query, field):
    schedule = create()
    response = client.get(
        f"{SCHEDULES}/{schedule['schedule_id']}/shifts", query_string=query, headers=headers("viewer")
    )
    assert response.status_code == 400
    assert [fault["field"] for fault in response.json["details"]] == [field]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"timezone": "Europe/Atlantis"}, "timezone"),
        ({"users": {"users": []}}, "users.users"),
        ({"users": {"users": [{"user_id": 1, "phone": "12"}]}}, "users.users[0].phone"),
        (
            {"users": {"users": [ANA], "overrides": [{"start": "2026-03-02", "end": "2026-03-02", "user_id": 1}]}},
            "users.overrides[0].end",
        ),
        ({"rotation_type": "hourly"}, "rotation_type"),
        ({"rotation_interval_days": 9001, "rotation_type": "custom"}, "rotation_interval_days"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_every_fault_of_a_schedule_is_named_by_its_place(create, fields, place):
    refused = create(expected=400, **fields)
    assert [fault["field"] for fault in refused["details"]] == [place]


def test_names_are_unique(create):
    create()
    assert create(expected=409)["code"] == "conflict"


def test_a_schedule_is_replaced_and_deleted(client, create, get, headers):
    address = f"{SCHEDULES}/{create()['schedule_id']}"
    body = make_schedule(name="Line 4", rotation_type="daily", rotation_interval_days=1)
    replaced = client.put(address, json=body, headers=headers("engineer"))
    assert (replaced.status_code, replaced.json["name"], replaced.json["rotation_interval_days"]) == (200, "Line 4", 1)
    assert client.delete(address, headers=headers("engineer")).status_code == 200
    assert client.get(address, headers=headers("viewer")).status_code == 404
    assert client.put(address, json=body, headers=headers("engineer")).status_code == 404


def test_schedules_are_listed_by_type_and_switch(create, get):
    create(name="weekly")
    create(name="daily", rotation_type="daily", rotation_interval_days=1, enabled=False)
    assert [entry["name"] for entry in get("/schedules")["data"]] == ["daily", "weekly"]
    assert [entry["name"] for entry in get("/schedules", rotation_type="weekly")["data"]] == ["weekly"]
    assert [entry["name"] for entry in get("/schedules", enabled="false")["data"]] == ["daily"]


def test_a_handover_happens_as_the_clock_moves(create, get, clock):
    schedule = create()
    clock.advance(timedelta(days=7))
    assert get("/current", schedule_id=schedule["schedule_id"])["user"] == ANA
