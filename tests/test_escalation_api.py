"""What people see of escalations over HTTP: on the alert, in lists, in its history, and each notification."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.factories import HOOK, MAIL, SEND_EVERYTHING, SMS, make_device, make_policy

POLICIES = "/api/v1/escalation-policies"
ALERTS = "/api/v1/alerts"
ESCALATIONS = "/api/v1/escalations"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def policy(client, headers) -> dict[str, Any]:
    """Return a policy for critical alerts: mail at once, an SMS after 5 minutes, a webhook after 15."""
    response = client.post(POLICIES, json=make_policy(MAIL, SMS, HOOK), headers=headers("admin"))
    assert response.status_code == 201
    return dict(response.json)


@pytest.fixture
def read(client, headers):
    """Return what a viewer reads."""

    def get(path: str, expect: int = 200, **query: Any) -> Any:
        response = client.get(path, query_string=query, headers=headers("viewer"))
        assert response.status_code == expect, response.json
        return response.json

    return get


@pytest.fixture
def page(policy, raise_alert, services):
    """Raise an alert whose first tier is taken; return what was answered to its report."""

    def start(**fields: Any) -> dict[str, Any]:
        raised: dict[str, Any] = raise_alert(**fields)
        services.escalations.run_once()
        return raised

    return start


@pytest.fixture
def pass_minutes(clock, services, sql):
    """Let minutes go by, the engine at work in each; with ``sends`` all pages of the minute before go out."""

    def wait(minutes: int, *, sends: bool = False) -> None:
        for _ in range(minutes):
            if sends:
                sql(SEND_EVERYTHING)
            clock.advance(MINUTE)
            services.escalations.run_once()

    return wait


# ---- on the alert


def test_a_raised_alert_names_the_escalation_that_runs_for_it(policy, raise_alert, client, headers):
    first = raise_alert()
    assert first["escalation_id"] is not None
    assert raise_alert()["escalation_id"] == first["escalation_id"]
    assert raise_alert(message="another one")["escalation_id"] == first["escalation_id"]
    assert raise_alert(severity="low")["escalation_id"] is None
    reports = [{"device_id": device, "severity": "critical", "message": "hot"} for device in (make_device(),) * 2]
    answers = client.post(f"{ALERTS}/batch", json={"alerts": reports}, headers=headers("device")).json["data"]
    assert answers[0]["escalation_id"] == answers[1]["escalation_id"] not in (None, first["escalation_id"])


def test_an_alert_nobody_is_to_be_paged_for_has_no_escalation(policy, raise_alert, read):
    for fields in ({"escalate": False}, {"occurred_at": "2026-03-02T06:59:59Z"}):
        raised = raise_alert(device_id=make_device(), **fields)
        assert raised["escalation_id"] is None
        assert read(f"{ALERTS}/{raised['alert_id']}")["escalation"] is None


def test_an_alert_shows_its_escalation_as_it_goes_on(policy, raise_alert, read, services, pass_minutes):
    raised = raise_alert()
    path = f"{ALERTS}/{raised['alert_id']}"
    before = {
        "escalation_id": raised["escalation_id"],
        "policy_id": policy["policy_id"],
        "policy_name": "Critical line",
        "status": "pending",
        "current_tier": None,
        "next_tier_at": "2026-03-02T08:00:00+00:00",
        "pass": 1,
        "started_at": "2026-03-02T08:00:00+00:00",
        "ended_at": None,
    }
    assert read(path)["escalation"] == before
    services.escalations.run_once()
    tier_1 = {**before, "status": "in_progress", "current_tier": 1, "next_tier_at": "2026-03-02T08:05:00+00:00"}
    assert read(path)["escalation"] == tier_1
    pass_minutes(15)
    assert read(path)["escalation"] == {**tier_1, "current_tier": 3, "next_tier_at": None}


def test_steps_answer_the_escalation_that_they_end(page, act, read):
    alert_id = page()["alert_id"]
    answer = act(alert_id, "acknowledge").json
    assert (answer["escalation"]["status"], answer["escalation"]["ended_at"]) == (
        "cancelled",
        "2026-03-02T08:00:00+00:00",
    )
    assert answer["escalation"]["next_tier_at"] is None
    assert answer == {**read(f"{ALERTS}/{alert_id}"), "in_flight": 0}
    for action in ("investigate", "resolve"):
        assert act(alert_id, action).json["in_flight"] == 0


def test_an_alert_that_comes_after_the_end_has_nothing_of_it(page, act, raise_alert, read, clock):
    first = page()
    act(first["alert_id"], "acknowledge")
    clock.advance(MINUTE)
    later = raise_alert(message="another one")
    assert later["group_id"] == first["group_id"]
    assert later["escalation_id"] is None
    assert read(f"{ALERTS}/{later['alert_id']}")["escalation"] is None
    assert read(f"{ALERTS}/{later['alert_id']}/notifications")["data"] == []


def test_a_resolved_alert_keeps_its_own_escalation_when_another_one_follows(page, raise_alert, act, read, clock):
    first = page()
    clock.advance(MINUTE)
    second = raise_alert(message="another one")
    resolved = act(first["alert_id"], "resolve", advance=True).json
    assert (resolved["escalation"]["escalation_id"], resolved["escalation"]["status"]) == (
        first["escalation_id"],
        "cancelled",
    )
    follower = read(f"{ALERTS}/{second['alert_id']}")["escalation"]
    assert follower["escalation_id"] != first["escalation_id"]
    assert follower["status"] == "pending"


def test_a_duplicate_shows_the_escalation_that_speaks_for_it(page, raise_alert, act, read):
    page()
    duplicate = raise_alert()
    assert duplicate["is_duplicate"]
    act(duplicate["alert_id"], "acknowledge")
    shown = read(f"{ALERTS}/{duplicate['alert_id']}")["escalation"]
    assert (shown["escalation_id"], shown["status"]) == (duplicate["escalation_id"], "cancelled")


def test_a_step_counts_what_is_on_its_way(page, act, read, sql, clock):
    raised = page()
    page(device_id=make_device())
    sql("UPDATE notifications SET status = 'sending', attempts = 1")
    assert act(raised["alert_id"], "acknowledge").json["in_flight"] == 1
    # What was sending when the escalation ended can still arrive when the next step is taken.
    answer = act(raised["group_id"], "investigate", kind="groups").json
    assert (len(answer["changed"]), answer["in_flight"]) == (1, 1)
    sql("UPDATE notifications SET status = 'sent', sent_at = app_now()")
    assert act(raised["alert_id"], "resolve").json["in_flight"] == 0


# ---- the next tier now


def test_escalate_brings_the_next_tier_at_once(client, headers, page, services, read):
    raised = page()
    address = f"{ALERTS}/{raised['alert_id']}/escalate"
    answer = client.post(address, headers=headers("operator", subject="7"))
    assert answer.status_code == 200, answer.json
    assert answer.json["escalation"]["next_tier_at"] == "2026-03-02T08:00:00+00:00"
    services.escalations.run_once()
    assert read(f"{ALERTS}/{raised['alert_id']}")["escalation"]["current_tier"] == 2
    client.post(address, json={"notes": "two more lines are down"}, headers=headers("operator", subject="7"))
    notes = [e for e in read(f"{ALERTS}/{raised['alert_id']}/history")["data"] if e["kind"] == "note"]
    assert [entry["by"] for entry in notes] == ["7", "7"]
    assert notes[1]["notes"] == "two more lines are down"


def test_escalate_starts_what_nobody_started(policy, raise_alert, act):
    raised = raise_alert(escalate=False)
    answer = act(raised["alert_id"], "escalate")
    assert answer.status_code == 200
    assert answer.json["escalation"]["status"] == "pending"


def test_escalate_says_why_it_cannot(policy, raise_alert, act, read, pass_minutes):
    assert act("4711", "escalate").status_code == 404
    unmatched = raise_alert(severity="info")
    done = raise_alert()
    pass_minutes(15)
    exhausted = act(done["alert_id"], "escalate")
    act(done["alert_id"], "resolve", advance=True)
    resolved = act(done["alert_id"], "escalate")
    for response in (act(unmatched["alert_id"], "escalate"), exhausted, resolved):
        assert (response.status_code, response.json["code"]) == (409, "conflict")
    assert "resolved" in resolved.json["error"]
    # Nothing of a refused request is kept.
    assert [e["kind"] for e in read(f"{ALERTS}/{unmatched['alert_id']}/history")["data"]] == ["state"]


# ---- lists


@pytest.fixture
def escalations(page, raise_alert, act, pass_minutes, clock) -> dict[str, str]:
    """Return the ids of escalations by status, one of each, oldest first."""
    completed = page(device_id=make_device())
    pass_minutes(31, sends=True)
    cancelled = page(device_id=make_device())
    act(cancelled["alert_id"], "acknowledge")
    clock.advance(MINUTE)
    in_progress = page()
    clock.advance(MINUTE)
    pending = raise_alert(device_id=make_device())
    made = {"completed": completed, "cancelled": cancelled, "in_progress": in_progress, "pending": pending}
    return {status: raised["escalation_id"] for status, raised in made.items()}


def test_list_escalations_newest_first(escalations, read):
    listed = read(ESCALATIONS)
    assert [(row["status"], row["escalation_id"]) for row in listed["data"]] == list(reversed(escalations.items()))
    assert (listed["total"], listed["total_is_estimate"], listed["next_cursor"]) == (4, False, None)
    assert [row["ended_unheard"] for row in listed["data"]] == [False, False, False, True]


def test_list_escalations_filter(escalations, read, raise_alert):
    def ids(**query: str) -> list[str]:
        listed = read(ESCALATIONS, **query)
        assert listed["total"] == len(listed["data"])
        return [row["escalation_id"] for row in listed["data"]]

    for status, escalation_id in escalations.items():
        assert ids(status=status) == [escalation_id]
    assert ids(status="completed,pending,completed") == [escalations["pending"], escalations["completed"]]
    device_id = read(f"{ESCALATIONS}/{escalations['in_progress']}")["device_id"]
    assert ids(device_id=device_id) == [escalations["in_progress"]]
    assert ids(device_id=device_id, status="completed") == []
    assert ids(device_id=make_device()) == []
    assert len(ids(severity="critical")) == 4
    assert ids(severity="high") == []


def test_list_escalations_pagination(escalations, read):
    newest_first = list(reversed(escalations.values()))
    assert [row["escalation_id"] for row in read(ESCALATIONS, page=2, limit=1)["data"]] == newest_first[1:2]
    for more in ({}, {"device_id": read(ESCALATIONS)["data"][0]["device_id"]}):
        seen, cursor = [], {}
        while cursor is not None:
            listed = read(ESCALATIONS, limit=1, **more, **cursor)
            seen += [row["escalation_id"] for row in listed["data"]]
            cursor = {"cursor": listed["next_cursor"]} if listed["next_cursor"] else None
        assert seen == (newest_first[:1] if more else newest_first)


def test_list_escalations_empty(read):
    assert read(ESCALATIONS) == {
        "data": [],
        "page": 1,
        "limit": 50,
        "total": 0,
        "total_is_estimate": False,
        "next_cursor": None,
    }


def test_get_escalation_with_its_steps(client, headers, raise_alert, read, services, pass_minutes, clock):
    nobody = {"delay_minutes": 5, "channels": ["sms"], "recipients": ["user:1", "+33612345678"]}
    services.accounts.create_user(email="ana@example.com", name="Ana", role="operator", password="a long enough one")
    policy = client.post(POLICIES, json=make_policy(MAIL, nobody), headers=headers("admin")).json
    raised = raise_alert(metric="temperature")
    services.escalations.run_once()
    pass_minutes(20, sends=True)
    shown = read(f"{ESCALATIONS}/{raised['escalation_id']}")
    steps = shown.pop("steps")
    assert shown == {
        "escalation_id": raised["escalation_id"],
        "alert_id": raised["alert_id"],
        "group_id": raised["group_id"],
        "device_id": raised["device_id"],
        "metric": "temperature",
        "severity": "critical",
        "policy_id": policy["policy_id"],
        "policy_name": "Critical line",
        "status": "completed",
        "pass": 1,
        "current_tier": 2,
        "next_tier_at": None,
        "started_at": "2026-03-02T08:00:00+00:00",
        "ended_at": "2026-03-02T08:10:00+00:00",
        "ended_by": None,
        "ended_unheard": True,
    }
    assert [(s["pass"], s["tier"], s["taken_at"]) for s in steps] == [
        (1, 1, "2026-03-02T08:00:00+00:00"),
        (1, 2, "2026-03-02T08:05:00+00:00"),
    ]
    assert [fault["recipient"] for fault in steps[1]["unreachable"]] == ["user:1"]
    assert steps[1]["unreachable"][0]["reason"]
    # What anybody can see of the alert keeps the contract's fields.
    assert "ended_unheard" not in read(f"{ALERTS}/{raised['alert_id']}")["escalation"]


def test_get_escalation_names_who_ended_it(client, headers, page, read):
    raised = page()
    path = f"{ALERTS}/{raised['alert_id']}/acknowledge"
    assert client.post(path, headers=headers("operator", subject="7")).status_code == 200
    shown = read(f"{ESCALATIONS}/{raised['escalation_id']}")
    assert (shown["status"], shown["ended_by"], shown["ended_unheard"]) == ("cancelled", "7", False)


def test_get_escalation_not_found(read):
    assert read(f"{ESCALATIONS}/4711", expect=404)["error"] == "escalation 4711 does not exist"


# ---- notifications


def test_list_notifications_tells_what_became_of_each(page, read, sql, pass_minutes):
    raised = page()
    sql("UPDATE notifications SET status = 'sent', attempts = 1, sent_at = app_now(), due_at = NULL")
    pass_minutes(5)
    sql(
        "UPDATE notifications SET status = 'delivered', attempts = 2, provider_id = 'SM1', segments = 2,"
        " provider_status = 'delivered', price = -0.0150, price_unit = 'USD', sent_at = '2026-03-02T08:05:01Z',"
        " delivered_at = '2026-03-02T08:05:03Z', due_at = NULL WHERE channel = 'sms'"
    )
    listed = read(f"{ALERTS}/{raised['alert_id']}/notifications")
    mail, sms = listed["data"]
    assert (mail["tier"], mail["channel"], mail["recipient"], mail["status"]) == (
        1,
        "email",
        "shift@example.com",
        "sent",
    )
    assert sms == {
        "notification_id": sms["notification_id"],
        "escalation_id": raised["escalation_id"],
        "pass": 1,
        "tier": 2,
        "channel": "sms",
        "recipient": "+33612345678",
        "named_as": "+33612345678",
        "user_id": None,
        "status": "delivered",
        "attempts": 2,
        "provider_id": "SM1",
        "provider_status": "delivered",
        "segments": 2,
        "price": -0.015,
        "price_unit": "USD",
        "error": None,
        "created_at": "2026-03-02T08:05:00+00:00",
        "sent_at": "2026-03-02T08:05:01+00:00",
        "delivered_at": "2026-03-02T08:05:03+00:00",
    }
    assert (listed["total"], listed["total_is_estimate"], listed["next_cursor"]) == (2, False, None)


def test_list_notifications_names_the_person_behind_an_address(client, headers, raise_alert, services, read):
    user = services.accounts.create_user(
        email="ana@example.com", name="Ana", role="operator", password="a long enough one", phone="+33611111111"
    )
    tier = {"delay_minutes": 0, "channels": ["email", "sms"], "recipients": [f"user:{user.user_id}"]}
    assert client.post(POLICIES, json=make_policy(tier), headers=headers("admin")).status_code == 201
    raised = raise_alert()
    services.escalations.run_once()
    rows = read(f"{ALERTS}/{raised['alert_id']}/notifications")["data"]
    assert {(row["channel"], row["recipient"], row["named_as"], row["user_id"]) for row in rows} == {
        ("email", "ana@example.com", f"user:{user.user_id}", str(user.user_id)),
        ("sms", "+33611111111", f"user:{user.user_id}", str(user.user_id)),
    }


def test_list_notifications_pagination(page, read, pass_minutes):
    path = f"{ALERTS}/{page()['alert_id']}/notifications"
    pass_minutes(15)
    assert [row["tier"] for row in read(path)["data"]] == [1, 2, 3]
    first = read(path, limit=2)
    assert ([row["tier"] for row in first["data"]], first["total"]) == ([1, 2], 3)
    rest = read(path, limit=2, cursor=first["next_cursor"])
    assert ([row["tier"] for row in rest["data"]], rest["next_cursor"]) == ([3], None)
    assert [row["tier"] for row in read(path, limit=2, page=2)["data"]] == [3]


def test_list_notifications_belong_to_every_alert_of_the_group(page, raise_alert, read):
    first = page()
    second = raise_alert(message="another one")
    listed = read(f"{ALERTS}/{second['alert_id']}/notifications")
    assert listed["total"] == 1
    assert listed == read(f"{ALERTS}/{first['alert_id']}/notifications")
    other = raise_alert(severity="low")
    assert read(f"{ALERTS}/{other['alert_id']}/notifications")["total"] == 0


def test_list_notifications_not_found(read):
    assert read(f"{ALERTS}/4711/notifications", expect=404)["error"] == "alert 4711 does not exist"


# ---- history


def test_history_tells_of_escalation_steps_and_notifications(page, client, headers, read, pass_minutes, clock):
    raised = page()
    pass_minutes(5)
    clock.advance(MINUTE)
    client.post(f"{ALERTS}/{raised['alert_id']}/acknowledge", headers=headers("operator", subject="7"))
    entries = read(f"{ALERTS}/{raised['alert_id']}/history")["data"]
    told = [
        (e["created_at"][14:16], e["kind"], e["by"], e["state"] or e["status"], e["tier"], e["channel"])
        for e in entries
    ]
    assert told == [
        ("00", "state", "tester", "new", None, None),
        ("00", "escalation", "system", "pending", None, None),
        ("00", "escalation_step", "system", None, 1, None),
        ("00", "notification", "system", "cancelled", 1, "email"),
        ("05", "escalation_step", "system", None, 2, None),
        ("05", "notification", "system", "cancelled", 2, "sms"),
        ("06", "state", "7", "acknowledged", None, None),
        ("06", "escalation", "7", "cancelled", None, None),
    ]
    assert {e["escalation_id"] for e in entries if e["kind"] not in ("state", "note")} == {raised["escalation_id"]}
    assert {e["policy_name"] for e in entries if e["kind"] == "escalation"} == {"Critical line"}
    assert entries[3]["recipient"] == "shift@example.com"
    assert entries[4]["unreachable"] == []


def test_history_tells_of_an_escalation_that_nobody_heard(page, read, pass_minutes):
    raised = page()
    pass_minutes(31, sends=True)
    last = read(f"{ALERTS}/{raised['alert_id']}/history")["data"][-1]
    assert (last["kind"], last["status"], last["by"]) == ("escalation", "completed", "system")


# ---- who cannot be reached


def test_a_user_whose_phone_has_opted_out_is_shown_as_unreachable(client, headers, sql, services):
    services.accounts.create_user(
        email="ana@example.com", name="Ana", role="admin", password="a long enough one", phone="+33611111111"
    )
    sql("INSERT INTO sms_opt_outs VALUES ('+33611111111', '2026-03-01T12:00:00Z')")
    ana = headers("admin", subject="1")
    since = "2026-03-01T12:00:00+00:00"
    assert client.get("/api/v1/users/1", headers=ana).json["opted_out_of_sms_at"] == since
    assert [row["opted_out_of_sms_at"] for row in client.get("/api/v1/users", headers=ana).json["data"]] == [since]
    assert client.get("/api/v1/auth/me", headers=ana).json["opted_out_of_sms_at"] == since
    changed = client.put("/api/v1/auth/me", json={"phone": "+33622222222"}, headers=ana).json
    assert changed["opted_out_of_sms_at"] is None
