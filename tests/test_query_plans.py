"""The plans of hot statements with enough rows to matter: the big tables are never read from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import psycopg2
import pytest

from alert_store import AlertFilter
from foundation.paging import Cursor, PageRequest
from foundation.queries import load_queries
from tests.conftest import START
from tests.factories import DEVICE

Sql = Callable[..., list[tuple[Any, ...]]]
Connection = psycopg2.extensions.connection

BIG_TABLES = ("alerts", "alert_groups", "alert_slas", "alert_states")
OTHER_DEVICE = "00000000-0000-4000-8000-00000000beef"

# 6,000 alerts of 300 devices over three days, some resolved, some groups closed.
LOAD = """
    SELECT set_config('app.now', (timestamptz '2026-03-02T08:00:00Z')::text, false);
    INSERT INTO alerts (device_id, severity, message, metric, occurred_at, created_at)
    SELECT ('00000000-0000-4000-8000-' || lpad((n % 300)::text, 12, '0'))::uuid,
           (enum_range(NULL::alert_severity))[1 + n % 5], 'message ' || n % 7, 'metric ' || n % 3,
           app_now() - interval '3 days' + n * interval '40 seconds',
           app_now() - interval '3 days' + n * interval '40 seconds'
    FROM generate_series(1, 6000) AS n;
    INSERT INTO alert_states (alert_id, state, actor_kind)
    SELECT id, 'resolved', 'system' FROM alerts WHERE id % 3 = 0 AND duplicate_of IS NULL;
    ANALYZE;
"""


@pytest.fixture
def loaded(database_url: str) -> Iterator[Connection]:
    """A connection like the service's own to a database with rows."""
    with closing(psycopg2.connect(database_url, options="-c timezone=UTC -c jit=off")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(LOAD)
        yield connection


def walk(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Return every node of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from walk(child)


def sequential_scans(connection: Connection, statement: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the big tables that the plan of a statement reads from end to end."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        ((document,),) = cursor.fetchall()
    return [
        node["Relation Name"]
        for entry in document
        for node in walk(entry["Plan"])
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG_TABLES
    ]


@contextmanager
def counting_scans(connection: Connection) -> Iterator[dict[str, int]]:
    """Fill a dict with the sequential scans of the big tables in one transaction, functions and triggers included."""
    seen: dict[str, int] = {}
    connection.autocommit = False
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL app.now = '2026-03-02T08:00:00Z'")
        yield seen
        cursor.execute(
            "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE relname = ANY (%s) AND seq_scan > 0",
            (list(BIG_TABLES),),
        )
        seen.update(cursor.fetchall())
    connection.autocommit = True


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
    @pytest.fixture(scope="class")
    def scans_of(self) -> Callable[..., list[str]]:
        return sequential_scans

    def test_pages_of_alerts(self, loaded: Connection) -> None:
        queries = load_queries("alert_store")
        found = {}
        for name, wanted in ALERT_FILTERS.items():
            query = queries.list_alerts_by_class if wanted.is_merged_by_class else queries.list_alerts
            for place, page in PAGES.items():
                parameters = {**wanted.parameters(), **page.parameters()}
                found[name, place] = sequential_scans(loaded, query.sql, parameters)
        assert {case: scans for case, scans in found.items() if scans} == {}

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
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        ((document,),) = cursor.fetchall()
    return {node.get("Relation Name") for entry in document for node in walk(entry["Plan"])} & set(BIG_TABLES)


SINGLE_THINGS = [
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
    with counting_scans(loaded) as scans:
        for n in range(TIMES):
            raise_one(loaded, OTHER_DEVICE, f"message {n % 3}")
            raise_one(loaded, f"00000000-0000-4000-8000-{n:012d}", "message 1")
    assert scans == {}


def test_raising_a_batch_reads_no_table_from_end_to_end(loaded: Connection) -> None:
    with counting_scans(loaded) as scans:
        for _ in range(TIMES):
            raise_batch(loaded, 30)
    assert scans == {}


def test_steps_read_no_table_from_end_to_end(loaded: Connection) -> None:
    queries = load_queries("alert_state_machine")
    with counting_scans(loaded) as scans:
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
    assert scans == {}


def test_the_sweep_reads_no_table_from_end_to_end(loaded: Connection) -> None:
    with counting_scans(loaded) as scans, loaded.cursor() as cursor:
        for _ in range(TIMES):
            cursor.execute("SELECT checked FROM flag_sla_breaches(50)")
            assert cursor.fetchall() == [(50,)]
    assert scans == {}


def test_functions_that_the_plan_names_read_no_table_from_end_to_end(loaded: Connection) -> None:
    with counting_scans(loaded) as scans, loaded.cursor() as cursor:
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
    assert scans == {}


def test_a_plan_settled_while_the_tables_were_small_does_not_outlive_them(database_url: str) -> None:
    # A session keeps the plans of its functions; those of near-empty tables would read them from end to end.
    with (
        closing(psycopg2.connect(database_url)) as early,
        closing(psycopg2.connect(database_url)) as late,
        late.cursor() as cursor,
    ):
        early.autocommit = late.autocommit = True
        for n in range(3):
            raise_one(early, DEVICE, f"message {n}")
        cursor.execute("ANALYZE alerts, alert_groups, alert_slas, alert_states")
        queries = load_queries("alert_state_machine")
        for n in range(2 * TIMES):
            raise_one(early, DEVICE, f"message {n % 3}")
        cursor.execute(LOAD.replace("ANALYZE;", ""))
        with counting_scans(early) as scans:
            alert_id = raise_one(early, OTHER_DEVICE, "message")
            queries.insert_states(
                early,
                alert_ids=[alert_id],
                state="acknowledged",
                implied=False,
                changed_by="operator",
                actor_kind="user",
                notes=None,
                resolution=None,
                assigned_to_user_id=None,
            )
    assert scans == {}


def test_a_hot_group_is_updated_in_place(loaded: Connection) -> None:
    # Counting touches no indexed column and finds room on its page, so that no index grows with a hot group.
    def read_updates() -> tuple[int, int]:
        with loaded.cursor() as cursor:
            cursor.execute("SELECT pg_stat_force_next_flush()")
            cursor.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'alert_groups'")
            ((updated, in_place),) = cursor.fetchall()
        return int(updated), int(in_place)

    raise_one(loaded, OTHER_DEVICE, "message")
    updated_before, in_place_before = read_updates()
    for n in range(200):
        raise_one(loaded, OTHER_DEVICE, f"message {n % 5}")
    updated, in_place = read_updates()
    assert updated - updated_before == 200
    assert in_place - in_place_before >= 190
