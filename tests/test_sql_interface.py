"""The database as people, dashboards and other programs use it: plain SQL, without the service."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest

from tests.factories import DEVICE, make_device

Sql = Callable[..., list[tuple[Any, ...]]]

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Desk:
    """Somebody at an SQL prompt whose clock stands where it is told."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self.at(NOON)

    def at(self, now: datetime) -> None:
        self._sql("SELECT set_config('app.now', %s, false)", now.isoformat())

    def run(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._sql(statement, *parameters)

    def value(self, statement: str, *parameters: Any) -> Any:
        [[value]] = self._sql(statement, *parameters)
        return value

    def row(self, statement: str, *parameters: Any) -> dict[str, Any]:
        [[row]] = self._sql(f"SELECT to_jsonb(found) FROM ({statement}) AS found", *parameters)
        return dict(row)

    def insert(self, created_at: datetime = NOON, severity: str = "critical", **columns: Any) -> int:
        """Insert an alert in the words of the plan, and of ``columns``."""
        values = {
            "device_id": DEVICE,
            "severity": severity,
            "message": "Temperature threshold exceeded",
            "metadata": json.dumps({"temperature": 85.5}),
            "created_at": created_at,
            **columns,
        }
        marks = ", ".join(["%s"] * len(values))
        statement = f"INSERT INTO alerts ({', '.join(values)}) VALUES ({marks}) RETURNING id"
        return int(self.value(statement, *values.values()))

    def step(self, alert_id: int, state: str, **columns: Any) -> None:
        values = {"alert_id": alert_id, "state": state, **columns}
        marks = ", ".join(["%s"] * len(values))
        self._sql(f"INSERT INTO alert_states ({', '.join(values)}) VALUES ({marks})", *values.values())


@pytest.fixture
def desk(sql: Sql) -> Desk:
    """Somebody at an SQL prompt, at noon."""
    return Desk(sql)


def sqlstate_of(call: Callable[..., Any], *arguments: Any, **named: Any) -> str | None:
    with pytest.raises(psycopg2.Error) as caught:
        call(*arguments, **named)
    return caught.value.pgcode


# --- an alert by INSERT


def test_inserted_alert_gets_state_clocks_and_group(desk: Desk) -> None:
    created_at = NOON - 3 * MINUTE
    alert_id = desk.insert(created_at)

    alert = desk.row("SELECT * FROM alerts WHERE id = %s", alert_id)
    assert (alert["state"], alert["duplicate_of"], alert["metric"], alert["escalate"]) == ("new", None, "", True)
    [history] = desk.run(
        "SELECT previous_state, state, changed_by, actor_kind, implied, created_at"
        " FROM alert_states WHERE alert_id = %s",
        alert_id,
    )
    assert history == (None, "new", "system", "system", False, created_at)
    [clocks] = desk.run(
        "SELECT target_tta, target_ttr, started_at, tta_due_at, ttr_due_at, actual_tta, actual_ttr,"
        " tta_breached, ttr_breached, acknowledged_at, resolved_at FROM alert_slas WHERE alert_id = %s",
        alert_id,
    )
    due = (created_at, created_at + 5 * MINUTE, created_at + 30 * MINUTE)
    assert clocks == (5, 30, *due, None, None, False, False, None, None)
    [group] = desk.run(
        "SELECT id, device_id::text, metric, severity, status, occurrence_count, open_alerts FROM alert_groups"
    )
    assert group == (alert["group_id"], DEVICE, "", "critical", "active", 1, 1)


def test_many_rows_in_one_insert_are_placed_in_order(desk: Desk) -> None:
    rows = desk.run(
        "INSERT INTO alerts (device_id, severity, message) VALUES"
        " (%(d)s, 'low', 'a'), (%(d)s, 'low', 'b'), (%(d)s, 'low', 'a'), (%(d)s, 'high', 'a')"
        " RETURNING id, group_id, duplicate_of".replace("%(d)s", f"'{DEVICE}'")
    )
    (first, group, _), *others = rows
    assert [duplicate_of for *_, duplicate_of in rows] == [None, None, first, None]
    assert [group_id == group for _, group_id, _ in others] == [True, True, False]
    assert desk.run("SELECT occurrence_count, open_alerts FROM alert_groups ORDER BY id") == [(3, 3), (1, 1)]
    assert desk.value("SELECT count(*) FROM alert_states") == desk.value("SELECT count(*) FROM alert_slas") == 4


def test_inserted_duplicate_joins_its_original(desk: Desk) -> None:
    original, duplicate = desk.insert(), desk.insert()
    desk.step(original, "acknowledged")
    late = desk.insert()
    assert desk.run("SELECT id, duplicate_of, state FROM alerts ORDER BY id") == [
        (original, None, "acknowledged"),
        (duplicate, original, "acknowledged"),
        (late, original, "acknowledged"),
    ]
    assert desk.value("SELECT occurrence_count FROM alert_groups") == 3


def test_metric_is_taken_from_the_metadata(desk: Desk) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"metadata": '{"metric": "temperature"}'}, "temperature"),
        ({"metadata": '{"metric": "temperature"}', "metric": "pressure"}, "pressure"),
        ({"metadata": '{"metric": null}'}, ""),
        ({"metadata": "{}"}, ""),
    ]
    for columns, metric in cases:
        alert_id = desk.insert(device_id=make_device(), **columns)
        found = "SELECT a.metric, g.metric FROM alerts AS a JOIN alert_groups AS g ON g.id = a.group_id WHERE a.id = %s"
        assert desk.run(found, alert_id) == [(metric, metric)]


def test_metric_of_the_metadata_counts_where_it_is_a_text(desk: Desk) -> None:
    """As over REST: a number or an object under that name names no metric."""
    for metadata in ('{"metric": 5}', '{"metric": {"name": "x"}}', '{"metric": ["x"]}', '{"metric": true}'):
        alert_id = desk.insert(device_id=make_device(), metadata=metadata)
        assert desk.value("SELECT metric FROM alerts WHERE id = %s", alert_id) == "", metadata


def test_wrong_alerts_are_refused_and_leave_nothing(desk: Desk) -> None:
    for columns, sqlstate in (
        ({"severity": "catastrophic"}, "22P02"),
        ({"device_id": "press 3"}, "22P02"),
        ({"message": ""}, "23514"),
        ({"message": "x" * 2001}, "23514"),
        ({"metadata": "[]"}, "23514"),
        ({"metadata": "{"}, "22P02"),
        ({"metadata": None}, "23502"),
        ({"message": None}, "23502"),
        ({"device_id": None}, "23502"),
        ({"occurred_at": NOON + 5 * MINUTE + timedelta(microseconds=1)}, "AA002"),
    ):
        assert sqlstate_of(desk.insert, **columns) == sqlstate, columns
    for table in ("alerts", "alert_states", "alert_slas", "alert_groups", "tally_entries"):
        assert desk.value(f"SELECT count(*) FROM {table}") == 0
    assert desk.insert(message="x" * 2000, occurred_at=NOON + 5 * MINUTE)


def test_steps_by_insert_stop_the_clocks(desk: Desk) -> None:
    alert_id = desk.insert()
    for minutes, state in ((2, "acknowledged"), (3, "investigating"), (31, "resolved")):
        desk.at(NOON + minutes * MINUTE)
        desk.step(alert_id, state, changed_by="ana", notes=f"{state} by hand")
    [clocks] = desk.run(
        "SELECT actual_tta, actual_ttr, acknowledged_at, resolved_at, tta_breached, ttr_breached, next_due_at"
        " FROM alert_slas WHERE alert_id = %s",
        alert_id,
    )
    assert clocks == (2.0, 31.0, NOON + 2 * MINUTE, NOON + 31 * MINUTE, False, True, None)
    [group] = desk.run("SELECT status, open_alerts, closed_at FROM alert_groups")
    assert group == ("closed", 0, NOON + 31 * MINUTE)


# --- functions


def test_get_current_alert_state(desk: Desk) -> None:
    alert_id = desk.insert()
    other = desk.insert(device_id=make_device())
    state = desk.row("SELECT * FROM get_current_alert_state(%s)", alert_id)
    assert (state["alert_id"], state["state"], state["previous_state"]) == (alert_id, "new", None)
    desk.at(NOON + MINUTE)
    desk.step(alert_id, "acknowledged", changed_by="ana", notes="mine")
    [row] = desk.run("SELECT * FROM get_current_alert_state(%s)", alert_id)
    # The first columns are those that programs read by number: id, alert_id, state.
    newest = desk.value("SELECT max(id) FROM alert_states WHERE alert_id = %s", alert_id)
    assert row[:3] == (newest, alert_id, "acknowledged")
    assert row[3:] == ("new", "ana", "mine", NOON + MINUTE)
    assert desk.run("SELECT * FROM get_current_alert_state(%s)", other)[0][2] == "new"
    assert desk.run("SELECT * FROM get_current_alert_state(4711)") == []


def test_is_alert_acknowledged(desk: Desk) -> None:
    acknowledged, recovered = desk.insert(), desk.insert(device_id=make_device())

    def ask(alert_id: int) -> bool | None:
        answer: bool | None = desk.value("SELECT is_alert_acknowledged(%s)", alert_id)
        return answer

    assert (ask(acknowledged), ask(recovered)) == (False, False)
    for state in ("acknowledged", "investigating", "resolved"):
        desk.step(acknowledged, state)
        assert ask(acknowledged) is True
    desk.step(recovered, "resolved", actor_kind="system")
    assert ask(recovered) is True
    assert ask(4711) is None


def test_calculate_tta_and_ttr(desk: Desk) -> None:
    alert_id = desk.insert()

    def ask() -> tuple[float, float]:
        [row] = desk.run("SELECT calculate_tta(%s), calculate_ttr(%s)", alert_id, alert_id)
        return (row[0], row[1])

    assert ask() == (0.0, 0.0)
    desk.at(NOON + 90 * timedelta(seconds=1))
    assert ask() == (1.5, 1.5)
    desk.step(alert_id, "acknowledged")
    desk.at(NOON + 4 * MINUTE)
    assert ask() == (1.5, 4.0)
    desk.step(alert_id, "investigating")
    desk.step(alert_id, "resolved")
    desk.at(NOON + 9 * MINUTE)
    assert ask() == (1.5, 4.0)
    assert desk.run("SELECT calculate_tta(4711), calculate_ttr(4711)") == [(None, None)]


def find_group(desk: Desk, device: str, **named: Any) -> int:
    arguments = {"p_device_id": device, "p_metric": "temperature", "p_key_class": "low", "p_severity": "low", **named}
    marks = ", ".join(f"{name} => %s" for name in arguments)
    return int(desk.value(f"SELECT find_or_create_alert_group({marks})", *arguments.values()))


def test_find_or_create_alert_group(desk: Desk) -> None:
    device = make_device()
    made = find_group(desk, device)
    [group] = desk.run("SELECT id, status, occurrence_count, open_alerts FROM alert_groups")
    assert group == (made, "active", 0, 0)
    assert find_group(desk, device) == made
    others = [
        find_group(desk, make_device()),
        find_group(desk, device, p_metric="pressure"),
        find_group(desk, device, p_key_class="ml"),
    ]
    assert len({made, *others}) == 4

    desk.insert(NOON, "low", device_id=device, metric="temperature")
    assert desk.value("SELECT group_id FROM alerts") == made
    # Asking changes nothing of what the group knows of its alerts.
    desk.at(NOON + 4 * MINUTE)
    assert find_group(desk, device) == made
    [group] = desk.run("SELECT occurrence_count, last_occurrence_at FROM alert_groups WHERE id = %s", made)
    assert group == (1, NOON)
    # Later than the window after its last alert: a new group, and the old one is closed.
    desk.at(NOON + 5 * MINUTE)
    assert find_group(desk, device) == made
    desk.at(NOON + 5 * MINUTE + timedelta(microseconds=1))
    assert find_group(desk, device, p_window_seconds=301) == made
    fresh = find_group(desk, device)
    assert fresh != made
    assert desk.value("SELECT status FROM alert_groups WHERE id = %s", made) == "closed"
    assert desk.value("SELECT total_groups FROM v_alert_group_stats") == 5


def test_close_alert_group(desk: Desk) -> None:
    alert_id = desk.insert()
    group_id = desk.value("SELECT group_id FROM alerts WHERE id = %s", alert_id)
    desk.at(NOON + MINUTE)
    assert desk.value("SELECT close_alert_group(%s)", group_id) is True
    [group] = desk.run("SELECT status, closed_at, open_alerts FROM alert_groups")
    assert group == ("closed", NOON + MINUTE, 1)
    assert desk.value("SELECT state FROM alerts") == "new"
    desk.at(NOON + 2 * MINUTE)
    assert desk.value("SELECT close_alert_group(%s)", group_id) is False
    assert desk.value("SELECT closed_at FROM alert_groups") == NOON + MINUTE
    assert desk.value("SELECT close_alert_group(4711)") is False
    # The next alert of the key begins anew, and the old one can still be resolved.
    follower = desk.insert(NOON + 2 * MINUTE)
    assert desk.run("SELECT group_id = %s, duplicate_of FROM alerts WHERE id = %s", group_id, follower) == [
        (False, None)
    ]
    desk.step(alert_id, "resolved", actor_kind="system")
    assert desk.run("SELECT status, open_alerts FROM alert_groups ORDER BY id") == [("closed", 0), ("active", 1)]


def test_get_group_statistics(desk: Desk) -> None:
    for minutes, message in ((0, "a"), (1, "a"), (2, "b"), (3, "a")):
        desk.at(NOON + minutes * MINUTE)
        last = desk.insert(message=message)
    group_id = desk.value("SELECT DISTINCT group_id FROM alerts")
    desk.step(last, "resolved", actor_kind="system")
    assert desk.row("SELECT * FROM get_group_statistics(%s)", group_id) == {
        "group_id": group_id,
        "group_key": f"{DEVICE}::critical",
        "status": "active",
        "occurrence_count": 4,
        "open_alerts": 1,
        "duplicate_count": 2,
        "duration_seconds": 180,
        "noise_reduction_pct": 75,
    }
    assert desk.run("SELECT * FROM get_group_statistics(4711)") == []


# --- views


def test_view_of_current_states(desk: Desk) -> None:
    alert_id = desk.insert()
    other = desk.insert(severity="low")
    desk.at(NOON + MINUTE)
    desk.step(alert_id, "acknowledged", changed_by="ana", notes="mine")
    seen = desk.run(
        "SELECT alert_id, severity, state, previous_state, changed_by, notes, state_changed_at"
        " FROM v_current_alert_states ORDER BY alert_id"
    )
    assert seen == [
        (alert_id, "critical", "acknowledged", "new", "ana", "mine", NOON + MINUTE),
        (other, "low", "new", None, "system", None, NOON),
    ]


def test_view_of_unacknowledged_alerts(desk: Desk) -> None:
    waiting = desk.insert()
    desk.insert()  # its duplicate
    taken = desk.insert(device_id=make_device())
    done = desk.insert(device_id=make_device())
    desk.step(taken, "acknowledged")
    desk.step(done, "resolved", actor_kind="system")
    look = "SELECT alert_id, age_minutes, tta_due_at, tta_breached FROM v_active_unacknowledged_alerts"
    for minutes, is_breached in ((5.0, False), (5.5, True)):
        desk.at(NOON + minutes * MINUTE)
        assert desk.run(look) == [(waiting, minutes, NOON + 5 * MINUTE, is_breached)]
    desk.step(waiting, "acknowledged")
    assert desk.run(look) == []


def test_view_of_compliance(desk: Desk) -> None:
    in_time, late = desk.insert(), desk.insert(device_id=make_device())
    desk.insert(device_id=make_device())
    desk.insert(severity="low")
    for minutes, alert_id in ((4, in_time), (6, late)):
        desk.at(NOON + minutes * MINUTE)
        desk.step(alert_id, "acknowledged")
    desk.at(NOON + 10 * MINUTE)
    desk.step(in_time, "investigating")
    desk.step(in_time, "resolved")
    rows = desk.run(
        "SELECT severity, tta_eligible, tta_met, tta_breached, tta_open_past_due,"
        " round(tta_compliance_pct::numeric, 3), mtta_mean, mtta_p50, ttr_eligible, ttr_met, ttr_breached,"
        " ttr_open_past_due, ttr_compliance_pct, mttr_mean"
        " FROM v_sla_compliance_summary ORDER BY severity DESC"
    )
    assert [row[0] for row in rows] == ["critical", "low"]
    assert (*rows[0][1:5], float(rows[0][5]), *rows[0][6:]) == (3, 1, 2, 1, 33.333, 5.0, 5.0, 1, 1, 0, 0, 100.0, 10.0)
    assert rows[1][1:] == (0, 0, 0, 0, None, None, None, 0, 0, 0, 0, None, None)


def test_views_of_groups(desk: Desk) -> None:
    for message in ("a", "a", "b"):
        desk.insert(message=message)
    gone = desk.insert(severity="low", device_id=make_device())
    assert desk.value("SELECT count(*) FROM v_active_alert_groups") == 2
    desk.step(gone, "resolved", actor_kind="system")
    [group] = desk.run(
        "SELECT group_id, group_key, device_id::text, metric, severity, status, occurrence_count, open_alerts,"
        " first_occurrence_at, last_occurrence_at, round(noise_reduction_pct::numeric, 2)::float"
        " FROM v_active_alert_groups"
    )
    group_id = desk.value("SELECT id FROM alert_groups WHERE status = 'active'")
    key = f"{DEVICE}::critical"
    assert group == (group_id, key, DEVICE, "", "critical", "active", 3, 3, NOON, NOON, 66.67)
    [stats] = desk.run(
        "SELECT total_groups, active_groups, closed_groups, total_alerts, avg_alerts_per_group, max_alerts_in_group,"
        " noise_reduction_pct FROM v_alert_group_stats"
    )
    assert stats == (2, 1, 1, 4, 2.0, 3, 50.0)


def test_group_statistics_of_an_empty_database(desk: Desk) -> None:
    assert desk.run("SELECT * FROM v_alert_group_stats") == [(0, 0, 0, 0, 0.0, 0, 0.0)]
    assert desk.run("SELECT * FROM v_sla_compliance_summary") == []
    assert desk.run("SELECT * FROM v_active_alert_groups") == []


def test_grouping_window_of_plain_sql_is_the_default(desk: Desk) -> None:
    first = desk.insert(occurred_at=NOON - 10 * MINUTE, message="a")
    joins = desk.insert(occurred_at=NOON - 5 * MINUTE, message="b")
    begins = desk.insert(occurred_at=NOON + timedelta(microseconds=1), message="c")
    groups = dict(desk.run("SELECT id, group_id FROM alerts"))
    assert groups[first] == groups[joins] != groups[begins]
    assert desk.run("SELECT status FROM alert_groups ORDER BY id") == [("closed",), ("active",)]


def test_one_active_group_per_key_even_by_hand(desk: Desk) -> None:
    desk.insert()
    closed = desk.value("SELECT id FROM alert_groups")
    desk.run("SELECT close_alert_group(%s)", closed)
    desk.insert(message="b")
    assert sqlstate_of(desk.run, "UPDATE alert_groups SET status = 'active' WHERE id = %s", closed) == "23505"
    copy = (
        "INSERT INTO alert_groups (device_id, metric, key_class, severity, first_occurrence_at, last_occurrence_at)"
        " SELECT device_id, metric, key_class, severity, now(), now() FROM alert_groups WHERE status = 'active'"
    )
    assert sqlstate_of(desk.run, copy) == "23505"
