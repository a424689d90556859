"""The two ways to raise one alert, the statement of the hot path and plain INSERT, leave the very same rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg2
from hypothesis import given, settings
from hypothesis import strategies as st

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
    """One alert; ``occurred_minutes_ago`` None leaves its time to the database."""

    device: int
    severity: str
    message: str
    metadata: dict[str, Any]
    metric: str
    occurred_minutes_ago: float | None
    escalate: bool
    key_class: str | None

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
)


def play(url: str, statement: str, reports: Sequence[Report], *, has_policy: bool) -> dict[str, Any]:
    """Raise alerts in a transaction that is rolled back, and return all rows that they left, renumbered from 1."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('app.now', %s, true), set_config('timezone', 'UTC', true)", [START.isoformat()]
        )
        for table in ("alerts", "alert_groups", "escalations", "alert_states"):
            cursor.execute(f"ALTER TABLE {table} ALTER id RESTART WITH 1")
        if has_policy:
            policy = make_policy(severity_match=["critical"])
            values = [policy["name"], json.dumps(policy["rules"])]
            cursor.execute(
                "INSERT INTO escalation_policies (id, name, rules) OVERRIDING SYSTEM VALUE VALUES (1, %s, %s)", values
            )
        for report in reports:
            cursor.execute(statement, report.parameters())
        found = {}
        for name, query in LEFT_BEHIND.items():
            cursor.execute(query)
            found[name] = [row for (row,) in cursor.fetchall()]
        connection.rollback()
    return renumber(found)


def renumber(found: dict[str, Any]) -> dict[str, Any]:
    """Return the rows with groups numbered in order: a group that was not made after all leaves a hole."""
    numbers = {group["id"]: number for number, group in enumerate(found["groups"], start=1)}
    for group in found["groups"]:
        group["id"] = numbers[group["id"]]
    for row in (*found["alerts"], *found["escalations"]):
        row["group_id"] = numbers[row["group_id"]]
    return found


@given(reports=st.lists(REPORTS, min_size=1, max_size=8), has_policy=st.booleans())
@settings(max_examples=60)
def test_both_ways_leave_the_same_rows(database_url: str, reports: list[Report], *, has_policy: bool) -> None:
    called = play(database_url, CALL, reports, has_policy=has_policy)
    inserted = play(database_url, INSERT, reports, has_policy=has_policy)
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


def test_policy_that_goes_away_meanwhile_takes_no_alert_with_it(sql: Any) -> None:
    policy = make_policy(severity_match=["critical"])
    sql("INSERT INTO escalation_policies (name, rules) VALUES (%s, %s)", policy["name"], json.dumps(policy["rules"]))
    # What the second look finds when somebody has switched the policy off since the first.
    sql(
        "CREATE OR REPLACE FUNCTION find_escalation_policy(p_severity alert_severity)"
        " RETURNS SETOF escalation_policies LANGUAGE sql STABLE AS 'SELECT * FROM escalation_policies WHERE false'"
    )
    report = Report(0, "critical", "hot", {}, "temperature", None, True, None)
    ((alert_id, *_, escalation_id),) = sql(CALL, **report.parameters())
    assert escalation_id is None
    assert sql("SELECT count(*) FROM alerts WHERE id = %s", alert_id) == [(1,)]
