"""The two ways to raise one alert, the statement of the hot path and plain INSERT, leave the very same rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.processes import await_condition
from tests.conftest import START
from tests.factories import make_policy

DEVICES = ("00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b")
CALL = """SELECT alert_id, state::text, group_id, duplicate_of, created_at, target_tta, target_ttr, escalation_id
          FROM raise_alert(%(device_id)s, %(severity)s, %(message)s, %(metadata)s, %(metric)s, 'gateway',
                           %(occurred_at)s, %(escalate)s, 'gateway 7', %(key_class)s)"""
INSERT = """INSERT INTO alerts (device_id, severity, message, metadata, metric, source, occurred_at, escalate,
                                reported_by, key_class)
            VALUES (%(device_id)s, %(severity)s, %(message)s, %(metadata)s, %(metric)s, 'gateway',
                    COALESCE(%(occurred_at)s, app_now()), %(escalate)s, 'gateway 7', %(key_class)s)"""
CLOSE_GROUPS = "SELECT close_alert_group(id) FROM alert_groups WHERE status = 'active' ORDER BY id"
INSERT_POLICY = "INSERT INTO escalation_policies (name, rules, enabled, priority) VALUES (%s, %s, %s, %s) RETURNING id"
MISNAMED = """SELECT t.severity, t.paging_policy_id FROM sla_targets AS t
              WHERE t.paging_policy_id IS DISTINCT FROM (SELECT p.id FROM find_escalation_policy(t.severity) AS p)"""
# Everything that raising writes; the sequences count alike on both sides, but for numbers that nobody got.
LEFT_BEHIND = {
    "alerts": "SELECT to_jsonb(a) FROM alerts AS a ORDER BY a.id",
    "states": "SELECT to_jsonb(s) - 'id' FROM alert_states AS s ORDER BY s.id",
    "clocks": "SELECT to_jsonb(s) FROM alert_slas AS s ORDER BY s.alert_id",
    "groups": "SELECT to_jsonb(g) FROM alert_groups AS g ORDER BY g.id",
    "escalations": "SELECT to_jsonb(e) FROM escalations AS e ORDER BY e.id",
    "tallies": "SELECT to_jsonb(t) FROM v_tallies AS t ORDER BY t.severity, t.state",
}


@dataclass(frozen=True)
class Report:
    """One alert; ``occurred_minutes_ago`` None leaves its time to the database.

    Before an alert with ``closes_groups`` all groups are closed: escalations of their keys run on without them.
    """

    device: int
    severity: str
    message: str
    metadata: dict[str, Any]
    metric: str
    occurred_minutes_ago: float | None
    escalate: bool
    key_class: str | None
    closes_groups: bool = False

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of both statements."""
        ago = self.occurred_minutes_ago
        return {
            "device_id": DEVICES[self.device],
            "severity": self.severity,
            "message": self.message,
            "metadata": json.dumps(self.metadata),
            "metric": self.metric,
            "occurred_at": None if ago is None else START - timedelta(minutes=ago),
            "escalate": self.escalate,
            "key_class": self.key_class,
        }


CRITICAL = Report(0, "critical", "hot", {}, "temperature", None, True, None)
REPORTS = st.builds(
    Report,
    device=st.integers(0, 1),
    severity=st.sampled_from(["critical", "high", "info"]),
    message=st.sampled_from(["hot", "hotter"]),
    metadata=st.sampled_from([{}, {"metric": "temperature"}, {"metric": 7}]),
    metric=st.sampled_from(["", "temperature"]),
    occurred_minutes_ago=st.sampled_from([None, 0, -4, 3, 9, 59, 61]),
    escalate=st.booleans(),
    key_class=st.sampled_from([None, None, "ml"]),
    closes_groups=st.sampled_from([False, False, True]),
)


def play(url: str, statement: str, reports: Sequence[Report], policy: str) -> dict[str, Any]:
    """Raise alerts in a transaction that is rolled back, and return all rows that they left, renumbered from 1."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('app.now', %s, true), set_config('timezone', 'UTC', true)", [START.isoformat()]
        )
        for table in ("alerts", "alert_groups", "escalations", "alert_states", "escalation_policies"):
            cursor.execute(f"ALTER TABLE {table} ALTER id RESTART WITH 1")
        if policy != "none":
            body = make_policy(severity_match=["critical"])
            values = [body["name"], json.dumps(body["rules"]), policy == "enabled", 0]
            cursor.execute(INSERT_POLICY, values)
        for report in reports:
            if report.closes_groups:
                cursor.execute(CLOSE_GROUPS)
            cursor.execute(statement, report.parameters())
        found = {}
        for name, query in LEFT_BEHIND.items():
            cursor.execute(query)
            found[name] = [row for (row,) in cursor.fetchall()]
        connection.rollback()
    return renumber(found)


def renumber(found: dict[str, Any]) -> dict[str, Any]:
    """Return the rows with groups and escalations numbered in order: what was not made after all leaves a hole."""
    numbers = {
        name: {row["id"]: number for number, row in enumerate(found[name], start=1)}
        for name in ("groups", "escalations")
    }
    for row in (*found["alerts"], *found["escalations"]):
        row["group_id"] = numbers["groups"][row["group_id"]]
    for group in found["groups"]:
        group["id"] = numbers["groups"][group["id"]]
        if group["escalation_id"] is not None:
            group["escalation_id"] = numbers["escalations"][group["escalation_id"]]
    for escalation in found["escalations"]:
        escalation["id"] = numbers["escalations"][escalation["id"]]
    return found


def make_rules(severity: str, delay_minutes: int = 0) -> str:
    """Return the rules of a policy with one tier, as JSON."""
    tier = {"delay_minutes": delay_minutes, "channels": ["email"], "recipients": ["line@example.com"]}
    return json.dumps(make_policy(tier, severity_match=[severity])["rules"])


def await_blocked(cursor: psycopg2.extensions.cursor) -> None:
    """Wait until another session waits for a lock that the session of this cursor holds."""

    def has_blocked() -> bool:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid)))"
        )
        return bool(cursor.fetchall()[0][0])

    assert await_condition(has_blocked, 10)


@given(reports=st.lists(REPORTS, min_size=1, max_size=8), policy=st.sampled_from(["none", "enabled", "disabled"]))
@settings(max_examples=120)
def test_both_ways_leave_the_same_rows(database_url: str, reports: list[Report], policy: str) -> None:
    called = play(database_url, CALL, reports, policy)
    inserted = play(database_url, INSERT, reports, policy)
    assert called == inserted
    assert len(called["alerts"]) == len(called["states"]) == len(called["clocks"]) == len(reports)


def test_first_alert_of_a_key_answers_what_stands(sql: Any) -> None:
    sql("SELECT set_config('app.now', %s, false)", START.isoformat())
    report = Report(0, "high", "hot", {"metric": "temperature"}, "", None, True, None)
    ((alert_id, *answer),) = sql(CALL, **report.parameters())
    ((group_id, metric),) = sql("SELECT group_id, metric FROM alerts WHERE id = %s", alert_id)
    assert answer == ["new", group_id, None, START, 15, 120, None]
    assert metric == "temperature"


def test_running_escalation_of_an_earlier_group_is_answered(sql: Any) -> None:
    policy = make_policy(severity_match=["critical"])
    sql("INSERT INTO escalation_policies (name, rules) VALUES (%s, %s)", policy["name"], json.dumps(policy["rules"]))
    report = Report(0, "critical", "hot", {}, "temperature", None, True, None)
    ((first_id, *_, first_escalation),) = sql(CALL, **report.parameters())
    sql("SELECT close_alert_group(group_id) FROM alerts WHERE id = %s", first_id)
    sql("UPDATE escalation_policies SET enabled = false")
    ((second_id, _, group_id, duplicate_of, *_, escalation_id),) = sql(CALL, **report.parameters())
    assert duplicate_of is None
    assert escalation_id == first_escalation is not None
    assert sql("SELECT count(DISTINCT group_id) FROM alerts WHERE id IN (%s, %s)", first_id, second_id) == [(2,)]
    assert sql("SELECT escalation_id FROM alert_groups WHERE id = %s", group_id) == [(None,)]


def test_marker_of_the_hot_path_does_not_outlive_it(sql: Any) -> None:
    report = Report(0, "critical", "hot", {}, "temperature", None, True, None)
    ((alert_id, *_),) = sql(CALL, **report.parameters())
    assert sql("SELECT current_setting('app.alerts_are_placed', true)") == [("",)]
    sql("INSERT INTO alert_states (alert_id, state) VALUES (%s, 'acknowledged')", alert_id)
    assert sql("SELECT state::text FROM alerts WHERE id = %s", alert_id) == [("acknowledged",)]


def test_first_alert_of_a_key_pages_by_the_policy(sql: Any) -> None:
    sql("SELECT set_config('app.now', %s, false)", START.isoformat())
    ((policy_id,),) = sql(INSERT_POLICY, "line", make_rules("critical", delay_minutes=5), True, 0)
    ((alert_id, _, group_id, *_, escalation_id),) = sql(CALL, **CRITICAL.parameters())
    (columns,) = sql(
        "SELECT alert_id, group_id, policy_id, policy_name, started_at, due_at, next_pass, next_tier, status::text"
        " FROM escalations WHERE id = %s",
        escalation_id,
    )
    due_at = START + timedelta(minutes=5)
    assert columns == (alert_id, group_id, policy_id, "line", START, due_at, 1, 1, "pending")
    assert sql("SELECT escalation_id FROM alert_groups WHERE id = %s", group_id) == [(escalation_id,)]


@pytest.mark.parametrize("fields", [{"escalate": False}, {"occurred_minutes_ago": 61}])
def test_first_alert_of_a_key_that_may_not_page(sql: Any, fields: dict[str, Any]) -> None:
    sql("SELECT set_config('app.now', %s, false)", START.isoformat())
    sql(INSERT_POLICY, "line", make_rules("critical"), True, 0)
    ((*_, escalation_id),) = sql(CALL, **replace(CRITICAL, **fields).parameters())
    assert escalation_id is None
    assert sql("SELECT (SELECT count(*) FROM escalations), escalation_id FROM alert_groups") == [(0, None)]


def test_new_group_joins_the_escalation_that_runs(sql: Any) -> None:
    sql(INSERT_POLICY, "line", make_rules("critical"), True, 0)
    ((*_, first_escalation),) = sql(CALL, **CRITICAL.parameters())
    sql(CLOSE_GROUPS)
    ((_, _, group_id, *_, escalation_id),) = sql(CALL, **CRITICAL.parameters())
    assert escalation_id == first_escalation is not None
    assert sql("SELECT escalation_id FROM alert_groups WHERE id = %s", group_id) == [(escalation_id,)]
    assert sql("SELECT count(*) FROM escalations") == [(1,)]


def test_escalation_that_somebody_starts_meanwhile_is_joined(sql: Any, database_url: str) -> None:
    ((old_alert, *_),) = sql(CALL, **CRITICAL.parameters())
    sql(CLOSE_GROUPS)
    sql(INSERT_POLICY, "line", make_rules("critical"), True, 0)
    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute(
            "SELECT start_escalation(a, p) FROM alerts AS a, escalation_policies AS p WHERE a.id = %s", [old_alert]
        )
        ((started_id,),) = cursor.fetchall()
        raising = pool.submit(sql, CALL, **CRITICAL.parameters())
        await_blocked(cursor)
        other.commit()
        ((_, _, group_id, *_, escalation_id),) = raising.result(timeout=10)
    assert escalation_id == started_id
    assert sql("SELECT escalation_id FROM alert_groups WHERE id = %s", group_id) == [(started_id,)]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE escalation_policies SET enabled = false",
        "UPDATE escalation_policies SET rules = jsonb_set(rules, '{severity_match}', '[\"low\"]')",
        "DELETE FROM escalation_policies",
    ],
)
@pytest.mark.parametrize("has_other", [False, True])
def test_policy_that_goes_away_meanwhile_takes_no_alert_with_it(sql: Any, change: str, *, has_other: bool) -> None:
    sql(INSERT_POLICY, "line", make_rules("critical"), True, 0)
    # What is found when somebody has changed the policy since the targets were read.
    sql("SET session_replication_role = replica")
    sql(change)
    if has_other:
        sql(INSERT_POLICY, "other line", make_rules("critical"), True, 0)
    sql("SET session_replication_role = origin")
    ((alert_id, _, group_id, *_, escalation_id),) = sql(CALL, **CRITICAL.parameters())
    assert (escalation_id is not None) is has_other
    assert sql("SELECT count(*) FROM alerts WHERE id = %s", alert_id) == [(1,)]
    assert sql("SELECT escalation_id FROM alert_groups WHERE id = %s", group_id) == [(escalation_id,)]
    assert sql("SELECT policy_name FROM escalations") == ([("other line",)] if has_other else [])


def test_escalation_that_runs_does_not_speak_for_an_alert_whose_policy_went_away(sql: Any) -> None:
    sql(INSERT_POLICY, "line", make_rules("critical"), True, 0)
    ((*_, first_escalation),) = sql(CALL, **CRITICAL.parameters())
    sql(CLOSE_GROUPS)
    sql("SET session_replication_role = replica")
    sql("UPDATE escalation_policies SET enabled = false")
    sql("SET session_replication_role = origin")
    ((_, _, group_id, *_, escalation_id),) = sql(CALL, **CRITICAL.parameters())
    assert escalation_id == first_escalation
    assert sql("SELECT escalation_id FROM alert_groups WHERE id = %s", group_id) == [(None,)]


POLICY_WRITES = st.lists(
    st.one_of(
        st.tuples(
            st.just(
                "INSERT INTO escalation_policies (name, rules, enabled, priority)"
                " VALUES (gen_random_uuid(), %s, %s, %s)"
            ),
            st.sampled_from(["critical", "high"]),
            st.booleans(),
            st.integers(0, 2),
        ),
        st.tuples(
            st.just("UPDATE escalation_policies SET rules = %s, enabled = %s, priority = %s WHERE mod(id, 2) = 0"),
            st.sampled_from(["critical", "high"]),
            st.booleans(),
            st.integers(0, 2),
        ),
        st.tuples(
            st.sampled_from(
                [
                    "DELETE FROM escalation_policies WHERE id = (SELECT min(id) FROM escalation_policies)",
                    "TRUNCATE escalation_policies",
                    "UPDATE sla_targets SET target_ttr = target_ttr + 1, paging_policy_id = 7",
                    "DELETE FROM sla_targets WHERE severity = 'high'",
                    "INSERT INTO sla_targets (severity, target_tta, target_ttr) VALUES ('high', 1, 2)"
                    " ON CONFLICT DO NOTHING",
                ]
            )
        ),
    ),
    max_size=8,
)


@given(writes=POLICY_WRITES)
@settings(max_examples=60)
def test_targets_name_the_policy_that_pages(database_url: str, writes: list[tuple[Any, ...]]) -> None:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        for statement, *values in writes:
            parameters = [make_rules(values[0]), *values[1:]] if values else None
            cursor.execute(statement, parameters)
            cursor.execute(MISNAMED)
            assert cursor.fetchall() == []
        connection.rollback()


def test_target_that_is_written_anew_names_the_policy(sql: Any) -> None:
    ((policy_id,),) = sql(INSERT_POLICY, "line", make_rules("high"), True, 0)
    sql("DELETE FROM sla_targets WHERE severity = 'high'")
    sql("INSERT INTO sla_targets (severity, target_tta, target_ttr) VALUES ('high', 1, 2)")
    assert sql("SELECT paging_policy_id FROM sla_targets WHERE severity = 'high'") == [(policy_id,)]


def test_writers_of_policies_do_not_wait_for_each_other_in_a_ring(sql: Any, database_url: str) -> None:
    sql(INSERT_POLICY, "line", make_rules("critical"), True, 0)
    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute(INSERT_POLICY, ["second line", make_rules("critical"), True, 0])
        writing = pool.submit(sql, "UPDATE escalation_policies SET priority = 1 WHERE name = 'line'")
        await_blocked(cursor)
        cursor.execute("UPDATE escalation_policies SET priority = 2 WHERE name = 'line'")
        other.commit()
        writing.result(timeout=10)
    assert sql("SELECT priority FROM escalation_policies WHERE name = 'line'") == [(1,)]
    assert sql(MISNAMED) == []


def test_two_writers_of_policies_name_the_right_one(sql: Any, database_url: str) -> None:
    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute(INSERT_POLICY, ["weighty", make_rules("critical"), True, 9])
        ((weighty_id,),) = cursor.fetchall()
        writing = pool.submit(sql, INSERT_POLICY, "light", make_rules("critical"), True, 1)
        await_blocked(cursor)
        other.commit()
        writing.result(timeout=10)
    assert sql("SELECT paging_policy_id FROM sla_targets WHERE severity = 'critical'") == [(weighty_id,)]
    assert sql(MISNAMED) == []
