"""The plans of hot statements with enough rows to matter: the big tables are never read from end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from pytest_postgresql.executors.noop import NoopExecutor

from alert_store import AlertFilter
from foundation.database import Connection as ServiceConnection
from foundation.paging import Cursor, PageRequest
from foundation.queries import load_queries
from tests.conftest import START

Connection = psycopg2.extensions.connection

# The tests share a database that takes a while to fill: one process runs them all.

BIG_TABLES = ("alerts", "alert_groups", "alert_slas", "alert_states", "escalations", "notifications")
OTHER_DEVICE = "00000000-0000-4000-8000-00000000beef"

# 12,000 groups of 1,200 devices with 60,000 alerts over two days: each device's newest group is active, a tenth
# of the older alerts are still open, and a few clocks are past due. Written past the triggers, which would take long.
LOAD = """
    SET session_replication_role = replica;
    INSERT INTO alert_groups (id, device_id, occurrence_count, open_alerts, first_occurrence_at, last_occurrence_at,
                              created_at, closed_at, severity, status, metric, key_class) OVERRIDING SYSTEM VALUE
    SELECT g, ('00000000-0000-4000-8000-' || lpad((g % 1200)::text, 12, '0'))::uuid, 5, 5, at, at, at,
           CASE WHEN g <= 10800 THEN at END, severity, CASE WHEN g <= 10800 THEN 'closed' ELSE 'active' END
               ::alert_group_status, 'metric ' || g % 3, severity
    FROM (SELECT g, '2026-02-28T16:00:00Z'::timestamptz + g * interval '12 seconds' AS at,
                 (enum_range(NULL::alert_severity))[1 + g % 5] AS severity
          FROM generate_series(1, 12000) AS g) AS made;
    INSERT INTO alerts (id, device_id, group_id, duplicate_of, occurred_at, created_at, severity, state, message,
                        metric, key_class)
    SELECT g.id * 5 + k, g.device_id, g.id, CASE k WHEN 4 THEN g.id * 5 END, g.created_at, g.created_at, g.severity,
           CASE WHEN g.id <= 10800 AND g.id % 10 > 0 THEN 'resolved' ELSE 'new' END::alert_state,
           'message ' || k % 4, g.metric, g.key_class
    FROM alert_groups AS g CROSS JOIN generate_series(0, 4) AS k;
    INSERT INTO alert_states (alert_id, state, created_at) SELECT id, 'new', created_at FROM alerts;
    INSERT INTO alert_states (alert_id, previous_state, state, created_at)
    SELECT id, 'new', state, created_at FROM alerts WHERE state = 'resolved';
    INSERT INTO alert_slas (alert_id, severity, is_duplicate, started_at, target_tta, target_ttr, tta_due_at,
                            ttr_due_at, next_due_at)
    SELECT id, severity, duplicate_of IS NOT NULL, created_at, 60, 480, created_at + interval '1 hour',
           created_at + interval '8 hours',
           CASE WHEN state <> 'resolved' THEN created_at + CASE WHEN id % 50 = 0 THEN interval '1 hour'
                                                               ELSE interval '30 days' END END
    FROM alerts;
    INSERT INTO escalations (id, alert_id, group_id, policy_id, device_id, started_at, ended_at, due_at, next_pass,
                             next_tier, status, severity, metric, key_class, policy_name, rules)
    OVERRIDING SYSTEM VALUE
    SELECT id, id * 5, id, 1, device_id, created_at, CASE WHEN id <= 10800 THEN created_at END,
           CASE WHEN id > 10800 THEN '2026-03-02T08:00:00Z'::timestamptz + (id - 10830) * interval '1 minute' END,
           1, 1, CASE WHEN id <= 10800 THEN 'completed' ELSE 'pending' END::escalation_status, severity, metric,
           key_class, 'line', '{"tiers": []}'
    FROM alert_groups;
    UPDATE alert_groups SET escalation_id = id;
    INSERT INTO notifications (escalation_id, alert_id, pass, tier, channel, address, recipient, status, due_at)
    SELECT e.id, e.alert_id, 1, 1, channel, 'there', 'there',
           CASE WHEN e.id <= 11900 THEN 'sent' ELSE 'pending' END::notification_status,
           CASE WHEN e.id > 11900 THEN e.started_at END
    FROM escalations AS e CROSS JOIN unnest('{email,sms,webhook}'::text[]) AS channel;
    SELECT setval(pg_get_serial_sequence('escalations', 'id'), 12000);
    INSERT INTO tallies SELECT severity, state, count(*), 0, 0, 0, 0, 0 FROM alerts GROUP BY severity, state;
    SELECT setval(pg_get_serial_sequence('alerts', 'id'), 200000),
           setval(pg_get_serial_sequence('alert_groups', 'id'), 12000);
    SET session_replication_role = origin;
    VACUUM ANALYZE;
"""


@pytest.fixture(scope="module")
def loaded_url(alerting_server: NoopExecutor) -> Iterator[str]:
    """The address of a database with rows that the tests of this module share; each leaves it as it was."""
    name = f"{alerting_server.dbname}_plans"
    server = f"postgresql://{alerting_server.user}@/{{}}?host={alerting_server.host}"
    with closing(psycopg2.connect(server.format("postgres"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}" TEMPLATE "{alerting_server.template_dbname}" STRATEGY file_copy')
            with closing(psycopg2.connect(server.format(name))) as loading, loading.cursor() as loader:
                loading.autocommit = True
                for statement in LOAD.split(";\n"):
                    if statement.strip():
                        loader.execute(statement)
            yield server.format(name)
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def loaded(loaded_url: str) -> Iterator[Connection]:
    """A connection like the service's own to the database with rows; what is done over it is undone."""
    options = "-c timezone=UTC -c jit=off -c app.now=2026-03-02T08:00:00Z"
    with closing(psycopg2.connect(loaded_url, options=options, connection_factory=ServiceConnection)) as connection:
        yield connection
        connection.rollback()


def walk(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Return every node of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from walk(child)


def explain(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the nodes of the plan of a statement."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        ((document,),) = cursor.fetchall()
    return [node for entry in document for node in walk(entry["Plan"])]


def sequential_scans(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the big tables that the plan of a statement reads from end to end."""
    return [
        node["Relation Name"]
        for node in explain(connection, statement, parameters)
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG_TABLES
    ]


def count_scans(connection: Connection) -> dict[str, int]:
    """Return how often this transaction read each big table from end to end, in functions and triggers too."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE relname = ANY (%s) AND seq_scan > 0",
            (list(BIG_TABLES),),
        )
        return dict(cursor.fetchall())


PAGES = {
    "first page": PageRequest(),
    "page 40": PageRequest(40),
    "by cursor": PageRequest(1, 50, Cursor(START - timedelta(days=2), 3000)),
}
DAY = {"start_at": START - timedelta(days=1), "end_at": START}
ALERT_FILTERS = {
    "all": AlertFilter(),
    "severity and state": AlertFilter(severities=("critical",), states=("new",)),
    "state": AlertFilter(states=("new", "acknowledged")),
    "severity and dates": AlertFilter(severities=("low", "info"), **DAY),  # type: ignore[arg-type]
    "device": AlertFilter(device_id="00000000-0000-4000-8000-000000000007"),
    "device and dates": AlertFilter(device_id="00000000-0000-4000-8000-000000000007", **DAY),  # type: ignore[arg-type]
    "group": AlertFilter(group_id=17),
    "dates": AlertFilter(**DAY),  # type: ignore[arg-type]
    "text on a device": AlertFilter(device_id="00000000-0000-4000-8000-000000000007", text="message 3"),
}


class TestLists:
    def test_pages_of_alerts(self, loaded: Connection) -> None:
        queries = load_queries("alert_store")
        found = {}
        for name, wanted in ALERT_FILTERS.items():
            query = queries.list_alerts_by_class if wanted.is_merged_by_class else queries.list_alerts
            for place, page in PAGES.items():
                parameters = {**wanted.parameters(), **page.parameters()}
                found[name, place] = sequential_scans(loaded, query.sql, parameters)
        assert {case: scans for case, scans in found.items() if scans} == {}

    def test_plans_of_pages_that_are_kept_for_any_value(self, loaded: ServiceConnection) -> None:
        queries = load_queries("alert_store", prepared=("list_alerts", "list_alerts_by_class"))
        with loaded.cursor() as cursor:
            cursor.execute("SET plan_cache_mode = force_generic_plan")
        grouping = load_queries("alert_grouping", prepared=("list_groups", "list_device_groups"))
        groups = {"statuses": ["active", "closed"], "device_id": None, **DAY}
        lists = [
            (queries.list_alerts_by_class if wanted.is_merged_by_class else queries.list_alerts, wanted.parameters())
            for wanted in ALERT_FILTERS.values()
        ]
        lists += [
            (grouping.list_groups, groups),
            (grouping.list_device_groups, {**groups, "device_id": OTHER_DEVICE}),
        ]
        for query, wanted in lists:
            for page in PAGES.values():
                parameters = {**wanted, **page.parameters()}
                list(query(loaded, **parameters))
                *_, execution = loaded.prepared.values()
                assert sequential_scans(loaded, execution, parameters) == [], parameters
                nodes = explain(loaded, execution, parameters)
                # Where the page begins is looked up: rows before it are not read and thrown away.
                assert [node for node in nodes if "ROW(" in node.get("Filter", "")] == [], parameters

    def test_pages_of_groups(self, loaded: Connection) -> None:
        queries = load_queries("alert_grouping")
        found = {}
        for device_id in (None, "00000000-0000-4000-8000-000000000007"):
            query = queries.list_device_groups if device_id else queries.list_groups
            for statuses in (["active"], ["closed"], ["active", "closed"]):
                for dates in ({"start_at": None, "end_at": None}, DAY):
                    for place, page in PAGES.items():
                        parameters = {"device_id": device_id, "statuses": statuses, **dates, **page.parameters()}
                        case = (device_id, *statuses, dates["start_at"], place)
                        found[case] = sequential_scans(loaded, query.sql, parameters)
        assert {case: scans for case, scans in found.items() if scans} == {}

    @pytest.mark.parametrize("query", ["count_by_status", "get_statistics"])
    def test_group_totals_come_from_the_tallies(self, loaded: Connection, query: str) -> None:
        statement = getattr(load_queries("alert_grouping"), query).sql
        assert big_tables(loaded, statement, {"statuses": ["active"]}) == set()

    @pytest.mark.parametrize("query", ["count_by_class", "list_tallies"])
    def test_alert_totals_come_from_the_tallies(self, loaded: Connection, query: str) -> None:
        statement = getattr(load_queries("alert_store"), query).sql
        assert big_tables(loaded, statement, AlertFilter(severities=("low",)).parameters()) == set()

    def test_counts_of_a_device_and_of_a_group(self, loaded: Connection) -> None:
        statement = load_queries("alert_store").count_alerts.sql
        device = ALERT_FILTERS["device"].parameters()
        assert sequential_scans(loaded, statement, device) == []
        assert sequential_scans(loaded, statement, ALERT_FILTERS["group"].parameters()) == []
        groups = load_queries("alert_grouping").count_groups.sql
        parameters = {"statuses": ["active", "closed"], "start_at": None, "end_at": None}
        assert sequential_scans(loaded, groups, {**parameters, "device_id": device["device_id"]}) == []


def big_tables(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> set[str]:
    """Return the big tables that the plan of a statement touches in any way."""
    nodes = explain(connection, statement, parameters)
    return {str(node["Relation Name"]) for node in nodes if node.get("Relation Name") in BIG_TABLES}


SINGLE_THINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("alert_store", "get_alert", {"alert_id": 4711}),
    ("alert_store", "list_history", {"alert_id": 4711}),
    ("alert_store", "list_open_in_group", {"group_id": 17}),
    ("alert_store", "list_states", {"alert_ids": [1, 2, 3]}),
    ("alert_store", "add_note", {"alert_id": 4711, "notes": "n", "written_by": "w"}),
    ("alert_grouping", "get_group", {"group_id": 17}),
    ("alert_grouping", "lock_group", {"group_id": 17}),
    ("alert_state_machine", "get_state", {"alert_id": 4711}),
    ("alert_state_machine", "list_open_originals", {"group_id": 17}),
]


def test_single_things(loaded: Connection) -> None:
    found = {
        name: sequential_scans(loaded, getattr(load_queries(stem), name).sql, parameters)
        for stem, name, parameters in SINGLE_THINGS
    }
    assert {name: scans for name, scans in found.items() if scans} == {}


def raise_one(connection: Connection, device_id: str, message: str) -> int:
    """Raise an alert as the service does; return its id."""
    row = load_queries("alert_store").raise_alert(
        connection,
        device_id=device_id,
        severity="high",
        message=message,
        metadata="{}",
        metric="metric 1",
        source="",
        occurred_at=None,
        escalate=True,
        reported_by="device",
        key_class=None,
    )
    return int(row[0])


def raise_batch(connection: Connection, count: int) -> list[int]:
    """Raise a batch over several keys as the service does; return the ids."""
    reports = [
        {
            "device_id": f"00000000-0000-4000-8000-{n % 10:012d}",
            "severity": "high",
            "message": f"message {n % 3}",
            "metadata": {},
            "metric": "metric 1",
            "source": "",
            "escalate": True,
        }
        for n in range(count)
    ]
    rows = load_queries("alert_store").raise_alerts(connection, reports=json.dumps(reports), reported_by="device")
    return [int(row[0]) for row in rows]


# More often than PostgreSQL tries plans of its own for each call before it settles on a common one.
TIMES = 8


def test_raising_reads_no_table_from_end_to_end(loaded: Connection) -> None:
    for n in range(TIMES):
        raise_one(loaded, OTHER_DEVICE, f"message {n % 3}")
        raise_one(loaded, f"00000000-0000-4000-8000-{n:012d}", "message 1")
    assert count_scans(loaded) == {}


def test_raising_a_batch_reads_no_table_from_end_to_end(loaded: Connection) -> None:
    for _ in range(TIMES):
        raise_batch(loaded, 30)
    assert count_scans(loaded) == {}


def test_steps_read_no_table_from_end_to_end(loaded: Connection) -> None:
    queries = load_queries("alert_state_machine")
    for n in range(TIMES):
        alert_id = raise_one(loaded, OTHER_DEVICE, f"message {n}")
        raise_one(loaded, OTHER_DEVICE, f"message {n}")
        for state in ("acknowledged", "investigating", "resolved"):
            queries.insert_states(
                loaded,
                alert_ids=[alert_id],
                state=state,
                implied=False,
                changed_by="operator",
                actor_kind="user",
                notes=None,
                resolution=None,
                assigned_to_user_id=None,
            )
    assert count_scans(loaded) == {}


def test_the_sweep_reads_no_table_from_end_to_end(loaded: Connection) -> None:
    with loaded.cursor() as cursor:
        for _ in range(TIMES):
            cursor.execute("SELECT checked FROM flag_sla_breaches(50)")
            assert cursor.fetchall() == [(50,)]
    assert count_scans(loaded) == {}


def test_paging_reads_no_table_from_end_to_end(loaded: Connection) -> None:
    engine, outbox, log = (load_queries(stem) for stem in ("escalation_engine", "outbox", "escalation_log"))
    for n in range(TIMES):
        assert engine.is_step_due(loaded)
        assert len(list(engine.lock_due(loaded, limit=20))) == 20
        assert outbox.is_anything_due(loaded, channels=["email", "sms"])
        assert not outbox.is_anything_due(loaded, channels=["carrier pigeon"])
        assert not outbox.is_anything_due(loaded, channels=[])
        claimed = outbox.claim_notifications(
            loaded, channels=["email", "sms"], limits=[2, 3], lease_seconds=30, give_up_seconds=120
        )
        notification_ids = [row[0] for row in claimed]
        assert len(notification_ids) == 5
        outbox.fail_notification(
            loaded,
            notification_id=notification_ids[0],
            attempt=1,
            status="failed",
            error="refused",
            is_setting_fault=False,
        )
        outbox.retry_notification(
            loaded,
            notification_id=notification_ids[1],
            attempt=1,
            pause_seconds=3.0,
            error="busy",
            may_have_gone_out=False,
        )
        list(log.list_notifications(loaded, alert_id=4700 + 5 * n, **PageRequest().parameters()))
        list(log.list_history(loaded, alert_id=4700 + 5 * n))
    assert count_scans(loaded) == {}


def test_functions_that_the_plan_names_read_no_table_from_end_to_end(loaded: Connection) -> None:
    with loaded.cursor() as cursor:
        for statement in (
            "SELECT * FROM get_current_alert_state(4711)",
            "SELECT is_alert_acknowledged(4711), calculate_tta(4711), calculate_ttr(4711)",
            "SELECT * FROM get_group_statistics(17)",
            f"SELECT find_or_create_alert_group('{OTHER_DEVICE}', 'metric 1', 'high', 'high')",
            "SELECT close_alert_group(17)",
            "SELECT * FROM v_current_alert_states WHERE alert_id = 4711",
            "SELECT * FROM v_alert_group_stats",
        ):
            cursor.execute(statement)
    assert count_scans(loaded) == {}


def test_a_hot_group_is_updated_in_place(database_url: str) -> None:
    # Counting touches no indexed column and finds room on its page, so that no index grows with a hot group.
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        raise_one(connection, OTHER_DEVICE, "message")
        updated_before, in_place_before = read_updates(connection)
        for n in range(200):
            raise_one(connection, OTHER_DEVICE, f"message {n % 5}")
        updated, in_place = read_updates(connection)
    assert updated - updated_before == 200
    assert in_place - in_place_before >= 190


def read_updates(connection: Connection) -> tuple[int, int]:
    """Return how many updates of groups there were, and how many of them touched no index."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'alert_groups'")
        ((updated, in_place),) = cursor.fetchall()
    return int(updated), int(in_place)
