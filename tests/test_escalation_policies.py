"""Escalation policies over HTTP, and what they would do."""

from __future__ import annotations

import pytest

from escalation_rules import parse_recipient
from tests.factories import HOOK, MAIL, SMS, make_policy
from tests.test_on_call_api import ANA, BEN, SCHEDULES, make_schedule

POLICIES = "/api/v1/escalation-policies"


@pytest.fixture
def create(client, headers):
    def post(*tiers, expected=201, **fields):
        response = client.post(POLICIES, json=make_policy(*tiers, **fields), headers=headers("admin"))
        assert response.status_code == expected, response.json
        return response.json

    return post


@pytest.fixture
def simulate(client, headers):
    def play(policy, **body):
        address = f"{POLICIES}/{policy['policy_id']}/simulate"
        response = client.post(address, json={"severity": "critical", **body}, headers=headers("viewer"))
        assert response.status_code == 200, response.json
        return [
            (step["minutes"], step["pass"], step["tier"], [(t["channel"], t["address"]) for t in step["targets"]])
            for step in response.json["timeline"]
        ]

    return play


def test_a_policy_comes_back_as_it_was_written(client, create, headers):
    created = create(description="the press", priority=10)
    assert created["rules"] == {"severity_match": ["critical"], "repeat": 0, "tiers": [MAIL, SMS, HOOK]}
    assert (created["enabled"], created["priority"]) == (True, 10)
    assert client.get(f"{POLICIES}/{created['policy_id']}", headers=headers("viewer")).json == created


@pytest.mark.parametrize(
    ("policy", "places"),
    [
        ({}, ["name", "rules"]),
        (make_policy(name=""), ["name"]),
        (make_policy(severity_match=[]), ["rules.severity_match"]),
        (make_policy(severity_match=["fatal"]), ["rules.severity_match[0]"]),
        ({"name": "x", "rules": {"severity_match": ["high"], "tiers": []}}, ["rules.tiers"]),
        (make_policy(*[MAIL] * 11), ["rules.tiers"]),
        (make_policy({**MAIL, "delay_minutes": -1}), ["rules.tiers[0].delay_minutes"]),
        (make_policy({**MAIL, "delay_minutes": True}), ["rules.tiers[0].delay_minutes"]),
        (make_policy({**MAIL, "channels": ["pigeon"]}), ["rules.tiers[0].channels[0]"]),
        (make_policy({**MAIL, "channels": []}), ["rules.tiers[0].channels"]),
        (make_policy(MAIL, {**SMS, "recipients": ["nobody"]}), ["rules.tiers[1].recipients[0]"]),
        (make_policy(MAIL, {**SMS, "recipients": ["+331"]}), ["rules.tiers[1].recipients[0]"]),
        (make_policy({**MAIL, "recipients": ["user:99"]}), ["rules.tiers[0].recipients[0]"]),
        (make_policy({**MAIL, "recipients": ["shift@example.com", "oncall:9"]}), ["rules.tiers[0].recipients[1]"]),
        (make_policy(SMS, MAIL), ["rules.tiers[1].delay_minutes"]),
        (
            make_policy({**MAIL, "channels": ["email", "sms"]}),
            ["rules.tiers[0].channels[1]"],
        ),
        (
            make_policy({**MAIL, "recipients": ["shift@example.com", "+33612345678"]}),
            ["rules.tiers[0].recipients[1]"],
        ),
        (make_policy({**HOOK, "recipients": ["ftp://example.com/"]}), ["rules.tiers[0].recipients[0]"]),
        (make_policy(repeat=-1), ["rules.repeat"]),
        (make_policy(color="red"), ["color"]),
    ],
)
def test_every_fault_is_named_by_its_place(client, headers, policy, places):
    response = client.post(POLICIES, json=policy, headers=headers("admin"))
    assert response.status_code == 400
    assert [fault["field"] for fault in response.json["details"]] == places


def test_all_faults_are_named_at_once(client, headers):
    policy = make_policy({**SMS, "recipients": ["nobody"]}, {**MAIL, "recipients": ["+33612345678"]})
    response = client.post(POLICIES, json=policy, headers=headers("admin"))
    assert [fault["field"] for fault in response.json["details"]] == [
        "rules.tiers[0].recipients[0]",
        "rules.tiers[1].delay_minutes",
        "rules.tiers[1].recipients[0]",
        "rules.tiers[1].channels[0]",
    ]


def test_names_are_unique(create):
    create()
    assert create(expected=409)["code"] == "conflict"


def test_only_an_administrator_writes_policies(client, headers):
    assert client.post(POLICIES, json=make_policy(), headers=headers("engineer")).status_code == 403


def test_a_policy_is_replaced_and_deleted(client, create, headers):
    address = f"{POLICIES}/{create()['policy_id']}"
    replaced = client.put(address, json=make_policy(MAIL, name="Other", enabled=False), headers=headers("admin"))
    assert (replaced.status_code, replaced.json["name"], replaced.json["enabled"]) == (200, "Other", False)
    assert client.delete(address, headers=headers("admin")).status_code == 200
    assert client.get(address, headers=headers("viewer")).status_code == 404
    assert client.put(address, json=make_policy(), headers=headers("admin")).status_code == 404


def test_the_policy_with_the_highest_priority_then_the_older_is_found(create, services):
    create(name="old", priority=1)
    best = create(name="best", priority=2)
    create(name="same, but younger", priority=2)
    create(name="off", priority=9, enabled=False)
    create(name="other severity", priority=9, severity_match=["low"])
    found = services.escalations.find_policy("critical")
    assert (str(found["id"]), found["name"], found["rules"]) == (best["policy_id"], "best", best["rules"])
    assert services.escalations.find_policy("info") is None


def test_the_timeline_of_a_policy(create, simulate):
    assert simulate(create()) == [
        (0, 1, 1, [("email", "shift@example.com")]),
        (5, 1, 2, [("sms", "+33612345678")]),
        (15, 1, 3, [("webhook", "https://example.com/hook")]),
    ]


def test_an_acknowledgement_ends_the_timeline(create, simulate):
    policy = create()
    assert len(simulate(policy, acknowledge_after_minutes=15)) == 2
    assert len(simulate(policy, acknowledge_after_minutes=15.01)) == 3
    assert simulate(policy, acknowledge_after_minutes=0) == []


def test_passes_repeat_after_twice_the_last_delay(create, simulate):
    timeline = simulate(create(MAIL, SMS, repeat=2))
    assert [(minutes, number, tier) for minutes, number, tier, _ in timeline] == [
        (0, 1, 1), (5, 1, 2), (10, 2, 1), (15, 2, 2), (20, 3, 1), (25, 3, 2),
    ]  # fmt: skip


def test_a_policy_of_one_immediate_tier_repeats_every_minute(create, simulate):
    assert [minutes for minutes, *_ in simulate(create(MAIL, repeat=3))] == [0, 1, 2, 3]


def test_on_call_is_resolved_for_the_instant_of_each_tier(client, create, headers, simulate):
    roster = {"users": [ANA, {**BEN, "phone": "+33687654321"}]}
    schedule = client.post(SCHEDULES, json=make_schedule(users=roster), headers=headers("engineer")).json
    on_call = {"channels": ["sms"], "recipients": [f"oncall:{schedule['schedule_id']}"]}
    policy = create({"delay_minutes": 0, **on_call}, {"delay_minutes": 10, **on_call})
    # Five minutes before the handover to B.
    assert simulate(policy, at="2026-03-02T06:55:00+00:00") == [
        (0, 1, 1, [("sms", "+33612345678")]),
        (10, 1, 2, [("sms", "+33687654321")]),
    ]


def test_a_tier_that_reaches_nobody_brings_the_next_one_at_once(client, create, headers, simulate):
    off = client.post(SCHEDULES, json=make_schedule(enabled=False), headers=headers("engineer")).json
    nobody = {"channels": ["sms"], "recipients": [f"oncall:{off['schedule_id']}"]}
    policy = create({"delay_minutes": 0, **nobody}, SMS, HOOK)
    assert [(minutes, tier) for minutes, _, tier, _ in simulate(policy)] == [(0, 1), (0, 2), (15, 3)]


def test_users_are_reached_through_their_account(client, create, headers, simulate):
    body = {
        "email": "ana@example.com", "name": "Ana", "role": "operator", "password": "correct horse battery",
        "phone": "+33611111111",
    }  # fmt: skip
    user = client.post("/api/v1/users", json=body, headers=headers("admin")).json
    tier = {"delay_minutes": 0, "channels": ["sms", "email"], "recipients": [f"user:{user['user_id']}", "+33611111111"]}
    # Listed twice, paged once per channel and address.
    assert simulate(create(tier)) == [(0, 1, 1, [("sms", "+33611111111"), ("email", "ana@example.com")])]


def test_a_severity_that_does_not_match_notifies_nobody(create, simulate):
    assert simulate(create(), severity="low") == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("shift@example.com", "email"),
        ("+33612345678", "phone"),
        ("user:7", "user"),
        ("oncall:3", "oncall"),
        ("https://example.com/hook?x=1", "url"),
        ("http://[::1]:8080/", "url"),
        ("user:0", None),
        ("user:x", None),
        ("oncall:99999999999999999999", None),
        ("0612345678", None),
        ("+33 6 12 34 56 78", None),
        ("https://", None),
        ("https://user:secret@example.com/", None),
        ("https://exa mple.com/", None),
        ("http://example.com:99999/", None),
        ("@example.com", None),
        ("", None),
    ],
)
def test_recipients_are_told_apart(text, kind):
    recipient = parse_recipient(text)
    assert (recipient and recipient.kind) == kind
