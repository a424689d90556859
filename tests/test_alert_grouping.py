"""Which group an alert joins, when a group ends, and what counts as a duplicate."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from alert_state_machine import Actor, Transition
from alert_store import AlertReport
from app_advanced import create_app
from foundation.clock import FrozenClock
from foundation.errors import ValidationFailed
from foundation.settings import Settings
from tests.conftest import START
from tests.factories import DEVICE, make_device, make_report
from wiring import Services, build_services

Sql = Callable[..., list[tuple[Any, ...]]]
Raise = Callable[..., dict[str, Any]]
Act = Callable[..., Any]
Headers = Callable[..., dict[str, str]]

WINDOW = timedelta(seconds=300)
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def read_group(client: FlaskClient, headers: Headers) -> Callable[[str], dict[str, Any]]:
    def read(group_id: str) -> dict[str, Any]:
        return get_json(client, f"/groups/{group_id}", headers("viewer"))

    return read


@pytest.fixture
def read_alert(client: FlaskClient, headers: Headers) -> Callable[[str], dict[str, Any]]:
    def read(alert_id: str) -> dict[str, Any]:
        return get_json(client, f"/alerts/{alert_id}", headers("viewer"))

    return read


def get_json(client: FlaskClient, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Return the body of a successful answer."""
    response = client.get(f"/api/v1{path}", headers=headers)
    assert response.status_code == 200, response.json
    body: dict[str, Any] = response.json  # type: ignore[assignment]  # every answer has JSON
    return body


def post_batch(client: FlaskClient, reports: list[dict[str, Any]], headers: dict[str, str]) -> list[dict[str, Any]]:
    """Report a batch and return the answers."""
    response = client.post("/api/v1/alerts/batch", json={"alerts": reports}, headers=headers)
    assert response.status_code == 201, response.json
    rows: list[dict[str, Any]] = response.json["data"]  # type: ignore[index]  # every answer has JSON
    return rows


def wrong_fields(response: TestResponse) -> list[str]:
    """Return the fields that an answer of 400 names."""
    assert response.status_code == 400
    return [fault["field"] for fault in response.json["details"]]  # type: ignore[index]  # every answer has JSON


def at(instant: datetime) -> str:
    """Return an instant as reports and answers carry it."""
    return instant.isoformat()


class TestKey:
    def test_same_device_metric_and_severity_share_a_group(self, raise_alert: Raise) -> None:
        first = raise_alert(metric="temperature", message="too hot")
        second = raise_alert(metric="temperature", message="still too hot")
        assert first["group_id"] == second["group_id"]

    @pytest.mark.parametrize(
        "difference",
        [{"device_id": make_device()}, {"metric": "pressure"}, {"severity": "high"}],
        ids=["device", "metric", "severity"],
    )
    def test_each_part_of_the_key_separates_groups(self, raise_alert: Raise, difference: dict[str, str]) -> None:
        first = raise_alert(metric="temperature")
        other = raise_alert(**{"metric": "temperature", **difference})
        assert first["group_id"] != other["group_id"]
        assert other["is_duplicate"] is False

    def test_group_key_names_device_metric_and_severity(self, raise_alert: Raise, read_group: Raise) -> None:
        group = read_group(raise_alert(metric="temperature", severity="low")["group_id"])
        assert group["group_key"] == f"{DEVICE}:temperature:low"
        assert (group["device_id"], group["metric"], group["severity"]) == (DEVICE, "temperature", "low")

    def test_device_ids_are_told_apart_by_value_not_by_spelling(self, raise_alert: Raise) -> None:
        assert raise_alert(device_id=DEVICE.upper())["group_id"] == raise_alert(device_id=DEVICE)["group_id"]

    @pytest.mark.parametrize(
        ("fields", "metric"),
        [
            ({"metadata": {"metric": "temperature"}}, "temperature"),
            ({"metric": "pressure", "metadata": {"metric": "temperature"}}, "pressure"),
            ({"metadata": {}}, ""),
            ({"metadata": {"metric": 5}}, ""),
            ({"metadata": {"metric": None}}, ""),
            ({"metadata": {"metric": {"name": "temperature"}}}, ""),
        ],
    )
    def test_metric_comes_from_the_report_or_else_from_its_metadata(
        self, raise_alert: Raise, read_group: Raise, fields: dict[str, Any], metric: str
    ) -> None:
        raised = raise_alert(**fields)
        assert raised["metric"] == metric
        assert read_group(raised["group_id"])["metric"] == metric

    def test_plain_sql_takes_the_metric_from_the_metadata_too(self, sql: Sql) -> None:
        statement = "INSERT INTO alerts (device_id, severity, message, metadata) VALUES (%s, 'low', 'm', %s)"
        sql(statement, DEVICE, '{"metric": "temperature"}')
        sql(statement, DEVICE, '{"metric": 5}')
        assert sql("SELECT metric FROM alerts ORDER BY id") == [("temperature",), ("",)]

    def test_a_colon_in_the_metric_confuses_no_keys(
        self, raise_alert: Raise, client: FlaskClient, headers: Headers
    ) -> None:
        reports = [make_report(metric=metric, severity="low") for metric in ("a", "a:low", "a:low:low", "")]
        batched = [row["group_id"] for row in post_batch(client, reports, headers("device"))]
        assert len(set(batched)) == 4
        assert [raise_alert(**report)["group_id"] for report in reports] == batched

    def test_alerts_of_a_class_group_whatever_their_severity(self, services: Services, sql: Sql) -> None:
        rows = [
            services.lifecycle.raise_alert(
                AlertReport(DEVICE, severity, f"confidence is {severity}", {}, metric="temperature", key_class="ml"),
                Actor("model", "system"),
            ).answers[0]
            for severity in ("low", "critical", "medium")
        ]
        assert len({row["group_id"] for row in rows}) == 1
        assert sql("SELECT group_key(g), severity::text, occurrence_count FROM alert_groups AS g") == [
            (f"{DEVICE}:temperature:ml", "critical", 3)
        ]

    def test_alerts_of_a_class_stay_apart_from_the_others(self, services: Services, raise_alert: Raise) -> None:
        by_rule = raise_alert(metric="temperature", severity="high")
        reports = [
            AlertReport(DEVICE, "high", "Temperature threshold exceeded", {}, metric="temperature", key_class=key_class)
            for key_class in ("ml", None)
        ]
        by_model, again_by_rule = services.lifecycle.raise_alerts(reports, Actor("model", "system")).answers
        assert by_model["group_id"] != by_rule["group_id"]
        assert by_model["duplicate_of"] is None
        assert again_by_rule["duplicate_of"] == by_rule["alert_id"]


class TestWindow:
    def test_exactly_on_the_window_joins(self, raise_alert: Raise) -> None:
        first = raise_alert(occurred_at=at(START - WINDOW))
        assert raise_alert(occurred_at=at(START))["group_id"] == first["group_id"]

    def test_a_microsecond_later_begins_a_new_group(self, raise_alert: Raise, read_group: Raise) -> None:
        first = raise_alert(occurred_at=at(START - WINDOW - MICROSECOND))
        second = raise_alert(occurred_at=at(START))
        assert second["group_id"] != first["group_id"]
        assert read_group(first["group_id"])["status"] == "closed"
        assert read_group(first["group_id"])["closed_at"] == at(START)
        assert read_group(second["group_id"])["status"] == "active"
        assert read_group(second["group_id"])["closed_at"] is None

    def test_the_window_counts_from_the_last_alert_not_the_first(self, raise_alert: Raise) -> None:
        times = [START - 3 * WINDOW, START - 2 * WINDOW, START - WINDOW, START]
        assert len({raise_alert(occurred_at=at(time))["group_id"] for time in times}) == 1

    def test_the_clock_stands_in_for_a_missing_time(self, raise_alert: Raise, clock: FrozenClock) -> None:
        first = raise_alert()
        clock.advance(WINDOW)
        second = raise_alert()
        clock.advance(WINDOW + MICROSECOND)
        third = raise_alert()
        assert second["group_id"] == first["group_id"]
        assert third["group_id"] != first["group_id"]

    def test_a_late_arrival_joins_and_moves_only_the_beginning(self, raise_alert: Raise, read_group: Raise) -> None:
        first = raise_alert(occurred_at=at(START))
        late = raise_alert(occurred_at=at(START - timedelta(days=30)))
        group = read_group(first["group_id"])
        assert late["group_id"] == first["group_id"]
        assert group["first_occurrence_at"] == at(START - timedelta(days=30))
        assert group["last_occurrence_at"] == at(START)

    def test_a_late_arrival_of_a_closed_group_joins_the_active_one(self, raise_alert: Raise) -> None:
        closed = raise_alert(occurred_at=at(START - 3 * WINDOW))
        active = raise_alert(occurred_at=at(START))
        late = raise_alert(occurred_at=at(START - 3 * WINDOW))
        assert late["group_id"] == active["group_id"] != closed["group_id"]

    def test_alerts_of_a_group_closed_by_the_window_stay_open(
        self, raise_alert: Raise, read_group: Raise, read_alert: Raise, act: Act
    ) -> None:
        old = raise_alert(occurred_at=at(START - 2 * WINDOW))
        raise_alert(occurred_at=at(START))
        assert read_alert(old["alert_id"])["state"] == "new"
        assert read_group(old["group_id"])["open_alerts"] == 1
        assert act(old["alert_id"], "resolve", advance=True).status_code == 200
        assert read_group(old["group_id"])["open_alerts"] == 0
        assert read_group(old["group_id"])["status"] == "closed"

    def test_the_setting_widens_the_window(self, settings: Settings, clock: FrozenClock) -> None:
        services = build_services(settings.model_copy(update={"group_window_seconds": 3600}), clock)
        times = [START - 2 * timedelta(hours=1) - MICROSECOND, START - timedelta(hours=1), START]
        reports = [AlertReport(DEVICE, "low", "m", {}, occurred_at=time) for time in times]
        try:
            one_by_one = [
                services.lifecycle.raise_alert(report, Actor("d")).answers[0]["group_id"] for report in reports
            ]
        finally:
            services.database.close()
        assert one_by_one[0] != one_by_one[1] == one_by_one[2]

    def test_the_setting_holds_for_batches_over_rest(
        self, settings: Settings, clock: FrozenClock, headers: Headers
    ) -> None:
        services = build_services(settings.model_copy(update={"group_window_seconds": 1}), clock)
        times = [START, START + timedelta(seconds=1), START + timedelta(seconds=2) + MICROSECOND]
        reports = [make_report(occurred_at=at(time)) for time in times]
        try:
            client = create_app(services=services).test_client()
            rows = post_batch(client, reports, headers("device"))
        finally:
            services.database.close()
        first, second, third = [row["group_id"] for row in rows]
        assert first == second != third

    def test_plain_sql_without_the_setting_has_the_default_window(self, sql: Sql) -> None:
        for occurred_at in (START - 2 * WINDOW - MICROSECOND, START - WINDOW, START):
            sql(
                "INSERT INTO alerts (device_id, severity, message, occurred_at) VALUES (%s, 'low', 'm', %s)",
                DEVICE,
                occurred_at,
            )
        first, second, third = [group for (group,) in sql("SELECT group_id FROM alerts ORDER BY id")]
        assert first != second == third


class TestFutureTimes:
    def test_five_minutes_ahead_are_taken(self, raise_alert: Raise, read_group: Raise) -> None:
        raised = raise_alert(occurred_at=at(START + timedelta(minutes=5)))
        assert read_group(raised["group_id"])["last_occurrence_at"] == at(START + timedelta(minutes=5))

    def test_rest_refuses_what_lies_further_ahead(self, client: FlaskClient, headers: Headers, sql: Sql) -> None:
        report = make_report(occurred_at=at(START + timedelta(minutes=5) + MICROSECOND))
        response = client.post("/api/v1/alerts", json=report, headers=headers("device"))
        assert wrong_fields(response) == ["occurred_at"]
        assert sql("SELECT count(*) FROM alerts") == [(0,)]

    def test_rest_refuses_a_batch_and_names_each_place(self, client: FlaskClient, headers: Headers, sql: Sql) -> None:
        ahead = make_report(occurred_at=at(START + timedelta(minutes=6)))
        body = {"alerts": [ahead, make_report(), ahead]}
        response = client.post("/api/v1/alerts/batch", json=body, headers=headers("device"))
        assert wrong_fields(response) == ["alerts[0].occurred_at", "alerts[2].occurred_at"]
        assert sql("SELECT count(*) FROM alerts") == [(0,)]
        assert sql("SELECT count(*) FROM alert_groups") == [(0,)]

    def test_plain_sql_is_refused_too(self, sql: Sql) -> None:
        with pytest.raises(psycopg2.Error) as caught:
            sql(
                "INSERT INTO alerts (device_id, severity, message, occurred_at)"
                " VALUES (%s, 'low', 'm', now() + interval '5 minutes 1 second')",
                DEVICE,
            )
        assert caught.value.pgcode == "AA002"
        assert sql("SELECT count(*) FROM alert_groups") == [(0,)]

    def test_every_report_of_a_batch_in_sql_is_checked(self, sql: Sql) -> None:
        # The second report lies within the window of the first: it must not slip through because it joins.
        with pytest.raises(psycopg2.Error) as caught:
            sql(
                "SELECT * FROM raise_alerts(ARRAY(SELECT ROW(%s, 'low', 'm', '{}', '', '', now() + ahead, true, 'low')"
                "::alert_report FROM unnest('{4 minutes,8 minutes}'::interval[]) AS ahead))",
                DEVICE,
            )
        assert caught.value.pgcode == "AA002"

    def test_the_domain_names_the_field(self, services: Services) -> None:
        report = AlertReport(DEVICE, "low", "m", {}, occurred_at=datetime.max.replace(tzinfo=UTC))
        with pytest.raises(ValidationFailed) as caught:
            services.lifecycle.raise_alert(report, Actor("device"))
        assert [fault.field for fault in caught.value.faults] == ["occurred_at"]


class TestFigures:
    def test_a_group_counts_its_alerts(self, raise_alert: Raise, read_group: Raise) -> None:
        ids = {raise_alert(message=f"message {n % 3}")["group_id"] for n in range(7)}
        group = read_group(ids.pop())
        assert not ids
        assert (group["occurrence_count"], group["open_alerts"]) == (7, 7)

    def test_first_and_last_times_are_those_of_the_alerts(self, raise_alert: Raise, read_group: Raise) -> None:
        offsets = [timedelta(0), timedelta(seconds=-200), timedelta(seconds=90), timedelta(seconds=10)]
        for offset in offsets:
            raised = raise_alert(occurred_at=at(START + offset))
        group = read_group(raised["group_id"])
        assert group["first_occurrence_at"] == at(START - timedelta(seconds=200))
        assert group["last_occurrence_at"] == at(START + timedelta(seconds=90))

    @pytest.mark.parametrize(("alerts", "reduction"), [(1, 0.0), (2, 50.0), (4, 75.0)])
    def test_noise_reduction_of_a_group(
        self, raise_alert: Raise, read_group: Raise, alerts: int, reduction: float
    ) -> None:
        raised = [raise_alert() for _ in range(alerts)]
        assert read_group(raised[0]["group_id"])["noise_reduction_pct"] == pytest.approx(reduction)

    def test_severity_only_rises(self, sql: Sql) -> None:
        seen = []
        for severity in ("info", "high", "low", "critical", "medium"):
            sql(
                "INSERT INTO alerts (device_id, severity, message, key_class) VALUES (%s, %s, 'm', 'ml')",
                DEVICE,
                severity,
            )
            seen.append(sql("SELECT severity::text FROM alert_groups"))
        assert seen == [[("info",)], [("high",)], [("high",)], [("critical",)], [("critical",)]]

    def test_severity_of_a_batch_is_its_highest(self, services: Services, sql: Sql) -> None:
        reports = [AlertReport(DEVICE, s, "m", {}, key_class="ml") for s in ("low", "critical", "medium")]
        services.lifecycle.raise_alerts(reports, Actor("model", "system"))
        assert sql("SELECT severity::text, occurrence_count FROM alert_groups") == [("critical", 3)]

    def test_severity_of_a_group_rises_with_a_batch(self, services: Services, sql: Sql) -> None:
        for severities in (["medium"], ["low", "high"], ["low"]):
            reports = [AlertReport(DEVICE, severity, "m", {}, key_class="ml") for severity in severities]
            services.lifecycle.raise_alerts(reports, Actor("model", "system"))
        assert sql("SELECT severity::text, occurrence_count FROM alert_groups") == [("high", 4)]

    def test_a_gap_within_a_batch_is_none_where_the_group_has_seen_later_alerts(
        self, services: Services, sql: Sql
    ) -> None:
        drawn = [("low", 0), ("low", -1000), ("critical", -200), ("low", -1200)]
        reports = [
            AlertReport(DEVICE, severity, "m", {}, key_class="ml", occurred_at=START + timedelta(seconds=seconds))
            for severity, seconds in drawn
        ]
        services.lifecycle.raise_alerts(reports[:1], Actor("model", "system"))
        services.lifecycle.raise_alerts(reports[1:], Actor("model", "system"))
        assert sql("SELECT severity::text, occurrence_count, open_alerts, first_occurrence_at FROM alert_groups") == [
            ("critical", 4, 4, START - timedelta(seconds=1200))
        ]
        assert sql("SELECT count(*) FROM alerts WHERE duplicate_of IS NULL") == [(1,)]

    def test_statistics_of_one_group_in_sql(self, raise_alert: Raise, act: Act, sql: Sql) -> None:
        first = raise_alert(occurred_at=at(START - timedelta(seconds=60)))
        raise_alert(occurred_at=at(START))
        other = raise_alert(message="other", occurred_at=at(START - timedelta(seconds=30)))
        act(other["alert_id"], "resolve", advance=True)
        assert sql("SELECT * FROM get_group_statistics(%s)", int(first["group_id"])) == [
            (int(first["group_id"]), f"{DEVICE}::critical", "active", 3, 2, 1, 60.0, pytest.approx(200 / 3))
        ]
        assert sql("SELECT * FROM get_group_statistics(%s)", 10**9) == []


class TestClosing:
    def test_the_last_resolution_closes_the_group(self, raise_alert: Raise, read_group: Raise, act: Act) -> None:
        first, second = raise_alert(), raise_alert(message="another message")
        assert act(first["alert_id"], "resolve", advance=True).json["group"]["status"] == "active"
        answer = act(second["alert_id"], "resolve", advance=True).json
        assert answer["group"]["status"] == "closed"
        assert answer["group"]["closed_at"] == at(START)
        assert read_group(first["group_id"])["open_alerts"] == 0
        assert read_group(first["group_id"])["occurrence_count"] == 2

    def test_resolving_an_original_closes_the_group_with_its_duplicates(self, raise_alert: Raise, act: Act) -> None:
        original, duplicate = raise_alert(), raise_alert()
        answer = act(original["alert_id"], "resolve", advance=True).json
        assert answer["group"]["status"] == "closed"
        assert act(duplicate["alert_id"], "resolve", advance=True).status_code == 409

    def test_after_the_last_resolution_the_next_alert_begins_a_new_group(self, raise_alert: Raise, act: Act) -> None:
        first = raise_alert()
        act(first["alert_id"], "resolve", advance=True)
        second = raise_alert()
        assert second["group_id"] != first["group_id"]
        assert second["is_duplicate"] is False

    def test_the_group_action_closes_it(self, raise_alert: Raise, act: Act) -> None:
        first, second = raise_alert(), raise_alert(message="another message")
        answer = act(first["group_id"], "resolve", kind="groups", advance=True).json
        assert answer["group"]["status"] == "closed"
        assert {row["alert_id"] for row in answer["changed"]} == {first["alert_id"], second["alert_id"]}

    def test_sql_closes_a_group_once_and_leaves_its_alerts_open(
        self, raise_alert: Raise, read_group: Raise, sql: Sql
    ) -> None:
        first = raise_alert()
        assert sql("SELECT close_alert_group(%s)", int(first["group_id"])) == [(True,)]
        assert sql("SELECT close_alert_group(%s)", int(first["group_id"])) == [(False,)]
        assert sql("SELECT close_alert_group(%s)", 10**9) == [(False,)]
        assert read_group(first["group_id"])["status"] == "closed"
        assert read_group(first["group_id"])["open_alerts"] == 1
        assert raise_alert()["group_id"] != first["group_id"]

    def test_a_second_active_group_of_a_key_is_refused_to_plain_sql(self, raise_alert: Raise, sql: Sql) -> None:
        raise_alert(metric="temperature")
        with pytest.raises(psycopg2.errors.UniqueViolation, match="alert_groups_one_active_per_key"):
            sql(
                "INSERT INTO alert_groups (device_id, metric, key_class, severity, first_occurrence_at,"
                " last_occurrence_at) VALUES (%s, 'temperature', 'critical', 'critical', now(), now())",
                DEVICE,
            )

    def test_groups_and_alerts_cannot_be_deleted_or_moved(self, raise_alert: Raise, sql: Sql) -> None:
        raise_alert()
        for statement in (
            "DELETE FROM alert_groups",
            "DELETE FROM alerts",
            "UPDATE alerts SET group_id = group_id + 1",
            "UPDATE alerts SET duplicate_of = id",
        ):
            with pytest.raises(psycopg2.Error) as caught:
                sql(statement)
            assert caught.value.pgcode == "AA004", statement


class TestFindOrCreate:
    FIND = "SELECT find_or_create_alert_group(%s, 'temperature', 'high', 'high', %s)"

    def test_it_finds_the_group_that_an_alert_would_join(self, raise_alert: Raise, sql: Sql) -> None:
        raised = raise_alert(metric="temperature", severity="high", occurred_at=at(START - WINDOW))
        assert sql(self.FIND, DEVICE, START) == [(int(raised["group_id"]),)]
        assert sql("SELECT occurrence_count, last_occurrence_at FROM alert_groups") == [(1, START - WINDOW)]

    def test_it_makes_a_group_that_the_alert_then_joins(self, raise_alert: Raise, sql: Sql) -> None:
        (made,) = sql(self.FIND, DEVICE, START)[0]
        assert sql(self.FIND, DEVICE, START) == [(made,)]
        assert raise_alert(metric="temperature", severity="high")["group_id"] == str(made)

    def test_past_the_window_it_closes_the_old_group(self, raise_alert: Raise, read_group: Raise, sql: Sql) -> None:
        raised = raise_alert(metric="temperature", severity="high", occurred_at=at(START - WINDOW))
        (made,) = sql(self.FIND, DEVICE, START + MICROSECOND)[0]
        assert str(made) != raised["group_id"]
        assert read_group(raised["group_id"])["status"] == "closed"

    @pytest.mark.parametrize("is_batch", [False, True])
    def test_statistics_count_a_group_made_ahead_once(
        self, client: FlaskClient, headers: Headers, sql: Sql, is_batch: bool
    ) -> None:
        sql(self.FIND, DEVICE, START)
        report = make_report(metric="temperature", severity="high")
        path, body = ("/alerts/batch", {"alerts": [report]}) if is_batch else ("/alerts", report)
        assert client.post(f"/api/v1{path}", json=body, headers=headers("device")).status_code == 201
        statistics = get_json(client, "/groups/stats", headers("viewer"))
        assert (statistics["total_groups"], statistics["active_groups"], statistics["total_alerts"]) == (1, 1, 1)


class TestDuplicates:
    def test_the_same_message_is_a_duplicate_of_the_earlier_open_alert(self, raise_alert: Raise) -> None:
        original, second, third = raise_alert(), raise_alert(), raise_alert()
        assert original["is_duplicate"] is False
        assert original["duplicate_of"] is None
        assert second["duplicate_of"] == third["duplicate_of"] == original["alert_id"]
        assert second["is_duplicate"] is third["is_duplicate"] is True

    @pytest.mark.parametrize("message", ["too Hot", "too hot ", "too hot!", "töo hot"])
    def test_another_message_is_none(self, raise_alert: Raise, message: str) -> None:
        raise_alert(message="too hot")
        assert raise_alert(message=message)["is_duplicate"] is False

    def test_long_messages_are_compared_to_their_end(self, raise_alert: Raise) -> None:
        first = raise_alert(message="x" * 1999 + "a")
        assert raise_alert(message="x" * 1999 + "b")["is_duplicate"] is False
        assert raise_alert(message="x" * 1999 + "a")["duplicate_of"] == first["alert_id"]

    def test_the_original_arrived_earlier_whenever_it_occurred(self, raise_alert: Raise) -> None:
        first = raise_alert(occurred_at=at(START))
        late = raise_alert(occurred_at=at(START - timedelta(hours=1)))
        assert late["duplicate_of"] == first["alert_id"]

    def test_after_the_resolution_of_the_original_a_new_one_begins(self, raise_alert: Raise, act: Act) -> None:
        original = raise_alert()
        raise_alert(message="keeps the group open")
        raise_alert()
        act(original["alert_id"], "resolve", advance=True)
        successor, duplicate = raise_alert(), raise_alert()
        assert successor["group_id"] == original["group_id"]
        assert successor["duplicate_of"] is None
        assert successor["state"] == "new"
        assert duplicate["duplicate_of"] == successor["alert_id"]

    def test_there_are_none_across_groups(self, raise_alert: Raise) -> None:
        old = raise_alert(occurred_at=at(START - 2 * WINDOW))
        raised = raise_alert(occurred_at=at(START))
        assert raised["group_id"] != old["group_id"]
        assert raised["is_duplicate"] is False

    @pytest.mark.parametrize(
        ("actions", "state"),
        [((), "new"), (("acknowledge",), "acknowledged"), (("acknowledge", "investigate"), "investigating")],
    )
    def test_a_duplicate_takes_over_the_state_on_arrival(
        self,
        raise_alert: Raise,
        read_alert: Raise,
        act: Act,
        client: FlaskClient,
        headers: Headers,
        actions: tuple[str, ...],
        state: str,
    ) -> None:
        original = raise_alert()
        for action in actions:
            assert act(original["alert_id"], action).status_code == 200
        single = raise_alert()
        batch = post_batch(client, [make_report()] * 2, headers("device"))
        for duplicate in (single, *batch):
            assert duplicate["duplicate_of"] == original["alert_id"]
            assert duplicate["state"] == state
            assert read_alert(duplicate["alert_id"])["state"] == state

    def test_the_clock_to_acknowledge_of_an_acknowledged_duplicate_stands_at_zero(
        self, raise_alert: Raise, read_alert: Raise, act: Act, clock: FrozenClock
    ) -> None:
        original = raise_alert()
        clock.advance(timedelta(minutes=2))
        act(original["alert_id"], "acknowledge")
        clock.advance(timedelta(minutes=1))
        sla = read_alert(raise_alert()["alert_id"])["sla"]
        assert sla["actual_tta"] == 0
        assert sla["actual_ttr"] is None
        assert sla["tta_breached"] is False

    @pytest.mark.parametrize("moved", ["original", "duplicate"])
    def test_original_and_duplicates_move_together(
        self, raise_alert: Raise, read_alert: Raise, act: Act, moved: str
    ) -> None:
        alerts = {"original": raise_alert(), "duplicate": raise_alert(), "other duplicate": raise_alert()}
        bystander = raise_alert(message="something else")
        for action, state in (
            ("acknowledge", "acknowledged"),
            ("investigate", "investigating"),
            ("resolve", "resolved"),
        ):
            assert act(alerts[moved]["alert_id"], action).status_code == 200
            assert {read_alert(alert["alert_id"])["state"] for alert in alerts.values()} == {state}
        assert read_alert(bystander["alert_id"])["state"] == "new"

    def test_resolved_duplicates_are_not_moved_with_a_later_original(
        self, raise_alert: Raise, read_alert: Raise, act: Act
    ) -> None:
        original, duplicate = raise_alert(), raise_alert()
        raise_alert(message="keeps the group open")
        act(original["alert_id"], "resolve", advance=True)
        successor = raise_alert()
        act(successor["alert_id"], "acknowledge")
        assert read_alert(original["alert_id"])["state"] == "resolved"
        assert read_alert(duplicate["alert_id"])["state"] == "resolved"

    def test_one_statement_of_plain_sql_finds_the_duplicates_among_its_rows(self, sql: Sql) -> None:
        sql(
            "INSERT INTO alerts (device_id, severity, message) SELECT %s, 'low', 'message ' || n %% 3"
            " FROM generate_series(0, 8) AS n",
            DEVICE,
        )
        rows = sql("SELECT id, duplicate_of FROM alerts ORDER BY id")
        originals = [identifier for identifier, _ in rows[:3]]
        assert [original for _, original in rows] == [None, None, None, *originals, *originals]
        assert sql("SELECT occurrence_count, open_alerts FROM alert_groups") == [(9, 9)]

    def test_plain_sql_cannot_choose_the_group_the_original_or_the_state(self, raise_alert: Raise, sql: Sql) -> None:
        raised = raise_alert()
        sql(
            "INSERT INTO alerts (device_id, severity, message, group_id, duplicate_of, state, occurred_at)"
            " VALUES (%s, 'low', 'm', %s, %s, 'resolved', %s)",
            DEVICE,
            int(raised["group_id"]),
            int(raised["alert_id"]),
            START,
        )
        rows = sql("SELECT group_id, duplicate_of, state::text FROM alerts WHERE severity = 'low'")
        assert rows[0][0] != int(raised["group_id"])
        assert rows[0][1:] == (None, "new")


class TestStatistics:
    @pytest.fixture
    def read_statistics(self, client: FlaskClient, headers: Headers) -> Callable[[], dict[str, Any]]:
        def read() -> dict[str, Any]:
            return get_json(client, "/groups/stats", headers("viewer"))

        return read

    def test_nothing_yet(self, read_statistics: Callable[[], dict[str, Any]]) -> None:
        assert read_statistics() == {
            "total_groups": 0,
            "active_groups": 0,
            "closed_groups": 0,
            "total_alerts": 0,
            "avg_alerts_per_group": 0,
            "max_alerts_in_group": 0,
            "noise_reduction_pct": 0,
        }

    @pytest.mark.parametrize("is_folded", [False, True])
    def test_figures_of_all_groups(
        self,
        raise_alert: Raise,
        act: Act,
        services: Services,
        read_statistics: Callable[[], dict[str, Any]],
        is_folded: bool,
    ) -> None:
        for _ in range(5):
            raise_alert(metric="temperature")
        closed = raise_alert(metric="pressure")
        act(closed["alert_id"], "resolve", advance=True)
        raise_alert(metric="vibration", occurred_at=at(START - 2 * WINDOW))
        raise_alert(metric="vibration", occurred_at=at(START))
        if is_folded:
            assert services.housekeeping.tallies.run_once().folded > 0
        assert read_statistics() == {
            "total_groups": 4,
            "active_groups": 2,
            "closed_groups": 2,
            "total_alerts": 8,
            "avg_alerts_per_group": 2.0,
            "max_alerts_in_group": 5,
            "noise_reduction_pct": 50.0,
        }

    def test_totals_follow_duplicates_of_another_severity(
        self, services: Services, client: FlaskClient, headers: Headers
    ) -> None:
        reports = [AlertReport(DEVICE, severity, "drifting", {}, key_class="ml") for severity in ("low", "high")]
        original, duplicate = services.lifecycle.raise_alerts(reports, Actor("model", "system")).answers
        assert duplicate["duplicate_of"] == original["alert_id"]
        services.lifecycle.transition(int(original["alert_id"]), Transition("acknowledged"), Actor("somebody"))
        totals = {
            (severity, state): get_json(client, f"/alerts?severity={severity}&state={state}", headers())["total"]
            for severity in ("low", "high")
            for state in ("new", "acknowledged")
        }
        assert totals == {
            ("low", "new"): 0,
            ("low", "acknowledged"): 1,
            ("high", "new"): 0,
            ("high", "acknowledged"): 1,
        }

    def test_a_refused_batch_leaves_no_trace(
        self,
        client: FlaskClient,
        headers: Headers,
        raise_alert: Raise,
        read_statistics: Callable[[], dict[str, Any]],
    ) -> None:
        raise_alert()
        before = read_statistics()
        body = {"alerts": [make_report(), make_report(message="")]}
        assert client.post("/api/v1/alerts/batch", json=body, headers=headers("device")).status_code == 400
        assert read_statistics() == before

    def test_batches_and_singles_count_alike(
        self, client: FlaskClient, headers: Headers, read_statistics: Callable[[], dict[str, Any]], raise_alert: Raise
    ) -> None:
        reports = [make_report(metric=f"metric {n % 4}") for n in range(10)]
        post_batch(client, reports, headers("device"))
        batched = read_statistics()
        for report in reports:
            raise_alert(**{**report, "device_id": "00000000-0000-4000-8000-000000000000"})
        both = read_statistics()
        assert batched["total_groups"] == 4
        assert batched["max_alerts_in_group"] == both["max_alerts_in_group"] == 3
        assert both["noise_reduction_pct"] == batched["noise_reduction_pct"] == pytest.approx(60.0)
        assert (both["total_groups"], both["total_alerts"]) == (8, 20)
