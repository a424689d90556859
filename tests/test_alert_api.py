"""The alert endpoints over HTTP, against the real database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from tests.factories import DEVICE, HOOK, MAIL, SMS, make_device, make_policy, make_report

ALERTS = "/api/v1/alerts"
GROUPS = "/api/v1/groups"


def ids_of(page: Mapping[str, Any], name: str = "alert_id") -> list[str]:
    return [row[name] for row in page["data"]]


def fields_of(answer: Mapping[str, Any]) -> list[str]:
    return [fault["field"] for fault in answer["details"]]


@pytest.fixture
def read(client, headers):
    """Return what a viewer reads: ``read("/api/v1/alerts", severity="high")``."""

    def get(path: str, expect: int = 200, **query: Any) -> Any:
        response = client.get(path, query_string=query, headers=headers("viewer"))
        assert response.status_code == expect, response.json
        return response.json

    return get


@pytest.fixture
def colleague(services) -> str:
    """Return the id of a user to whom work can be given."""
    user = services.accounts.create_user(
        email="colleague@example.com", name="Colleague", role="operator", password="a long enough password"
    )
    return str(user.user_id)


# ---- reporting


def test_create_alert_success(client, headers):
    response = client.post(ALERTS, json=make_report(), headers=headers("device"))
    assert response.status_code == 201
    alert = response.json
    assert alert["severity"] == "critical"
    assert alert["state"] == "new"
    assert alert["device_id"] == DEVICE
    assert alert["metadata"] == {"temperature": 85.5}
    assert alert["sla_targets"] == {"tta": 5, "ttr": 30}
    assert alert["is_duplicate"] is False
    assert alert["duplicate_of"] is None
    assert alert["escalation_id"] is None
    assert alert["created_at"] == "2026-03-02T08:00:00+00:00"


def test_create_alert_missing_fields(client, headers):
    response = client.post(ALERTS, json={"metric": "temperature"}, headers=headers("device"))
    assert response.status_code == 400
    assert response.json["code"] == "validation_failed"
    assert response.json["details"] == [
        {"field": "device_id", "message": "is required"},
        {"field": "severity", "message": "is required"},
        {"field": "message", "message": "is required"},
    ]


def test_create_alert_invalid_severity(client, headers):
    response = client.post(ALERTS, json=make_report(severity="catastrophic"), headers=headers("device"))
    assert response.status_code == 400
    assert fields_of(response.json) == ["severity"]
    assert "'critical'" in response.json["details"][0]["message"]


def test_create_alert_unauthorized(client, sql):
    response = client.post(ALERTS, json=make_report())
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json["code"] == "not_authenticated"
    assert sql("SELECT count(*) FROM alerts") == [(0,)]


MINUTES = {"critical": (5, 30), "high": (15, 120), "medium": (60, 480), "low": (240, 1440), "info": (1440, 10080)}


def test_create_alert_starts_the_clocks_of_its_severity(raise_alert, read):
    for severity, (tta, ttr) in MINUTES.items():
        alert = raise_alert(severity=severity)
        assert alert["sla_targets"] == {"tta": tta, "ttr": ttr}
        sla = read(f"{ALERTS}/{alert['alert_id']}")["sla"]
        assert (sla["target_tta"], sla["target_ttr"]) == (tta, ttr)
        assert (sla["actual_tta"], sla["actual_ttr"]) == (None, None)


def test_create_alert_takes_its_metric_from_the_field_then_from_the_metadata(raise_alert):
    assert raise_alert(metric="pressure", metadata={"metric": "temperature"})["metric"] == "pressure"
    assert raise_alert(metadata={"metric": "temperature"})["metric"] == "temperature"
    assert raise_alert(metadata={})["metric"] == ""
    # Only a text can name a metric.
    for value in (7, None, ["temperature"], {"name": "temperature"}):
        assert raise_alert(metadata={"metric": value})["metric"] == ""


def test_create_alert_is_kept_and_grouped_under_the_metric_it_answers(client, headers, read):
    odd = [
        make_report(metadata={"metric": 7}),
        make_report(metadata={"metric": None}),
        make_report(metadata={"metric": ["temperature"]}),
        make_report(metadata={"metric": "temperature"}, metric=""),
    ]
    for report in odd:
        alone = client.post(ALERTS, json=report, headers=headers("device")).json
        batch = client.post(f"{ALERTS}/batch", json={"alerts": [report]}, headers=headers("device")).json
        for alert in (alone, batch["data"][0]):
            assert read(f"{ALERTS}/{alert['alert_id']}")["metric"] == alert["metric"] == alone["metric"], report
            assert read(f"{GROUPS}/{alert['group_id']}")["metric"] == alert["metric"], report


def test_create_alert_keeps_its_metadata_as_it_came(raise_alert, read):
    metadata = {
        "text": 'grüße 你好 🏭 " \\ \n',
        "nested": {"list": [1, -2.5, None, True, {"deep": []}], "empty": {}},
        "largest": 2**63 - 1,
        "smallest": -(2**63),
        "tiny": 5e-324,
        "": "an empty key",
    }
    alert = raise_alert(metadata=metadata)
    assert alert["metadata"] == metadata
    assert read(f"{ALERTS}/{alert['alert_id']}")["metadata"] == metadata


def test_create_alert_takes_messages_of_1_to_2000_characters(raise_alert):
    # Characters, not bytes: each of these takes four.
    for length in (1, 2000):
        assert raise_alert(message="🏭" * length)["message"] == "🏭" * length


def test_create_alert_takes_any_spelling_of_a_uuid_and_answers_one(raise_alert):
    assert raise_alert(device_id=DEVICE.upper())["device_id"] == DEVICE


def test_create_alert_carries_its_own_time_beside_the_time_of_its_record(raise_alert, read):
    alert = raise_alert(occurred_at="2026-03-02T07:30:00.250+02:00")
    shown = read(f"{ALERTS}/{alert['alert_id']}")
    assert shown["occurred_at"] == "2026-03-02T05:30:00.250000+00:00"
    assert shown["created_at"] == "2026-03-02T08:00:00+00:00"
    assert shown["sla"]["tta_due_at"] == "2026-03-02T08:05:00+00:00"


def test_create_alert_may_lie_5_minutes_ahead_and_no_more(client, headers):
    on_time = make_report(occurred_at="2026-03-02T08:05:00+00:00")
    assert client.post(ALERTS, json=on_time, headers=headers("device")).status_code == 201
    too_far = make_report(occurred_at="2026-03-02T08:05:00.000001+00:00")
    response = client.post(ALERTS, json=too_far, headers=headers("device"))
    assert response.status_code == 400
    assert fields_of(response.json) == ["occurred_at"]


def test_create_alert_with_an_open_message_of_its_group_is_a_duplicate(raise_alert):
    first, second, other = raise_alert(), raise_alert(), raise_alert(message="Pressure lost")
    assert (second["is_duplicate"], second["duplicate_of"]) == (True, first["alert_id"])
    assert (other["is_duplicate"], other["duplicate_of"]) == (False, None)
    assert first["group_id"] == second["group_id"] == other["group_id"]


def test_create_alert_duplicate_arrives_in_the_state_of_its_original(raise_alert, act, read):
    original = raise_alert()
    act(original["alert_id"], "acknowledge")
    duplicate = raise_alert()
    assert duplicate["state"] == "acknowledged"
    act(original["alert_id"], "investigate")
    assert read(f"{ALERTS}/{duplicate['alert_id']}")["state"] == "investigating"


def test_create_alert_names_who_reported(client, headers, read):
    response = client.post(ALERTS, json=make_report(source="plc"), headers=headers("device", subject="gateway-7"))
    shown = read(f"{ALERTS}/{response.json['alert_id']}")
    assert (shown["reported_by"], shown["source"]) == ("gateway-7", "plc")


# ---- batches


def test_create_batch_answers_each_report_in_order(client, headers):
    devices = [make_device() for _ in range(3)]
    reports = [make_report(device_id=devices[i % 3], message=f"message {i // 6}") for i in range(12)]
    response = client.post(f"{ALERTS}/batch", json={"alerts": reports}, headers=headers("device"))
    assert response.status_code == 201
    raised = response.json["data"]
    assert [(r["device_id"], r["message"]) for r in raised] == [(r["device_id"], r["message"]) for r in reports]
    assert [r["is_duplicate"] for r in raised] == ([False] * 3 + [True] * 3) * 2
    assert [r["duplicate_of"] for r in raised[3:6]] == [r["alert_id"] for r in raised[:3]]
    assert len({r["group_id"] for r in raised}) == 3


def test_create_batch_takes_1000(client, headers, read):
    reports = [make_report(device_id=make_device()) for _ in range(1000)]
    response = client.post(f"{ALERTS}/batch", json={"alerts": reports}, headers=headers("device"))
    assert response.status_code == 201
    assert len({r["alert_id"] for r in response.json["data"]}) == 1000
    assert read(ALERTS)["total"] == 1000


def test_create_batch_refuses_none_and_too_many(client, headers):
    for count in (0, 1001):
        response = client.post(f"{ALERTS}/batch", json={"alerts": [make_report()] * count}, headers=headers("device"))
        assert response.status_code == 400
        assert fields_of(response.json) == ["alerts"]


def test_create_batch_is_all_or_nothing_and_names_every_fault(client, headers, sql):
    reports = [make_report(), make_report(severity="loud"), make_report(message=""), make_report()]
    response = client.post(f"{ALERTS}/batch", json={"alerts": reports}, headers=headers("device"))
    assert response.status_code == 400
    assert fields_of(response.json) == ["alerts[1].severity", "alerts[2].message"]
    assert sql("SELECT count(*) FROM alerts") == [(0,)]


def test_create_batch_names_every_time_that_lies_ahead(client, headers, sql):
    ahead = make_report(occurred_at="2026-03-03T00:00:00Z")
    response = client.post(f"{ALERTS}/batch", json={"alerts": [ahead, make_report(), ahead]}, headers=headers("device"))
    assert response.status_code == 400
    assert fields_of(response.json) == ["alerts[0].occurred_at", "alerts[2].occurred_at"]
    assert sql("SELECT count(*) FROM alerts") == [(0,)]


# ---- reading


def test_get_alert_success(raise_alert, read, clock):
    raised = raise_alert(metric="temperature")
    clock.advance(timedelta(minutes=4))
    alert = read(f"{ALERTS}/{raised['alert_id']}")
    assert {name: alert[name] for name in raised if name not in ("sla_targets", "escalation_id")} == {
        name: value for name, value in raised.items() if name not in ("sla_targets", "escalation_id")
    }
    assert alert["sla"] == {
        "target_tta": 5,
        "target_ttr": 30,
        "actual_tta": None,
        "actual_ttr": None,
        "tta_due_at": "2026-03-02T08:05:00+00:00",
        "ttr_due_at": "2026-03-02T08:30:00+00:00",
        "acknowledged_at": None,
        "resolved_at": None,
        "tta_breached": False,
        "ttr_breached": False,
        "tta_at_risk": True,
        "ttr_at_risk": False,
    }
    assert alert["group"] == {
        "group_id": raised["group_id"],
        "group_key": f"{DEVICE}:temperature:critical",
        "device_id": DEVICE,
        "metric": "temperature",
        "severity": "critical",
        "status": "active",
        "occurrence_count": 1,
        "open_alerts": 1,
        "first_occurrence_at": "2026-03-02T08:00:00+00:00",
        "last_occurrence_at": "2026-03-02T08:00:00+00:00",
        "closed_at": None,
        "noise_reduction_pct": 0.0,
    }
    assert alert["escalation"] is None


def test_get_alert_not_found(raise_alert, read):
    alert_id = int(raise_alert()["alert_id"])
    answer = read(f"{ALERTS}/{alert_id + 1}", expect=404)
    assert answer["code"] == "not_found"
    assert answer["error"] == f"alert {alert_id + 1} does not exist"


# ---- listing


def test_list_alerts_success(raise_alert, read, clock):
    raised = []
    for _ in range(3):
        raised.append(raise_alert(device_id=make_device())["alert_id"])
        clock.advance(timedelta(seconds=1))
    page = read(ALERTS)
    assert ids_of(page) == raised[::-1]
    assert (page["page"], page["limit"], page["total"]) == (1, 50, 3)
    assert (page["total_is_estimate"], page["next_cursor"]) == (False, None)
    assert page["data"][0]["sla"]["target_tta"] == 5


def test_list_alerts_empty(read):
    assert read(ALERTS) == {
        "data": [],
        "page": 1,
        "limit": 50,
        "total": 0,
        "total_is_estimate": False,
        "next_cursor": None,
    }


def test_list_alerts_of_one_instant_come_newest_id_first(raise_alert, read):
    raised = [raise_alert(message=f"message {i}")["alert_id"] for i in range(12)]
    assert ids_of(read(ALERTS)) == raised[::-1]


@pytest.mark.parametrize("microseconds", [0, 1, 500_000, 416_110, 123_456])
def test_lists_show_what_the_single_reading_shows_times_to_the_digit(raise_alert, act, read, clock, microseconds):
    clock.advance(timedelta(microseconds=microseconds))
    time = clock.now().isoformat()
    words = {
        "message": f'"seen_at":"2026-03-02T08:00:00.5+00:00" \u2028 \x07 \\u0041 grüße 🏭 {time}',
        "metadata": {"seen_at": "2026-03-02T08:00:00.5+00:00", "nested": [{"_at": time[:20] + "5+00:00"}, None, 1e300]},
    }
    moved = raise_alert(**words)
    other = raise_alert(
        occurred_at="2026-03-02T07:30:00.250+02:00", metadata=words["metadata"] | {"nested": {"a": 1.5}}
    )
    act(moved["alert_id"], "acknowledge")
    clock.advance(timedelta(seconds=61, microseconds=10))
    act(moved["alert_id"], "resolve", advance=True)
    for query in ({}, {"severity": "critical"}, {"device_id": DEVICE}):
        page = read(ALERTS, **query)["data"]
        assert ids_of({"data": page}) == [other["alert_id"], moved["alert_id"]]
        assert [alert["created_at"] for alert in page] == [other["created_at"], moved["created_at"]] == [time, time]
        assert page[1]["message"] == words["message"]
        assert page[1]["metadata"] == words["metadata"]
        for listed in page:
            alone = read(f"{ALERTS}/{listed['alert_id']}")
            group = alone.pop("group")
            assert alone.pop("escalation") is None
            assert listed == alone
            assert group in read(GROUPS)["data"]
            assert group in read(GROUPS, device_id=DEVICE)["data"]


def test_list_alerts_filter_severity(raise_alert, read):
    raised = {severity: raise_alert(severity=severity)["alert_id"] for severity in ("critical", "high", "info")}
    page = read(ALERTS, severity="high")
    assert (ids_of(page), page["total"]) == ([raised["high"]], 1)
    page = read(ALERTS, severity="critical,info")
    assert (ids_of(page), page["total"]) == ([raised["info"], raised["critical"]], 2)
    assert ids_of(read(ALERTS, severity="low")) == []


def test_list_alerts_filter_device(raise_alert, read):
    device = make_device()
    mine = [raise_alert(device_id=device, message=f"message {i}")["alert_id"] for i in range(2)]
    raise_alert(device_id=make_device())
    page = read(ALERTS, device_id=device)
    assert (ids_of(page), page["total"]) == (mine[::-1], 2)
    assert ids_of(read(ALERTS, device_id=make_device())) == []


def test_list_alerts_pagination(raise_alert, read):
    raised = [raise_alert(message=f"message {i}")["alert_id"] for i in range(5)][::-1]
    pages = [read(ALERTS, page=number, limit=2) for number in (1, 2, 3, 4)]
    assert [ids_of(page) for page in pages] == [raised[:2], raised[2:4], raised[4:], []]
    assert [(page["page"], page["limit"], page["total"]) for page in pages] == [(n, 2, 5) for n in (1, 2, 3, 4)]
    assert [page["next_cursor"] is None for page in pages] == [False, False, True, True]


def test_list_alerts_filter_state(raise_alert, act, read):
    new, acknowledged = (raise_alert(device_id=make_device())["alert_id"] for _ in range(2))
    act(acknowledged, "acknowledge")
    assert ids_of(read(ALERTS, state="acknowledged")) == [acknowledged]
    assert ids_of(read(ALERTS, state="new,investigating")) == [new]
    page = read(ALERTS, state="new,acknowledged", severity="critical")
    assert (ids_of(page), page["total"]) == ([acknowledged, new], 2)


def test_list_alerts_filters_all_apply_at_once(raise_alert, read):
    wanted = raise_alert(metric="temperature", severity="high")
    raise_alert(metric="temperature", severity="low")
    raise_alert(metric="pressure", severity="high")
    raise_alert(metric="temperature", severity="high", device_id=make_device())
    page = read(ALERTS, device_id=DEVICE, metric="temperature", severity="high", state="new")
    assert (ids_of(page), page["total"]) == ([wanted["alert_id"]], 1)
    assert ids_of(read(ALERTS, group_id=wanted["group_id"])) == [wanted["alert_id"]]
    assert ids_of(read(ALERTS, group_id=wanted["group_id"], metric="pressure")) == []


def test_list_alerts_date_range_includes_its_start_and_excludes_its_end(raise_alert, read, clock):
    raised = []
    for _ in range(3):
        raised.append(raise_alert(device_id=make_device())["alert_id"])
        clock.advance(timedelta(hours=1))
    page = read(ALERTS, start_date="2026-03-02T08:00:00Z", end_date="2026-03-02T10:00:00+00:00")
    assert (ids_of(page), page["total"]) == ([raised[1], raised[0]], 2)
    assert ids_of(read(ALERTS, start_date="2026-03-02T09:00:00.000001Z")) == [raised[2]]
    assert ids_of(read(ALERTS, start_date="2026-03-02T11:00:00+02:00")) == raised[:0:-1]
    assert ids_of(read(ALERTS, end_date="2026-03-02", severity="critical")) == []
    assert ids_of(read(ALERTS, start_date="2026-03-02", end_date="2026-03-03")) == raised[::-1]


def test_list_alerts_q_finds_text_in_the_message(raise_alert, read):
    found = raise_alert(message="Bearing TEMPERATURE at 100 %_ of its limit")["alert_id"]
    raise_alert(message="Pressure lost")
    assert ids_of(read(ALERTS, q="temperature", device_id=DEVICE)) == [found]
    # Nothing in it is a pattern.
    assert ids_of(read(ALERTS, q="100 %_ of", device_id=DEVICE)) == [found]
    assert ids_of(read(ALERTS, q="%", device_id=DEVICE, severity="critical")) == [found]
    assert ids_of(read(ALERTS, q="T_MPERATURE", device_id=DEVICE)) == []
    page = read(ALERTS, q="bearing", start_date="2026-02-20", end_date="2026-03-23")
    assert (ids_of(page), page["total"]) == ([found], 1)
    assert ids_of(read(ALERTS, q="bearing", start_date="2026-02-20", end_date="2026-03-23", severity="critical")) == [
        found
    ]


def test_list_alerts_q_needs_a_device_or_at_most_31_days(read):
    unbounded = [
        {},
        {"severity": "critical", "metric": "temperature"},
        {"end_date": "2026-03-03"},
        {"start_date": "2020-01-01"},
        {"start_date": "2026-01-01", "end_date": "2026-02-02"},
        {"start_date": "2026-01-01T00:00:00Z", "end_date": "2026-02-01T00:00:01Z"},
    ]
    for query in unbounded:
        answer = read(ALERTS, expect=400, q="bearing", **query)
        assert fields_of(answer) == ["q"], query
    read(ALERTS, q="bearing", start_date="2026-01-01", end_date="2026-02-01")


# ---- acknowledging


def test_acknowledge_alert_success(raise_alert, act, clock):
    alert = raise_alert()
    clock.advance(timedelta(minutes=1, seconds=30))
    response = act(alert["alert_id"], "acknowledge", notes="on my way")
    assert response.status_code == 200
    assert response.json["state"] == "acknowledged"
    assert response.json["acknowledged_at"] == "2026-03-02T08:01:30+00:00"
    assert response.json["sla"]["acknowledged_at"] == "2026-03-02T08:01:30+00:00"
    assert response.json["sla"]["actual_tta"] == 1.5
    assert response.json["sla"]["tta_breached"] is False


def test_acknowledge_alert_invalid_state(raise_alert, act):
    alert_id = raise_alert()["alert_id"]
    act(alert_id, "acknowledge")
    response = act(alert_id, "acknowledge")
    assert response.status_code == 409
    assert response.json["code"] == "illegal_transition"
    assert response.json["current_state"] == "acknowledged"
    assert response.json["allowed"] == ["investigating"]
    assert response.json["error"] == "an alert in state acknowledged cannot become acknowledged"


def test_acknowledge_alert_not_found(act):
    response = act("812", "acknowledge")
    assert response.status_code == 404
    assert response.json["error"] == "alert 812 does not exist"


def test_acknowledge_alert_needs_no_body(client, headers, raise_alert):
    alert_id = raise_alert()["alert_id"]
    response = client.post(f"{ALERTS}/{alert_id}/acknowledge", headers=headers("operator"))
    assert response.status_code == 200


def test_acknowledge_alert_takes_its_duplicates_along(raise_alert, act, read):
    original, duplicate = raise_alert()["alert_id"], raise_alert()["alert_id"]
    act(original, "acknowledge")
    assert read(f"{ALERTS}/{duplicate}")["state"] == "acknowledged"


def test_acknowledge_alert_on_a_duplicate_is_a_step_of_its_original(raise_alert, act, read):
    original, duplicate = raise_alert()["alert_id"], raise_alert()["alert_id"]
    response = act(duplicate, "acknowledge")
    assert (response.json["alert_id"], response.json["state"]) == (duplicate, "acknowledged")
    assert read(f"{ALERTS}/{original}")["state"] == "acknowledged"


# ---- investigating


def test_investigate_alert_success(raise_alert, act):
    alert_id = raise_alert()["alert_id"]
    act(alert_id, "acknowledge")
    response = act(alert_id, "investigate")
    assert response.status_code == 200
    assert response.json["state"] == "investigating"
    assert response.json["assigned_to_user_id"] is None


def test_investigate_alert_with_assignment(raise_alert, act, read, colleague):
    # An identifier may be sent as a string or as a number.
    for sent in (colleague, int(colleague)):
        alert_id = raise_alert(device_id=make_device())["alert_id"]
        act(alert_id, "acknowledge")
        response = act(alert_id, "investigate", assign_to_user_id=sent, notes="yours")
        assert response.status_code == 200
        assert response.json["assigned_to_user_id"] == colleague
        assert read(f"{ALERTS}/{alert_id}/history")["data"][-1]["assigned_to_user_id"] == colleague


def test_investigate_alert_invalid_state(raise_alert, act):
    response = act(raise_alert()["alert_id"], "investigate")
    assert response.status_code == 409
    assert (response.json["current_state"], response.json["allowed"]) == ("new", ["acknowledged"])


def test_investigate_alert_refuses_an_assignee_who_does_not_exist(raise_alert, act, read):
    alert_id = raise_alert()["alert_id"]
    act(alert_id, "acknowledge")
    response = act(alert_id, "investigate", assign_to_user_id="999")
    assert response.status_code == 400
    assert fields_of(response.json) == ["assign_to_user_id"]
    assert read(f"{ALERTS}/{alert_id}")["state"] == "acknowledged"


# ---- resolving


def test_resolve_alert_success(raise_alert, act, clock):
    alert_id = raise_alert()["alert_id"]
    act(alert_id, "acknowledge")
    act(alert_id, "investigate")
    clock.advance(timedelta(minutes=12, seconds=15))
    response = act(alert_id, "resolve", notes="pump replaced", resolution="fixed")
    assert response.status_code == 200
    assert (response.json["state"], response.json["resolution"]) == ("resolved", "fixed")
    assert response.json["resolved_at"] == "2026-03-02T08:12:15+00:00"
    assert response.json["sla"]["actual_ttr"] == 12.25


def test_resolve_alert_closes_group(raise_alert, act, read):
    first, second = raise_alert(), raise_alert(message="Pressure lost")
    act(first["alert_id"], "resolve", advance=True)
    group = read(f"{GROUPS}/{first['group_id']}")
    assert (group["status"], group["open_alerts"], group["closed_at"]) == ("active", 1, None)
    response = act(second["alert_id"], "resolve", advance=True)
    assert response.json["group"]["status"] == "closed"
    group = read(f"{GROUPS}/{first['group_id']}")
    assert (group["status"], group["open_alerts"]) == ("closed", 0)
    assert group["closed_at"] == "2026-03-02T08:00:00+00:00"
    assert raise_alert()["group_id"] != first["group_id"]


def test_resolve_alert_invalid_state(raise_alert, act):
    alert_id = raise_alert()["alert_id"]
    response = act(alert_id, "resolve")
    assert response.status_code == 409
    assert (response.json["current_state"], response.json["allowed"]) == ("new", ["acknowledged"])
    act(alert_id, "acknowledge")
    response = act(alert_id, "resolve")
    assert response.status_code == 409
    assert (response.json["current_state"], response.json["allowed"]) == ("acknowledged", ["investigating"])
    act(alert_id, "investigate")
    assert act(alert_id, "resolve").status_code == 200
    response = act(alert_id, "resolve")
    assert response.status_code == 409
    assert (response.json["current_state"], response.json["allowed"]) == ("resolved", [])


def test_resolve_alert_with_advance_walks_the_missing_steps(raise_alert, act, read):
    alert_id = raise_alert()["alert_id"]
    response = act(alert_id, "resolve", advance=True, notes="all well", resolution="no_action")
    assert response.status_code == 200
    history = read(f"{ALERTS}/{alert_id}/history")["data"]
    assert [(e["previous_state"], e["state"], e["implied"], e["notes"]) for e in history] == [
        (None, "new", False, None),
        ("new", "acknowledged", True, None),
        ("acknowledged", "investigating", True, None),
        ("investigating", "resolved", False, "all well"),
    ]
    sla = response.json["sla"]
    # Nobody acknowledged in person, yet the clock has stopped.
    assert (sla["acknowledged_at"], sla["actual_tta"]) == (None, 0.0)


def test_resolve_alert_with_advance_is_final_too(raise_alert, act):
    alert_id = raise_alert()["alert_id"]
    act(alert_id, "resolve", advance=True)
    response = act(alert_id, "resolve", advance=True)
    assert response.status_code == 409
    assert (response.json["current_state"], response.json["allowed"]) == ("resolved", [])


def test_resolve_alert_takes_every_resolution(raise_alert, act):
    for resolution in ("fixed", "no_action", "false_positive", "duplicate", None):
        response = act(raise_alert()["alert_id"], "resolve", advance=True, resolution=resolution)
        assert response.json["resolution"] == resolution


def test_resolved_message_is_news_again(raise_alert, act):
    first = raise_alert()
    raise_alert(message="keeps the group open")
    act(first["alert_id"], "resolve", advance=True)
    again = raise_alert()
    assert again["group_id"] == first["group_id"]
    assert (again["is_duplicate"], again["state"]) == (False, "new")


# ---- history and notes


def test_history_tells_who_did_what_when(client, headers, raise_alert, read, clock):
    alert_id = raise_alert()["alert_id"]
    clock.advance(timedelta(minutes=1))
    path = f"{ALERTS}/{alert_id}"
    client.post(f"{path}/acknowledge", json={"notes": "mine"}, headers=headers("operator", subject="7"))
    clock.advance(timedelta(minutes=1))
    note = client.post(f"{path}/notes", json={"notes": "spare pump"}, headers=headers("engineer", subject="8"))
    assert note.status_code == 201
    assert note.json == {
        "note_id": note.json["note_id"],
        "alert_id": alert_id,
        "notes": "spare pump",
        "written_by": "8",
        "created_at": "2026-03-02T08:02:00+00:00",
    }
    history = read(f"{path}/history")
    assert history["alert_id"] == alert_id
    assert [(e["kind"], e["by"], e["state"], e["notes"], e["created_at"]) for e in history["data"]] == [
        ("state", "tester", "new", None, "2026-03-02T08:00:00+00:00"),
        ("state", "7", "acknowledged", "mine", "2026-03-02T08:01:00+00:00"),
        ("note", "8", None, "spare pump", "2026-03-02T08:02:00+00:00"),
    ]


def test_actions_on_an_alert_that_does_not_exist(act, read):
    assert read(f"{ALERTS}/4711/history", expect=404)["error"] == "alert 4711 does not exist"
    for action in ("notes", "acknowledge", "investigate", "resolve"):
        response = act("4711", action, notes="x")
        assert (response.status_code, response.json["error"]) == (404, "alert 4711 does not exist")


def test_notes_have_1_to_4000_characters(act, raise_alert):
    alert_id = raise_alert()["alert_id"]
    for notes in ("", "x" * 4001):
        response = act(alert_id, "notes", notes=notes)
        assert (response.status_code, fields_of(response.json)) == (400, ["notes"])
    assert act(alert_id, "notes", notes="🏭" * 4000).status_code == 201


# ---- groups


@pytest.fixture
def plant(raise_alert, act, clock):
    """Return three groups, oldest first: a closed one, one of another device with a duplicate, an active one."""
    closed = raise_alert(metric="pressure")
    act(closed["alert_id"], "resolve", advance=True)
    clock.advance(timedelta(hours=1))
    other = raise_alert(device_id=make_device(), severity="low")
    raise_alert(device_id=other["device_id"], severity="low")
    clock.advance(timedelta(hours=1))
    active = raise_alert(metric="temperature")
    return {"closed": closed["group_id"], "other": other["group_id"], "active": active["group_id"]}


def test_list_groups_success(plant, read):
    page = read(GROUPS)
    assert ids_of(page, "group_id") == [plant["active"], plant["other"], plant["closed"]]
    assert (page["page"], page["limit"], page["total"], page["next_cursor"]) == (1, 50, 3, None)
    assert [g["occurrence_count"] for g in page["data"]] == [1, 2, 1]
    assert [g["noise_reduction_pct"] for g in page["data"]] == [0.0, 50.0, 0.0]


def test_list_groups_filter_status(plant, read):
    page = read(GROUPS, status="active")
    assert (ids_of(page, "group_id"), page["total"]) == ([plant["active"], plant["other"]], 2)
    page = read(GROUPS, status="closed")
    assert (ids_of(page, "group_id"), page["total"]) == ([plant["closed"]], 1)


def test_list_groups_filter_device(plant, read):
    page = read(GROUPS, device_id=DEVICE)
    assert (ids_of(page, "group_id"), page["total"]) == ([plant["active"], plant["closed"]], 2)
    page = read(GROUPS, device_id=DEVICE, status="closed")
    assert (ids_of(page, "group_id"), page["total"]) == ([plant["closed"]], 1)


def test_list_groups_date_range_includes_its_start_and_excludes_its_end(plant, read):
    page = read(GROUPS, start_date="2026-03-02T08:00:00Z", end_date="2026-03-02T09:00:00Z")
    assert (ids_of(page, "group_id"), page["total"]) == ([plant["closed"]], 1)
    page = read(GROUPS, start_date="2026-03-02T09:00:00Z")
    assert (ids_of(page, "group_id"), page["total"]) == ([plant["active"], plant["other"]], 2)


def test_list_groups_pagination(plant, read):
    pages = [read(GROUPS, page=number, limit=2) for number in (1, 2)]
    assert [ids_of(page, "group_id") for page in pages] == [[plant["active"], plant["other"]], [plant["closed"]]]


def test_get_group_success(plant, read):
    group = read(f"{GROUPS}/{plant['other']}")
    assert (group["severity"], group["occurrence_count"], group["open_alerts"]) == ("low", 2, 2)
    assert group == next(g for g in read(GROUPS)["data"] if g["group_id"] == plant["other"])


def test_get_group_not_found(read):
    assert read(f"{GROUPS}/4711", expect=404)["error"] == "group 4711 does not exist"


def test_group_stats_success(plant, read):
    assert read(f"{GROUPS}/stats") == {
        "total_groups": 3,
        "active_groups": 2,
        "closed_groups": 1,
        "total_alerts": 4,
        "avg_alerts_per_group": pytest.approx(4 / 3),
        "max_alerts_in_group": 2,
        "noise_reduction_pct": pytest.approx(25.0),
    }


def test_group_stats_empty(read):
    assert read(f"{GROUPS}/stats") == {
        "total_groups": 0,
        "active_groups": 0,
        "closed_groups": 0,
        "total_alerts": 0,
        "avg_alerts_per_group": 0,
        "max_alerts_in_group": 0,
        "noise_reduction_pct": 0,
    }


# ---- group actions


def test_group_acknowledge_moves_what_can_and_names_the_rest(raise_alert, act, read):
    first, duplicate, ahead = raise_alert(), raise_alert(), raise_alert(message="Pressure lost")
    act(ahead["alert_id"], "acknowledge")
    act(ahead["alert_id"], "investigate")
    response = act(first["group_id"], "acknowledge", kind="groups", notes="all mine")
    assert response.status_code == 200
    assert response.json["changed"] == [
        {"alert_id": alert["alert_id"], "previous_state": "new", "state": "acknowledged"}
        for alert in (first, duplicate)
    ]
    assert response.json["unchanged"] == [
        {
            "alert_id": ahead["alert_id"],
            "state": "investigating",
            "reason": "an alert in state investigating cannot become acknowledged",
        }
    ]
    assert response.json["group"]["open_alerts"] == 3
    assert read(f"{ALERTS}/{first['alert_id']}/history")["data"][-1]["notes"] == "all mine"
    assert read(f"{ALERTS}/{ahead['alert_id']}")["state"] == "investigating"


def test_group_investigate_assigns(raise_alert, act, read, colleague):
    alerts = [raise_alert(message=f"message {i}") for i in range(2)]
    act(alerts[0]["group_id"], "acknowledge", kind="groups")
    response = act(alerts[0]["group_id"], "investigate", kind="groups", assign_to_user_id=colleague)
    assert [c["state"] for c in response.json["changed"]] == ["investigating"] * 2
    assert read(f"{ALERTS}/{alerts[1]['alert_id']}")["assigned_to_user_id"] == colleague


def test_group_resolve_with_advance_closes_it(raise_alert, act):
    alerts = [raise_alert(message=f"message {i}") for i in range(3)]
    act(alerts[1]["alert_id"], "acknowledge")
    response = act(alerts[0]["group_id"], "resolve", kind="groups", advance=True, resolution="fixed")
    assert [(c["previous_state"], c["state"]) for c in response.json["changed"]] == [
        ("new", "resolved"),
        ("acknowledged", "resolved"),
        ("new", "resolved"),
    ]
    assert (response.json["group"]["status"], response.json["group"]["open_alerts"]) == ("closed", 0)


def test_group_action_leaves_resolved_alerts_alone(raise_alert, act, read):
    done, still_open = raise_alert(), raise_alert(message="Pressure lost")
    act(done["alert_id"], "resolve", advance=True)
    response = act(done["group_id"], "resolve", kind="groups", advance=True)
    assert [c["alert_id"] for c in response.json["changed"]] == [still_open["alert_id"]]
    assert response.json["unchanged"] == []
    assert len(read(f"{ALERTS}/{done['alert_id']}/history")["data"]) == 4


def test_group_action_that_nothing_can_take_changes_nothing(raise_alert, act):
    alert = raise_alert()
    response = act(alert["group_id"], "resolve", kind="groups")
    assert response.status_code == 200
    assert response.json["changed"] == []
    assert [(u["alert_id"], u["state"]) for u in response.json["unchanged"]] == [(alert["alert_id"], "new")]


def test_group_action_not_found(act):
    for action in ("acknowledge", "investigate", "resolve"):
        response = act("4711", action, kind="groups")
        assert (response.status_code, response.json["error"]) == (404, "group 4711 does not exist")


def test_group_investigate_refuses_an_assignee_who_does_not_exist(raise_alert, act):
    group_id = raise_alert()["group_id"]
    response = act(group_id, "investigate", kind="groups", assign_to_user_id=999)
    assert (response.status_code, fields_of(response.json)) == (400, ["assign_to_user_id"])


# ---- escalation policies


POLICIES = "/api/v1/escalation-policies"


@pytest.fixture
def create_policy(client, headers):
    """Create a policy and return the answer: ``create_policy(name="Line 3", expect=409)``."""

    def post(*tiers: dict[str, Any], expect: int = 201, **fields: Any) -> Any:
        response = client.post(POLICIES, json=make_policy(*tiers, **fields), headers=headers("admin"))
        assert response.status_code == expect, response.json
        return response.json

    return post


def test_list_escalation_policies_success(create_policy, read, clock):
    older = create_policy(name="Critical line", priority=10)
    clock.advance(timedelta(minutes=1))
    newer = create_policy(name="All the rest", severity_match=["high", "medium"], enabled=False)
    page = read(POLICIES)
    assert page["data"] == [newer, older]
    assert (page["page"], page["limit"], page["total"], page["next_cursor"]) == (1, 50, 2, None)


def test_list_escalation_policies_filter(create_policy, read):
    create_policy(name="on", severity_match=["critical", "high"])
    create_policy(name="off", severity_match=["high"], enabled=False)
    for query, names in (
        ({"enabled": "true"}, ["on"]),
        ({"enabled": "false"}, ["off"]),
        ({"severity_match": "high"}, ["off", "on"]),
        ({"severity_match": "critical"}, ["on"]),
        ({"severity_match": "high", "enabled": "true"}, ["on"]),
        ({"severity_match": "info"}, []),
    ):
        assert ids_of(read(POLICIES, **query), "name") == names, query


def test_list_escalation_policies_empty(read):
    assert (read(POLICIES)["data"], read(POLICIES)["total"]) == ([], 0)


def test_create_escalation_policy_success(create_policy, read):
    policy = create_policy(description="the press", priority=10, repeat=2)
    assert policy == {
        "policy_id": policy["policy_id"],
        "name": "Critical line",
        "description": "the press",
        "enabled": True,
        "priority": 10,
        "rules": {"severity_match": ["critical"], "repeat": 2, "tiers": [MAIL, SMS, HOOK]},
        "created_at": "2026-03-02T08:00:00+00:00",
        "updated_at": "2026-03-02T08:00:00+00:00",
    }
    assert read(f"{POLICIES}/{policy['policy_id']}") == policy


def test_create_escalation_policy_invalid_rules(create_policy, read):
    wrong = {"delay_minutes": 5, "channels": ["sms"], "recipients": ["shift@example.com", "user:4711"]}
    answer = create_policy(wrong, MAIL, expect=400)
    # Of the rules that can be checked without looking anybody up, every fault at once; of who is named, then.
    assert fields_of(answer) == ["rules.tiers[0].recipients[0]", "rules.tiers[1].delay_minutes"]
    nobody = {**wrong, "recipients": ["user:4711", "oncall:4712"]}
    answer = create_policy(nobody, expect=400)
    assert fields_of(answer) == ["rules.tiers[0].recipients[0]", "rules.tiers[0].recipients[1]"]
    assert read(POLICIES)["total"] == 0


def test_create_escalation_policy_missing_fields(client, headers):
    response = client.post(POLICIES, json={"rules": {"repeat": 1}}, headers=headers("admin"))
    assert response.status_code == 400
    assert sorted(fields_of(response.json)) == ["name", "rules.severity_match", "rules.tiers"]


def test_create_escalation_policy_duplicate_name(create_policy):
    create_policy()
    assert create_policy(expect=409)["code"] == "conflict"


def test_create_escalation_policy_unauthorized(client, headers):
    assert client.post(POLICIES, json=make_policy()).status_code == 401
    for role in ("viewer", "operator", "engineer"):
        response = client.post(POLICIES, json=make_policy(), headers=headers(role))
        assert (response.status_code, response.json["code"]) == (403, "permission_denied")


# ---- on call


ON_CALL = "/api/v1/on-call"
ROTATION: dict[str, Any] = {
    "name": "Line 3",
    "rotation_type": "daily",
    "rotation_start": "2026-03-01T06:00:00",
    "timezone": "UTC",
    "users": {
        "users": [
            {"user_id": "1", "name": "Engineer A", "email": "a@example.com", "phone": "+33612345678"},
            {"user_id": "2", "name": "Engineer B", "email": "b@example.com", "phone": None},
        ]
    },
}


@pytest.fixture
def create_schedule(client, headers):
    """Create a daily rotation of two and return the answer."""

    def post(**fields: Any) -> Any:
        response = client.post(f"{ON_CALL}/schedules", json={**ROTATION, **fields}, headers=headers("engineer"))
        assert response.status_code == 201, response.json
        return response.json

    return post


def test_on_call_current_success(create_schedule, read):
    schedule = create_schedule()
    current = read(f"{ON_CALL}/current", schedule_id=schedule["schedule_id"])
    engineer_a, engineer_b = ROTATION["users"]["users"]
    assert current == {
        "schedule_id": schedule["schedule_id"],
        "schedule_name": "Line 3",
        "user": engineer_b,
        "shift_start": "2026-03-02T06:00:00+00:00",
        "shift_end": "2026-03-03T06:00:00+00:00",
        "is_override": False,
        "override_reason": None,
        "next": {
            "user": engineer_a,
            "shift_start": "2026-03-03T06:00:00+00:00",
            "shift_end": "2026-03-04T06:00:00+00:00",
            "is_override": False,
            "override_reason": None,
        },
    }


def test_on_call_current_at_another_instant(create_schedule, read):
    create_schedule()
    for at, name in (
        ("2026-03-03T05:59:59Z", "Engineer B"),
        ("2026-03-03T06:00:00Z", "Engineer A"),
        ("2026-02-28T12:00:00Z", "Engineer B"),
    ):
        current = read(f"{ON_CALL}/current", at=at)
        assert current["user"]["name"] == current["schedules"][0]["user"]["name"] == name, at


def test_on_call_current_not_found(read):
    assert read(f"{ON_CALL}/current", expect=404, schedule_id=4711)["error"] == "schedule 4711 does not exist"


def test_on_call_schedules_success(create_schedule, read, clock):
    older = create_schedule()
    clock.advance(timedelta(minutes=1))
    newer = create_schedule(name="Line 4", rotation_type="weekly")
    page = read(f"{ON_CALL}/schedules")
    assert page["data"] == [newer, older]
    assert page["total"] == 2


def test_on_call_schedules_filter(create_schedule, read):
    create_schedule()
    create_schedule(name="Line 4", rotation_type="weekly", enabled=False)
    for query, names in (
        ({"enabled": "true"}, ["Line 3"]),
        ({"enabled": "false"}, ["Line 4"]),
        ({"rotation_type": "weekly"}, ["Line 4"]),
        ({"rotation_type": "weekly", "enabled": "true"}, []),
    ):
        assert ids_of(read(f"{ON_CALL}/schedules", **query), "name") == names, query
