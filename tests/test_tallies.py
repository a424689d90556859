"""Running totals: whatever happens, and whenever they are folded, they equal a recount of the tables."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import psycopg2
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from alert_state_machine import STATES, Actor, Transition
from alert_store import AlertReport
from foundation.clock import FrozenClock
from foundation.errors import IllegalTransition
from housekeeping import FOLD_BATCH
from tests.factories import make_device
from wiring import Services

Sql = Callable[..., list[tuple[Any, ...]]]
RaiseAlert = Callable[..., dict[str, Any]]
Act = Callable[..., Any]
Headers = Callable[..., dict[str, str]]
Count = dict[tuple[str, ...], int]

PATIENCE_SECONDS = 30.0
ADD_UP = """
    SELECT severity, state, alerts, groups_opened, groups_closed, largest_group, tta_breaches, ttr_breaches
    FROM v_tallies
"""
RECOUNT_ALERTS = "SELECT severity, state, count(*) FROM alerts GROUP BY severity, state"
RECOUNT_GROUPS = """
    SELECT count(*), count(*) FILTER (WHERE status = 'closed'), COALESCE(max(occurrence_count), 0) FROM alert_groups
"""
RECOUNT_BREACHES = """
    SELECT severity, count(*) FILTER (WHERE tta_breached), count(*) FILTER (WHERE ttr_breached)
    FROM alert_slas WHERE NOT is_duplicate GROUP BY severity
"""


def add_up(sql: Sql) -> Count:
    """Return what the tallies say; what is zero is left out."""
    total: Count = {}
    for severity, state, alerts, opened, closed, largest, tta, ttr in sql(ADD_UP):
        for key, number in (
            (("alerts", severity, state), alerts),
            (("groups opened",), opened),
            (("groups closed",), closed),
            (("breaches", severity, "tta"), tta),
            (("breaches", severity, "ttr"), ttr),
        ):
            total[key] = total.get(key, 0) + number
        total[("largest group",)] = max(total.get(("largest group",), 0), largest)
    return {key: number for key, number in total.items() if number}


def recount(sql: Sql) -> Count:
    """Return the same figures from the tables themselves."""
    [(opened, closed, largest)] = sql(RECOUNT_GROUPS)
    total: Count = {("groups opened",): opened, ("groups closed",): closed, ("largest group",): largest}
    total.update({("alerts", severity, state): number for severity, state, number in sql(RECOUNT_ALERTS)})
    for severity, tta, ttr in sql(RECOUNT_BREACHES):
        total["breaches", severity, "tta"] = tta
        total["breaches", severity, "ttr"] = ttr
    return {key: number for key, number in total.items() if number}


def count_entries(sql: Sql) -> int:
    return int(sql("SELECT count(*) FROM tally_entries")[0][0])


SEVERITY = st.sampled_from(["critical", "high"])
MESSAGE = st.sampled_from(["hot", "cold"])
REPORT = st.tuples(st.integers(0, 1), SEVERITY, MESSAGE, st.integers(-900, 200))
ACTION = st.one_of(
    st.tuples(st.just("raise"), REPORT),
    st.tuples(st.just("batch"), st.lists(REPORT, min_size=1, max_size=6)),
    st.tuples(st.just("insert"), REPORT),
    st.tuples(st.just("step"), st.tuples(st.integers(0, 50), st.sampled_from(STATES[1:]), st.booleans())),
    st.tuples(st.just("group step"), st.tuples(st.integers(0, 50), st.sampled_from(STATES[1:]), st.booleans())),
    st.tuples(st.just("find group"), REPORT),
    st.tuples(st.just("close group"), st.integers(0, 50)),
    st.tuples(st.just("wait"), st.integers(0, 40)),
    st.tuples(st.just("sweep"), st.none()),
    st.tuples(st.just("fold"), st.none()),
)


class Plant:
    """Two devices of a test, to which things happen."""

    def __init__(self, services: Services, clock: FrozenClock, sql: Sql) -> None:
        self._services = services
        self._clock = clock
        self._sql = sql
        self._devices = [make_device(), make_device()]

    def happen(self, kind: str, value: Any) -> None:
        self._sql("SELECT set_config('app.now', %s, false)", self._clock.now().isoformat())
        getattr(self, kind.replace(" ", "_"))(value)

    def _report(self, drawn: tuple[int, str, str, int]) -> AlertReport:
        device, severity, message, seconds = drawn
        occurred_at = self._clock.now() + timedelta(seconds=seconds)
        return AlertReport(self._devices[device], severity, message, {}, occurred_at=occurred_at)

    def _pick(self, table: str, number: int) -> int | None:
        rows = self._sql(f"SELECT id FROM {table} WHERE device_id::text = ANY (%s) ORDER BY id", self._devices)
        return int(rows[number % len(rows)][0]) if rows else None

    def raise_(self, drawn: tuple[int, str, str, int]) -> None:
        self._services.lifecycle.raise_alert(self._report(drawn), Actor("gateway"))

    def batch(self, drawn: list[tuple[int, str, str, int]]) -> None:
        self._services.lifecycle.raise_alerts([self._report(each) for each in drawn], Actor("gateway"))

    def insert(self, drawn: tuple[int, str, str, int]) -> None:
        report = self._report(drawn)
        self._sql(
            "INSERT INTO alerts (device_id, severity, message, occurred_at) VALUES (%s, %s, %s, %s)",
            report.device_id,
            report.severity,
            report.message,
            report.occurred_at,
        )

    def step(self, drawn: tuple[int, str, bool]) -> None:
        number, target, by_system = drawn
        alert_id = self._pick("alerts", number)
        if alert_id is None:
            return
        actor = Actor("gateway", "system") if by_system else Actor("ana")
        try:
            self._services.lifecycle.transition(alert_id, Transition(target, advance=not by_system), actor)
        except IllegalTransition:
            return  # refused: nothing may have been counted

    def group_step(self, drawn: tuple[int, str, bool]) -> None:
        number, target, advance = drawn
        group_id = self._pick("alert_groups", number)
        if group_id is not None:
            self._services.lifecycle.transition_group(group_id, Transition(target, advance=advance), Actor("ana"))

    def find_group(self, drawn: tuple[int, str, str, int]) -> None:
        report = self._report(drawn)
        self._sql(
            "SELECT find_or_create_alert_group(%s, '', %s, %s, %s)",
            report.device_id,
            report.severity,
            report.severity,
            report.occurred_at,
        )

    def close_group(self, number: int) -> None:
        group_id = self._pick("alert_groups", number)
        if group_id is not None:
            self._sql("SELECT close_alert_group(%s)", group_id)

    def wait(self, minutes: int) -> None:
        self._clock.advance(timedelta(minutes=minutes))

    def sweep(self, _: None) -> None:
        self._services.sla.run_once()

    def fold(self, _: None) -> None:
        self._services.housekeeping.tallies.run_once()


@settings(max_examples=60)
@given(actions=st.lists(ACTION, max_size=25))
def test_tallies_equal_a_recount_after_anything(
    actions: list[tuple[str, Any]], services: Services, clock: FrozenClock, sql: Sql
) -> None:
    plant = Plant(services, clock, sql)
    for kind, value in actions:
        plant.happen("raise_" if kind == "raise" else kind, value)
        assert add_up(sql) == recount(sql), kind
    services.housekeeping.tallies.run_once()
    assert count_entries(sql) == 0
    assert add_up(sql) == recount(sql)


def test_batch_into_a_prepared_group_opens_no_second_one(
    client: FlaskClient, headers: Headers, sql: Sql, clock: FrozenClock
) -> None:
    device = make_device()
    sql("SELECT set_config('app.now', %s, false)", clock.now().isoformat())
    sql("SELECT find_or_create_alert_group(%s, '', 'low', 'low')", device)
    report = {"device_id": device, "severity": "low", "message": "m"}
    answer = client.post("/api/v1/alerts/batch", json={"alerts": [report]}, headers=headers("device"))
    assert answer.status_code == 201
    stats: Any = client.get("/api/v1/groups/stats", headers=headers("viewer")).json
    assert (stats["total_groups"], stats["total_alerts"]) == (1, 1)


def test_work_that_is_rolled_back_is_not_counted(raise_alert: RaiseAlert, sql: Sql, database_url: str) -> None:
    alert_id = raise_alert()["alert_id"]
    before = add_up(sql)
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO alert_states (alert_id, state) VALUES (%s, 'acknowledged')", (alert_id,))
        cursor.execute(
            "INSERT INTO alerts (device_id, severity, message) VALUES (%s, 'critical', 'n')", (make_device(),)
        )
        cursor.execute("SELECT fold_tallies()")
    connection.rollback()
    connection.close()
    assert add_up(sql) == before == recount(sql)


def test_fold_takes_everything_in_batches(services: Services, sql: Sql) -> None:
    count = 2 * FOLD_BATCH + 7
    sql("INSERT INTO tally_entries (severity, state, alerts) SELECT 'low', 'new', 1 FROM generate_series(1, %s)", count)
    assert services.housekeeping.tallies.run_once().folded == count
    assert count_entries(sql) == 0
    assert add_up(sql) == {("alerts", "low", "new"): count}
    assert services.housekeeping.tallies.run_once().folded == 0


def test_readers_never_see_a_fold_half_done(services: Services, sql: Sql, database_url: str) -> None:
    sql(
        "INSERT INTO tally_entries (severity, state, alerts, groups_opened)"
        " SELECT (enum_range(NULL::alert_severity))[1 + n % 5], 'new', 1, 1 FROM generate_series(1, 100000) AS n"
    )
    before = add_up(sql)
    folded = Event()

    def read() -> list[Count]:
        connection = psycopg2.connect(database_url)
        connection.autocommit = True
        seen = []

        def execute(statement: str) -> list[tuple[Any, ...]]:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()

        while not folded.is_set():
            seen.append(add_up(execute))
        connection.close()
        return seen

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        results = [pool.submit(services.housekeeping.tallies.run_once) for _ in range(3)]
        try:
            total = sum(result.result(PATIENCE_SECONDS).folded for result in results)
        finally:
            folded.set()
        assert all(seen == before for seen in reading.result(PATIENCE_SECONDS))
    assert total == 100_000
    assert add_up(sql) == before


def test_folding_beside_writers_loses_nothing(services: Services, clock: FrozenClock, sql: Sql) -> None:
    devices = [make_device() for _ in range(3)]

    def write(writer: int) -> None:
        for number in range(12):
            report = AlertReport(devices[(writer + number) % 3], "critical", f"fault {number % 5}", {})
            [raised] = services.lifecycle.raise_alert(report, Actor("gateway")).answers
            try:
                services.lifecycle.transition(
                    int(raised["alert_id"]), Transition("resolved", advance=bool(number % 2)), Actor("ana")
                )
            except IllegalTransition:
                continue  # it takes advance, or another writer was quicker

    with ThreadPoolExecutor(8) as pool:
        writing = [pool.submit(write, writer) for writer in range(4)]
        while not all(each.done() for each in writing):
            folds = [pool.submit(services.housekeeping.tallies.run_once) for _ in range(2)]
            for fold in folds:
                fold.result(PATIENCE_SECONDS)
        for each in writing:
            each.result()
    assert recount(sql)[("alerts", "critical", "resolved")] > 0
    assert add_up(sql) == recount(sql)
    services.housekeeping.tallies.run_once()
    assert count_entries(sql) == 0
    assert add_up(sql) == recount(sql)


def play_a_morning(raise_alert: RaiseAlert, act: Act, services: Services, clock: FrozenClock) -> None:
    """Three groups, one closed; alerts in three states, with duplicates; breaches of both clocks."""
    noisy = [raise_alert(message=f"fault {number % 2}") for number in range(5)]
    act(noisy[0]["alert_id"], "acknowledge")
    done = raise_alert(severity="high")
    act(done["group_id"], "resolve", kind="groups", advance=True)
    raise_alert(severity="medium", device_id=make_device())
    clock.advance(timedelta(minutes=31))
    services.sla.run_once()


def test_group_statistics_are_a_recount(
    raise_alert: RaiseAlert, act: Act, services: Services, clock: FrozenClock, client: FlaskClient, headers: Headers
) -> None:
    def read() -> Any:
        return client.get("/api/v1/groups/stats", headers=headers("viewer")).json

    assert read() == {
        "total_groups": 0,
        "active_groups": 0,
        "closed_groups": 0,
        "total_alerts": 0,
        "avg_alerts_per_group": 0.0,
        "max_alerts_in_group": 0,
        "noise_reduction_pct": 0.0,
    }
    play_a_morning(raise_alert, act, services, clock)
    stats = read()
    assert stats["avg_alerts_per_group"] * 3 == 7
    assert abs(stats["noise_reduction_pct"] - 100 * (1 - 3 / 7)) < 1e-9
    assert {name: stats[name] for name in list(stats) if name.endswith(("groups", "alerts", "in_group"))} == {
        "total_groups": 3,
        "active_groups": 2,
        "closed_groups": 1,
        "total_alerts": 7,
        "max_alerts_in_group": 5,
    }
    services.housekeeping.tallies.run_once()
    assert read() == stats


def test_totals_of_lists_are_a_recount(
    raise_alert: RaiseAlert,
    act: Act,
    services: Services,
    clock: FrozenClock,
    client: FlaskClient,
    headers: Headers,
    sql: Sql,
) -> None:
    play_a_morning(raise_alert, act, services, clock)

    def total(path: str) -> int:
        answer: Any = client.get(f"/api/v1/{path}", headers=headers("viewer")).json
        assert answer["total_is_estimate"] is False
        assert answer["total"] == len(answer["data"])
        return int(answer["total"])

    for _ in range(2):
        assert total("alerts") == 7
        for severity, state, number in sql(RECOUNT_ALERTS):
            assert total(f"alerts?severity={severity}&state={state}") == number
        assert total("alerts?severity=critical,high") == 6
        assert total("alerts?state=new,resolved") == 4
        assert (total("groups"), total("groups?status=active"), total("groups?status=closed")) == (3, 2, 1)
        services.housekeeping.tallies.run_once()


def test_metrics_are_a_recount(
    raise_alert: RaiseAlert, act: Act, services: Services, clock: FrozenClock, client: FlaskClient, sql: Sql
) -> None:
    play_a_morning(raise_alert, act, services, clock)
    for _ in range(2):
        text = client.get("/metrics").get_data(as_text=True)
        families = {family.name: family.samples for family in text_string_to_metric_families(text)}
        alerts = {
            (sample.labels["severity"], sample.labels["state"]): sample.value
            for sample in families["advanced_alerting_alerts"]
            if sample.value
        }
        assert alerts == {(severity, state): number for severity, state, number in sql(RECOUNT_ALERTS)}
        breaches = {
            (sample.labels["severity"], sample.labels["clock"]): sample.value
            for sample in families["advanced_alerting_sla_breaches"]
            if sample.value
        }
        # Of the five critical alerts two are originals, one of which was acknowledged in time.
        assert breaches == {("critical", "tta"): 1, ("critical", "ttr"): 2}
        assert [sample.value for sample in families["advanced_alerting_active_groups"]] == [2]
        assert [sample.value for sample in families["advanced_alerting_database_up"]] == [1]
        services.housekeeping.tallies.run_once()
