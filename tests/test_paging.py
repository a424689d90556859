"""Pages of long lists: by number near the front, by cursor at any depth, the same rows either way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alert_state_machine import Actor
from alert_store import AlertReport
from foundation.errors import ValidationFailed
from foundation.paging import Cursor, PageRequest
from tests.factories import DEVICE, make_device

ALERTS = "/api/v1/alerts"
GROUPS = "/api/v1/groups"
USERS = "/api/v1/users"
IDENTIFIERS = {ALERTS: "alert_id", GROUPS: "group_id", USERS: "user_id"}


@pytest.fixture
def read(client, headers):
    """Return a page: ``read("/api/v1/alerts", limit=2)``."""

    def get(path: str, **query: Any) -> dict[str, Any]:
        response = client.get(path, query_string=query, headers=headers("admin"))
        assert response.status_code == 200, response.json
        page: dict[str, Any] = response.json
        return page

    return get


@pytest.fixture
def walk(read):
    """Yield the pages of a list by following its cursor."""

    def follow(path: str, **query: Any) -> Iterator[list[str]]:
        cursor: dict[str, str] = {}
        while True:
            page = read(path, **query, **cursor)
            yield [row[IDENTIFIERS[path]] for row in page["data"]]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    return follow


@pytest.fixture
def raise_many(services):
    """Record reports without HTTP, a thousand at a time, and return their ids: ``raise_many(25, metric="x")``."""

    def record(count: int, **fields: Any) -> list[str]:
        raised: list[str] = []
        for start in range(0, count, 1000):
            reports = [
                AlertReport(**{"device_id": DEVICE, "severity": "low", "message": f"m {i}", "metadata": {}, **fields})
                for i in range(start, min(start + 1000, count))
            ]
            answers = services.lifecycle.raise_alerts(reports, Actor("tester")).answers
            raised += [answer["alert_id"] for answer in answers]
        return raised

    return record


def flatten(pages: Iterator[list[str]]) -> list[str]:
    return [identifier for page in pages for identifier in page]


@pytest.fixture
def mixed(raise_many, clock) -> list[str]:
    """Raise 60 alerts of three devices and severities, many in the same instant; return their ids, newest first."""
    raised: list[str] = []
    devices = [DEVICE, make_device(), make_device()]
    for step in range(20):
        for device, severity in zip(devices, ("low", "high", "critical"), strict=True):
            raised += raise_many(1, device_id=device, severity=severity, message=f"step {step}", metric=str(step % 2))
        if step % 10 == 0:
            clock.advance(timedelta(minutes=10))
    return raised[::-1]


@pytest.mark.parametrize("limit", [1, 7, 60, 200])
def test_cursor_walks_every_alert_once_newest_first(mixed, walk, limit):
    pages = list(walk(ALERTS, limit=limit))
    assert flatten(iter(pages)) == mixed
    assert all(len(page) == limit for page in pages[:-1])
    assert 0 < len(pages[-1]) <= limit


def test_page_numbers_and_cursors_show_the_same_pages(mixed, read, walk):
    for number, by_cursor in enumerate(walk(ALERTS, limit=8), start=1):
        by_number = read(ALERTS, limit=8, page=number)
        assert [row["alert_id"] for row in by_number["data"]] == by_cursor
        assert (by_number["page"], by_number["total"]) == (number, 60)
    assert read(ALERTS, limit=8, page=9)["data"] == []


def test_cursor_goes_on_within_every_filter(mixed, read, walk):
    whole = read(ALERTS, limit=200)["data"]
    filters: list[tuple[dict[str, str], Any]] = [
        ({"severity": "low"}, lambda a: a["severity"] == "low"),
        ({"severity": "low,critical", "state": "new"}, lambda a: a["severity"] != "high"),
        ({"device_id": DEVICE}, lambda a: a["device_id"] == DEVICE),
        ({"metric": "1"}, lambda a: a["metric"] == "1"),
        ({"group_id": whole[0]["group_id"]}, lambda a: a["group_id"] == whole[0]["group_id"]),
        ({"q": "step 1", "device_id": DEVICE}, lambda a: a["device_id"] == DEVICE and "step 1" in a["message"]),
        ({"start_date": "2026-03-02T08:10:00Z"}, lambda a: a["created_at"] >= "2026-03-02T08:10:00"),
        ({"end_date": "2026-03-02T08:20:00Z"}, lambda a: a["created_at"] < "2026-03-02T08:20:00"),
    ]
    for query, matches in filters:
        wanted = [alert["alert_id"] for alert in whole if matches(alert)]
        assert 3 < len(wanted) < 60, query
        assert flatten(walk(ALERTS, limit=3, **query)) == wanted, query
        assert read(ALERTS, **query)["total"] == len(wanted), query


def test_alerts_that_arrive_meanwhile_shift_nothing(mixed, read, raise_many, clock):
    first = read(ALERTS, limit=10)
    clock.advance(timedelta(seconds=1))
    raise_many(7, device_id=make_device())
    second = read(ALERTS, limit=10, cursor=first["next_cursor"])
    assert [row["alert_id"] for row in first["data"] + second["data"]] == mixed[:20]


def test_cursor_wins_over_a_page_number(mixed, read):
    cursor = read(ALERTS, limit=5)["next_cursor"]
    page = read(ALERTS, limit=5, page=9, cursor=cursor)
    assert [row["alert_id"] for row in page["data"]] == mixed[5:10]


def test_cursor_of_the_last_full_page_is_null(raise_many, read):
    raise_many(4)
    assert read(ALERTS, limit=4)["next_cursor"] is None
    second = read(ALERTS, limit=2, cursor=read(ALERTS, limit=2)["next_cursor"])
    assert (len(second["data"]), second["next_cursor"]) == (2, None)


def test_groups_are_walked_in_order_of_their_first_occurrence(raise_many, read, walk, clock):
    for step in range(10):
        raise_many(1, metric=f"a {step}")
        raise_many(1, metric=f"b {step}", device_id=make_device())
        clock.advance(timedelta(minutes=step % 2))
    whole = read(GROUPS, limit=200)["data"]
    order = [(group["first_occurrence_at"], int(group["group_id"])) for group in whole]
    assert order == sorted(order, reverse=True)
    assert len(order) == 20
    for query in ({}, {"status": "active"}, {"device_id": DEVICE}):
        wanted = [g["group_id"] for g in whole if "device_id" not in query or g["device_id"] == DEVICE]
        assert flatten(walk(GROUPS, limit=3, **query)) == wanted, query
        assert read(GROUPS, **query)["total"] == len(wanted), query


def test_users_are_walked_newest_first(sql, read, walk):
    sql("INSERT INTO users (email, name, role) SELECT i || '@example.com', 'U', 'viewer' FROM generate_series(1, 9) i")
    walked = flatten(walk(USERS, limit=2))
    assert walked == sorted(walked, key=int, reverse=True)
    assert read(USERS)["total"] == len(walked) == 9


def test_total_is_exact_up_to_10000_and_may_be_an_estimate_beyond(raise_many, read, sql):
    raise_many(10_000)
    page = read(ALERTS, device_id=DEVICE, limit=1)
    assert (page["total"], page["total_is_estimate"]) == (10_000, False)
    raise_many(1_000, message="one more")
    sql("ANALYZE alerts")
    page = read(ALERTS, device_id=DEVICE, limit=1)
    assert page["total_is_estimate"] is True
    assert 10_000 < page["total"] < 20_000
    # Severity and state alone are counted as alerts come and go: exact at any number.
    page = read(ALERTS, severity="low", limit=1)
    assert (page["total"], page["total_is_estimate"]) == (11_000, False)
    assert read(ALERTS, limit=1)["total"] == 11_000


@pytest.mark.parametrize("text", ["1_0", "10.0", "+10", " 10", "1e1", "\u0661", "ten", ""])
def test_numbers_in_a_query_are_digits_alone(client, headers, text):
    for path in (ALERTS, GROUPS, USERS):
        for name in ("limit", "page"):
            answer = client.get(path, query_string={name: text}, headers=headers("admin"))
            assert answer.status_code == 400, (path, name)
            assert answer.json["details"] == [{"field": name, "message": "must be a whole number"}]
    answer = client.get(ALERTS, query_string={"group_id": text}, headers=headers("admin"))
    assert (answer.status_code, [fault["field"] for fault in answer.json["details"]]) == (400, ["group_id"])


def test_page_numbers_end_where_counting_off_would_cost_too_much(client, headers, read):
    for path in (ALERTS, GROUPS, USERS):
        assert read(path, page=5001, limit=200)["data"] == []
        for page in (5002, 2**31):
            answer = client.get(path, query_string={"page": page, "limit": 200}, headers=headers("admin"))
            assert answer.status_code == 400
            assert [fault["field"] for fault in answer.json["details"]] == ["page"]
            assert "next_cursor" in answer.json["details"][0]["message"]


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.integers(1, 2**63 - 1),
)
def test_cursor_survives_the_round_trip(at: datetime, identifier: int) -> None:
    cursor = Cursor(at, identifier)
    assert Cursor.decode(cursor.encode()) == cursor


@given(st.text(max_size=200))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    refused: list[str] = []
    cursor = None
    try:
        cursor = Cursor.decode(text)
    except ValidationFailed as error:
        refused = [fault.field for fault in error.faults]
    if cursor is None:
        assert refused == ["cursor"]
    else:
        assert PageRequest(cursor=cursor).parameters()["cursor_id"] == cursor.identifier
