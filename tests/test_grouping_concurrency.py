"""The promises of grouping while many report and act at once, over real connections."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from flask import Flask

from alert_state_machine import Actor, Transition
from alert_store import AlertReport
from foundation.errors import IllegalTransition
from foundation.settings import Settings
from tests.conftest import START
from tests.factories import make_device, make_report
from wiring import Services, build_services

Sql = Callable[..., list[tuple[Any, ...]]]
Work = Callable[[random.Random], None]

THREADS = 6
REPORTER = Actor("device")
OPERATOR = Actor("operator")

BROKEN_PROMISES = {
    "two active groups for a key": """
        SELECT device_id, metric, key_class FROM alert_groups WHERE status = 'active'
        GROUP BY device_id, metric, key_class HAVING count(*) > 1""",
    "a count that is not the number of alerts": """
        SELECT g.id, g.occurrence_count, g.open_alerts, n.* FROM alert_groups AS g
        LEFT JOIN LATERAL (
            SELECT count(*) AS alerts, count(*) FILTER (WHERE a.state <> 'resolved') AS open_ones,
                   min(a.occurred_at) AS first_at, max(a.occurred_at) AS last_at, max(a.severity) AS severity
            FROM alerts AS a WHERE a.group_id = g.id) AS n ON true
        WHERE (g.occurrence_count, g.open_alerts, g.first_occurrence_at, g.last_occurrence_at, g.severity)
              IS DISTINCT FROM (n.alerts, n.open_ones, n.first_at, n.last_at, n.severity)""",
    "an alert in a group of another key": """
        SELECT a.id FROM alerts AS a JOIN alert_groups AS g ON g.id = a.group_id
        WHERE (a.device_id, a.metric, a.key_class) <> (g.device_id, g.metric, g.key_class)""",
    "an alert without a group": "SELECT id FROM alerts WHERE group_id NOT IN (SELECT id FROM alert_groups)",
    "a message with open alerts and not exactly one open original": """
        SELECT group_id, message FROM alerts WHERE state <> 'resolved'
        GROUP BY group_id, message HAVING count(*) FILTER (WHERE duplicate_of IS NULL) <> 1""",
    "a duplicate that differs from its original": """
        SELECT d.id, d.state, o.state FROM alerts AS d JOIN alerts AS o ON o.id = d.duplicate_of
        WHERE (d.state, d.group_id, d.message) <> (o.state, o.group_id, o.message) OR o.duplicate_of IS NOT NULL""",
    "a state that is not the newest of its history": """
        SELECT a.id FROM alerts AS a JOIN v_current_alert_states AS s ON s.alert_id = a.id
        WHERE a.state <> s.state""",
    "an alert without its clocks": "SELECT id FROM alerts WHERE id NOT IN (SELECT alert_id FROM alert_slas)",
    "a clock that stopped before it began": """
        SELECT alert_id FROM alert_slas WHERE actual_tta < 0 OR actual_ttr < 0""",
    "an open group without open alerts": "SELECT id FROM alert_groups WHERE status = 'active' AND open_alerts = 0",
    "totals that differ from a count of the groups": """
        SELECT count(*), count(*) FILTER (WHERE status = 'active'), max(occurrence_count) FROM alert_groups
        EXCEPT SELECT total_groups, active_groups, max_alerts_in_group FROM v_alert_group_stats""",
    "totals that differ from a count of the alerts": """
        SELECT severity, state, count(*) FROM alerts GROUP BY severity, state
        EXCEPT SELECT severity, state, alerts FROM v_tallies""",
}


def assert_promises_hold(sql: Sql) -> None:
    """Look for every kind of broken promise."""
    broken = {name: rows for name, query in BROKEN_PROMISES.items() if (rows := sql(query))}
    assert broken == {}


def run_at_once(*works: Work, threads: int = THREADS) -> None:
    """Run every work in ``threads`` threads that begin together, each with a random source of its own."""
    barrier = threading.Barrier(len(works) * threads)

    def begin(work: Work, seed: int) -> None:
        barrier.wait()
        work(random.Random(seed))

    with ThreadPoolExecutor(len(works) * threads) as pool:
        running = [pool.submit(begin, work, seed) for seed in range(threads) for work in works]
        for future in running:
            future.result()


def make_reports(source: random.Random, devices: Sequence[str], count: int) -> list[AlertReport]:
    """Return reports of few keys and messages, spread over several windows."""
    return [
        AlertReport(
            source.choice(devices),
            source.choice(("high", "low")),
            source.choice(("too hot", "too cold", "too loud")),
            {},
            metric=source.choice(("", "temperature")),
            occurred_at=START - timedelta(seconds=source.randrange(1500)),
            key_class=source.choice((None, "ml")),
        )
        for _ in range(count)
    ]


@pytest.fixture
def busy_services(settings: Settings) -> Iterator[Services]:
    """Services on the running clock, with a connection for every thread of the tests."""
    services = build_services(settings.model_copy(update={"database_pool_size": 2 * THREADS}))
    yield services
    services.database.close()


@pytest.fixture
def devices() -> list[str]:
    return [make_device(), make_device()]


def act_unless_late(services: Services, alert_id: int, transition: Transition) -> bool:
    """Take a step; return whether this one was the quicker."""
    try:
        services.lifecycle.transition(alert_id, transition, OPERATOR)
    except IllegalTransition:
        return False
    return True


def test_single_reports_on_few_keys(busy_services: Services, sql: Sql, devices: list[str]) -> None:
    def report(source: random.Random) -> None:
        for one in make_reports(source, devices, 20):
            busy_services.lifecycle.raise_alert(one, REPORTER)

    run_at_once(report)
    assert sql("SELECT count(*) FROM alerts") == [(20 * THREADS,)]
    assert sql("SELECT count(*) > 12 FROM alert_groups") == [(True,)]
    assert_promises_hold(sql)


def test_first_reports_of_a_key_make_one_group_and_one_original(busy_services: Services, sql: Sql) -> None:
    devices = [make_device() for _ in range(15)]

    def report(_: random.Random) -> None:
        for device in devices:
            busy_services.lifecycle.raise_alert(AlertReport(device, "high", "too hot", {}), REPORTER)

    run_at_once(report)
    assert sql("SELECT count(*), min(occurrence_count) FROM alert_groups") == [(len(devices), THREADS)]
    assert sql("SELECT count(*) FROM alerts WHERE duplicate_of IS NULL") == [(len(devices),)]
    assert_promises_hold(sql)


def test_a_window_that_runs_out_for_all_at_once_ends_one_group(busy_services: Services, sql: Sql) -> None:
    device = make_device()

    def report(_: random.Random) -> None:
        for step in range(10, -1, -1):
            occurred_at = START - timedelta(minutes=10 * step)
            busy_services.lifecycle.raise_alert(
                AlertReport(device, "high", "too hot", {}, occurred_at=occurred_at), REPORTER
            )

    run_at_once(report)
    assert sql("SELECT count(*) FILTER (WHERE status = 'active'), count(*) FROM alert_groups") == [(1, 11)]
    assert_promises_hold(sql)


def test_batches_with_overlapping_keys_all_come_through(busy_services: Services, sql: Sql, devices: list[str]) -> None:
    def report(source: random.Random) -> None:
        for _ in range(4):
            busy_services.lifecycle.raise_alerts(make_reports(source, devices, 40), REPORTER)

    run_at_once(report)
    assert sql("SELECT count(*) FROM alerts") == [(4 * 40 * THREADS,)]
    assert_promises_hold(sql)


def test_batches_and_single_reports_over_rest(app: Flask, headers: Callable[..., dict[str, str]], sql: Sql) -> None:
    devices = [make_device() for _ in range(3)]
    by_device = headers("device")
    answers: Counter[int] = Counter()

    def bodies(source: random.Random, count: int) -> list[dict[str, Any]]:
        return [make_report(device_id=source.choice(devices), metric=f"m{source.randrange(3)}") for _ in range(count)]

    def report_batches(source: random.Random) -> None:
        client = app.test_client()
        for _ in range(3):
            response = client.post("/api/v1/alerts/batch", json={"alerts": bodies(source, 20)}, headers=by_device)
            answers[response.status_code] += 1

    def report_singles(source: random.Random) -> None:
        client = app.test_client()
        for body in bodies(source, 15):
            answers[client.post("/api/v1/alerts", json=body, headers=by_device).status_code] += 1

    run_at_once(report_batches, report_singles, threads=4)
    assert answers == {201: 4 * 3 + 4 * 15}
    assert sql("SELECT count(*) FROM alerts") == [(4 * 3 * 20 + 4 * 15,)]
    assert_promises_hold(sql)


def test_plain_inserts_keep_the_promises_too(database_url: str, sql: Sql, devices: list[str]) -> None:
    def insert(source: random.Random) -> None:
        with closing(psycopg2.connect(database_url)) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            for report in make_reports(source, devices, 20):
                cursor.execute(
                    "INSERT INTO alerts (device_id, severity, message, metric, occurred_at)"
                    " VALUES (%s, %s, %s, %s, %s)",
                    (report.device_id, report.severity, report.message, report.metric, report.occurred_at),
                )

    run_at_once(insert)
    assert sql("SELECT count(*) FROM alerts") == [(20 * THREADS,)]
    assert_promises_hold(sql)


def test_raising_against_resolving(busy_services: Services, database_url: str, sql: Sql, devices: list[str]) -> None:
    resolved: list[int] = []
    is_over = threading.Event()

    def report(source: random.Random) -> None:
        # On and on until enough was resolved meanwhile; only the last reports may remain open.
        while len(resolved) < 60:
            one = AlertReport(source.choice(devices), "high", f"message {source.randrange(2)}", {})
            if source.random() < 0.8:
                busy_services.lifecycle.raise_alert(one, REPORTER)
            else:
                busy_services.lifecycle.raise_alerts([one, one], REPORTER)
        is_over.set()

    def resolve(source: random.Random) -> None:
        with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not is_over.is_set():
                cursor.execute("SELECT id FROM alerts WHERE duplicate_of IS NULL AND state <> 'resolved'")
                for (alert_id,) in source.sample(found := cursor.fetchall(), min(2, len(found))):
                    if act_unless_late(busy_services, alert_id, Transition("resolved", advance=True)):
                        resolved.append(alert_id)

    run_at_once(report, resolve, threads=4)
    assert len(resolved) == len(set(resolved)) >= 60
    assert sql("SELECT id FROM alert_groups WHERE (status = 'closed') <> (open_alerts = 0)") == []
    joined_after_the_end = """
        SELECT a.id FROM alerts AS a JOIN alert_groups AS g ON g.id = a.group_id
        WHERE g.status = 'closed' AND a.state <> 'resolved'"""
    assert sql(joined_after_the_end) == []
    assert_promises_hold(sql)


def test_resolving_everything_closes_everything(busy_services: Services, sql: Sql, devices: list[str]) -> None:
    busy_services.lifecycle.raise_alerts(make_reports(random.Random(0), devices, 60), REPORTER)
    ids = [identifier for (identifier,) in sql("SELECT id FROM alerts")]
    wins: Counter[bool] = Counter()

    def resolve(source: random.Random) -> None:
        for alert_id in source.sample(ids, len(ids)):
            wins[act_unless_late(busy_services, alert_id, Transition("resolved", advance=True))] += 1

    originals = sql("SELECT count(*) FROM alerts WHERE duplicate_of IS NULL")[0][0]
    run_at_once(resolve, threads=4)
    assert wins[True] == originals, "each original was to be resolved by exactly one"
    assert sql("SELECT count(*) FROM alert_groups WHERE status = 'active' OR open_alerts <> 0") == [(0,)]
    assert_promises_hold(sql)


def test_raising_against_acknowledging(busy_services: Services, sql: Sql) -> None:
    devices = [make_device() for _ in range(8)]
    originals = [
        int(busy_services.lifecycle.raise_alert(AlertReport(d, "high", "too hot", {}), REPORTER).answers[0]["alert_id"])
        for d in devices
    ]

    def report(_: random.Random) -> None:
        for device in devices:
            busy_services.lifecycle.raise_alert(AlertReport(device, "high", "too hot", {}), REPORTER)
            busy_services.lifecycle.raise_alerts([AlertReport(device, "high", "too hot", {})] * 2, REPORTER)

    def take_in_hand(_: random.Random) -> None:
        for alert_id in originals:
            act_unless_late(busy_services, alert_id, Transition("acknowledged"))
            act_unless_late(busy_services, alert_id, Transition("investigating"))

    run_at_once(report, take_in_hand, threads=4)
    assert sql("SELECT state::text, count(*) FROM alerts GROUP BY state") == [("investigating", 8 + 8 * 4 * 3)]
    assert_promises_hold(sql)


def test_group_actions_against_raising(busy_services: Services, sql: Sql) -> None:
    device = make_device()
    first = busy_services.lifecycle.raise_alert(AlertReport(device, "high", "message 0", {}), REPORTER).answers[0]

    def report(source: random.Random) -> None:
        for _ in range(15):
            message = f"message {source.randrange(4)}"
            busy_services.lifecycle.raise_alert(AlertReport(device, "high", message, {}), REPORTER)

    def act_on_group(source: random.Random) -> None:
        for _ in range(6):
            target = source.choice(("acknowledged", "investigating", "resolved"))
            busy_services.lifecycle.transition_group(int(first["group_id"]), Transition(target), OPERATOR)

    run_at_once(report, act_on_group, threads=4)
    assert_promises_hold(sql)


def test_folding_the_tallies_meanwhile_loses_nothing(busy_services: Services, sql: Sql, devices: list[str]) -> None:
    def report(source: random.Random) -> None:
        for one in make_reports(source, devices, 15):
            busy_services.lifecycle.raise_alert(one, REPORTER)

    def fold(_: random.Random) -> None:
        for _round in range(10):
            busy_services.housekeeping.tallies.run_once()

    run_at_once(report, fold, threads=4)
    assert_promises_hold(sql)
    busy_services.housekeeping.tallies.run_once()
    assert sql("SELECT count(*) FROM tally_entries") == [(0,)]
    assert_promises_hold(sql)


def test_a_duplicate_that_overtakes_an_acknowledgement_has_no_negative_minutes(database_url: str, sql: Sql) -> None:
    # The transaction that acknowledges begins, and reads its clock, before the duplicate arrives.
    insert = "INSERT INTO alerts (device_id, severity, message) VALUES (%s, 'high', 'too hot') RETURNING id"
    device = make_device()
    ((original,),) = sql(insert, device)
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT app_now()")
        sql(insert, device)
        cursor.execute("INSERT INTO alert_states (alert_id, state) VALUES (%s, 'acknowledged')", (original,))
    assert sql("SELECT count(*) FROM alert_slas WHERE actual_tta >= 0") == [(2,)]


def test_a_report_waits_for_the_resolution_that_closes_its_group(database_url: str, sql: Sql) -> None:
    insert = "INSERT INTO alerts (device_id, severity, message) VALUES (%s, 'high', 'too hot') RETURNING group_id"
    device = make_device()
    ((old_group,),) = sql(insert, device)
    with (
        closing(psycopg2.connect(database_url)) as resolver,
        closing(psycopg2.connect(database_url)) as reporter,
        ThreadPoolExecutor(1) as pool,
        resolver.cursor() as resolving,
        reporter.cursor() as reporting,
    ):
        resolving.execute(
            "INSERT INTO alert_states (alert_id, state, actor_kind) SELECT id, 'resolved', 'system' FROM alerts"
        )
        waiting = pool.submit(reporting.execute, insert, (device,))
        await_lock_wait(sql, reporter.info.backend_pid)
        resolver.commit()
        waiting.result()
        ((new_group,),) = reporting.fetchall()
        reporter.commit()
    assert new_group != old_group
    assert_promises_hold(sql)


def await_lock_wait(sql: Sql, backend_pid: int) -> None:
    """Return once a backend waits for a lock."""
    for _ in range(100_000):
        if sql("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", backend_pid) == [(True,)]:
            return
    raise AssertionError("it never waited")
