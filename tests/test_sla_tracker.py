"""SLA clocks: evaluated purely, run by the database, flagged by the sweep, and summed up as compliance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import fmean
from typing import Any

import psycopg2
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from alert_state_machine import Actor, Transition
from foundation.clock import FrozenClock
from foundation.errors import ValidationFailed
from foundation.processes import await_condition
from sla_tracker import SEVERITIES, SWEEP_BATCH, ClockState, SlaTarget, SweepResult, evaluate_clock
from tests.factories import DEVICE, make_device, make_report
from wiring import Services

Sql = Callable[..., list[tuple[Any, ...]]]
RaiseAlert = Callable[..., dict[str, Any]]
Act = Callable[..., Any]
Headers = Callable[..., dict[str, str]]

MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
T0 = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
PATIENCE_SECONDS = 30.0

PERSON = Actor("ana")
GATEWAY = Actor("gateway", "system")
TARGETS = {
    "critical": (5, 30),
    "high": (15, 120),
    "medium": (60, 480),
    "low": (240, 1440),
    "info": (1440, 10080),
}
NOTHING = SweepResult(checked=0, tta_breaches=0, ttr_breaches=0)


@pytest.fixture
def read_sla(client: FlaskClient, headers: Headers) -> Callable[[str], dict[str, Any]]:
    """Read the clocks of an alert over REST."""

    def read(alert_id: str) -> dict[str, Any]:
        answer = client.get(f"/api/v1/alerts/{alert_id}", headers=headers("viewer"))
        assert answer.status_code == 200, answer.json
        sla: dict[str, Any] = answer.json["sla"]  # type: ignore[index]  # a 200 has a body
        return sla

    return read


@pytest.fixture
def read_compliance(client: FlaskClient, headers: Headers) -> Callable[..., dict[str, dict[str, Any]]]:
    """Read the compliance of alerts created in [start, end) over REST, by severity."""

    def read(start: datetime, end: datetime, **query: str) -> dict[str, dict[str, Any]]:
        answer = client.get(
            "/api/v1/sla/compliance",
            query_string={"start_date": start.isoformat(), "end_date": end.isoformat(), **query},
            headers=headers("viewer"),
        )
        assert answer.status_code == 200, answer.json
        report: dict[str, Any] = answer.json  # type: ignore[assignment]  # a 200 has a body
        return {row["severity"]: row for row in report["data"]}

    return read


def resolve(services: Services, alert_id: str, actor: Actor = PERSON, **more: Any) -> None:
    services.lifecycle.transition(int(alert_id), Transition("resolved", **more), actor)


def flags_of(sql: Sql, alert_id: str) -> tuple[bool, bool, datetime | None]:
    [row] = sql("SELECT tta_breached, ttr_breached, next_due_at FROM alert_slas WHERE alert_id = %s", alert_id)
    return (row[0], row[1], row[2])


def tallied_breaches(sql: Sql) -> dict[str, tuple[int, int]]:
    rows = sql("SELECT severity, sum(tta_breaches)::int, sum(ttr_breaches)::int FROM v_tallies GROUP BY severity")
    return {severity: (tta, ttr) for severity, tta, ttr in rows if tta or ttr}


# --- one clock, purely


@pytest.mark.parametrize(
    ("now", "stopped", "expected"),
    [
        # A clock of 20 minutes: at risk from 15:00 on, due at 20:00. Offsets from its start.
        (timedelta(0), None, ClockState(None, is_breached=False, is_at_risk=False)),
        (15 * MINUTE - MICROSECOND, None, ClockState(None, is_breached=False, is_at_risk=False)),
        (15 * MINUTE, None, ClockState(None, is_breached=False, is_at_risk=True)),
        (20 * MINUTE, None, ClockState(None, is_breached=False, is_at_risk=True)),
        (20 * MINUTE + MICROSECOND, None, ClockState(None, is_breached=True, is_at_risk=False)),
        (900 * MINUTE, None, ClockState(None, is_breached=True, is_at_risk=False)),
        (900 * MINUTE, timedelta(0), ClockState(0.0, is_breached=False, is_at_risk=False)),
        (16 * MINUTE, 15.5 * MINUTE, ClockState(15.5, is_breached=False, is_at_risk=False)),
        (900 * MINUTE, 20 * MINUTE, ClockState(20.0, is_breached=False, is_at_risk=False)),
        (900 * MINUTE, 25 * MINUTE, ClockState(25.0, is_breached=True, is_at_risk=False)),
    ],
)
def test_clock_at_its_boundaries(now: timedelta, stopped: timedelta | None, expected: ClockState) -> None:
    stopped_at = None if stopped is None else T0 + stopped
    assert evaluate_clock(T0, 20, stopped_at, T0 + now) == expected


def test_clock_stopped_a_microsecond_late_is_breached() -> None:
    late = evaluate_clock(T0, 20, T0 + 20 * MINUTE + MICROSECOND, T0 + 21 * MINUTE)
    assert late.is_breached
    assert late.actual_minutes is not None
    assert late.actual_minutes > 20


@st.composite
def lives_of_clocks(draw: st.DrawFn) -> tuple[int, int, timedelta | None, timedelta | None, list[timedelta]]:
    """Draw targets, when somebody acknowledged and resolved, and instants to look at, boundaries among them."""
    tta = draw(st.integers(1, 3000))
    ttr = draw(st.integers(tta, 6000))
    boundaries = [timedelta(seconds=45) * tta, MINUTE * tta, timedelta(seconds=45) * ttr, MINUTE * ttr]
    near = [at + shift for at in boundaries for shift in (-MICROSECOND, timedelta(0), MICROSECOND)]
    instant = st.one_of(st.sampled_from(near), st.timedeltas(timedelta(0), MINUTE * ttr * 2))
    acknowledged = draw(st.none() | instant)
    resolved = None
    if acknowledged is not None:
        resolved = draw(st.none() | instant.filter(lambda at: at >= acknowledged))
    return tta, ttr, acknowledged, resolved, [*near, *draw(st.lists(instant, max_size=8))]


@settings(max_examples=40)
@given(life=lives_of_clocks(), began=st.timedeltas(timedelta(days=-9000), timedelta(days=9000)))
def test_clocks_agree_with_the_database_at_any_instant(
    life: tuple[int, int, timedelta | None, timedelta | None, list[timedelta]], began: timedelta, sql: Sql
) -> None:
    tta, ttr, acknowledged, resolved, instants = life
    started_at = T0 + began

    def set_time(at: datetime) -> None:
        sql("SELECT set_config('app.now', %s, false)", at.isoformat())

    set_time(started_at)
    sql("UPDATE sla_targets SET target_tta = %s, target_ttr = %s WHERE severity = 'high'", tta, ttr)
    [(alert_id,)] = sql(
        "INSERT INTO alerts (device_id, severity, message) VALUES (%s, 'high', 'm') RETURNING id", make_device()
    )
    insert_state = "INSERT INTO alert_states (alert_id, state) VALUES (%s, %s)"
    if acknowledged is not None:
        set_time(started_at + acknowledged)
        sql(insert_state, alert_id, "acknowledged")
    if resolved is not None:
        set_time(started_at + resolved)
        sql(insert_state, alert_id, "investigating")
        sql(insert_state, alert_id, "resolved")

    for offset in instants:
        now = started_at + offset
        set_time(now)
        [row] = sql(
            "SELECT actual_tta, tta_breached, tta_at_risk, actual_ttr, ttr_breached, ttr_at_risk"
            " FROM v_alert_sla_status WHERE alert_id = %s",
            alert_id,
        )
        for target, stopped, found in ((tta, acknowledged, row[:3]), (ttr, resolved, row[3:])):
            expected = evaluate_clock(started_at, target, None if stopped is None else started_at + stopped, now)
            assert found == (
                None
                if expected.actual_minutes is None
                else pytest.approx(expected.actual_minutes, rel=1e-12, abs=1e-9),
                expected.is_breached,
                expected.is_at_risk,
            )


# --- targets


def test_targets_are_those_of_the_contract(client: FlaskClient, headers: Headers, services: Services) -> None:
    answer = client.get("/api/v1/sla/targets", headers=headers("viewer"))
    assert answer.json == {severity: {"tta": tta, "ttr": ttr} for severity, (tta, ttr) in TARGETS.items()}
    assert [target.severity for target in services.sla.list_targets()] == list(SEVERITIES)


def test_changed_targets_leave_existing_alerts_alone(
    raise_alert: RaiseAlert,
    client: FlaskClient,
    headers: Headers,
    clock: FrozenClock,
    services: Services,
    read_sla: Callable[[str], dict[str, Any]],
    sql: Sql,
) -> None:
    before = raise_alert()
    clock.advance(MINUTE)
    answer = client.put("/api/v1/sla/targets", json={"critical": {"tta": 1, "ttr": 2}}, headers=headers("admin"))
    assert answer.status_code == 200
    changed = {severity: {"tta": tta, "ttr": ttr} for severity, (tta, ttr) in TARGETS.items()}
    assert answer.json == {**changed, "critical": {"tta": 1, "ttr": 2}}
    assert client.get("/api/v1/sla/targets", headers=headers("viewer")).json == answer.json
    assert sql("SELECT severity, updated_by FROM sla_targets WHERE updated_by <> 'system'") == [("critical", "tester")]

    after = raise_alert(device_id=make_device())
    duplicate = raise_alert()
    assert before["sla_targets"] == {"tta": 5, "ttr": 30}
    assert after["sla_targets"] == duplicate["sla_targets"] == {"tta": 1, "ttr": 2}
    kept = read_sla(before["alert_id"])
    assert (kept["target_tta"], kept["tta_due_at"]) == (5, "2026-03-02T08:05:00+00:00")
    assert read_sla(after["alert_id"])["ttr_due_at"] == "2026-03-02T08:03:00+00:00"

    clock.advance(MINUTE + MICROSECOND)
    assert services.sla.run_once().tta_breaches == 1
    assert not read_sla(before["alert_id"])["tta_breached"]


def test_targets_that_make_no_sense_are_refused(services: Services, sql: Sql) -> None:
    with pytest.raises(ValidationFailed, match=r"low\.ttr"):
        services.sla.change_targets({"high": (1, 1), "low": (10, 9)}, "ana")
    assert services.sla.list_targets() == [SlaTarget(severity, *TARGETS[severity]) for severity in SEVERITIES]
    for change in ("target_ttr = target_tta - 1", "target_tta = 0", "target_tta = NULL"):
        with pytest.raises(psycopg2.IntegrityError):
            sql(f"UPDATE sla_targets SET {change} WHERE severity = 'low'")


# --- the sweep


def test_sweep_flags_a_breach_a_microsecond_after_its_moment(
    raise_alert: RaiseAlert, services: Services, clock: FrozenClock, sql: Sql
) -> None:
    alert_id = raise_alert()["alert_id"]
    clock.advance(5 * MINUTE)
    assert services.sla.run_once() == NOTHING
    assert flags_of(sql, alert_id)[:2] == (False, False)
    clock.advance(MICROSECOND)
    assert services.sla.run_once() == SweepResult(checked=1, tta_breaches=1, ttr_breaches=0)
    assert flags_of(sql, alert_id)[:2] == (True, False)
    clock.advance(25 * MINUTE - MICROSECOND)
    assert services.sla.run_once() == NOTHING
    clock.advance(MICROSECOND)
    assert services.sla.run_once() == SweepResult(checked=1, tta_breaches=0, ttr_breaches=1)
    assert flags_of(sql, alert_id)[:2] == (True, True)


def test_next_due_at_walks_from_one_clock_to_the_other(
    raise_alert: RaiseAlert, services: Services, clock: FrozenClock, act: Act, sql: Sql
) -> None:
    tta_due, ttr_due = T0 + 5 * MINUTE, T0 + 30 * MINUTE
    swept, acknowledged, resolved = (raise_alert(device_id=make_device())["alert_id"] for _ in range(3))
    assert {flags_of(sql, alert_id) for alert_id in (swept, acknowledged, resolved)} == {(False, False, tta_due)}

    act(acknowledged, "acknowledge")
    resolve(services, resolved, GATEWAY)
    assert flags_of(sql, acknowledged) == (False, False, ttr_due)
    assert flags_of(sql, resolved) == (False, False, None)

    clock.advance(6 * MINUTE)
    services.sla.run_once()
    assert flags_of(sql, swept) == (True, False, ttr_due)
    assert flags_of(sql, acknowledged) == (False, False, ttr_due)
    act(swept, "acknowledge")
    assert flags_of(sql, swept) == (True, False, ttr_due)

    clock.advance(25 * MINUTE)
    assert services.sla.run_once() == SweepResult(checked=2, tta_breaches=0, ttr_breaches=2)
    assert flags_of(sql, swept) == (True, True, None)
    assert flags_of(sql, acknowledged) == (False, True, None)
    act(swept, "investigate")
    assert flags_of(sql, swept) == (True, True, None)
    assert services.sla.run_once() == NOTHING


def test_sweep_after_an_outage_flags_both_clocks(
    raise_alert: RaiseAlert, services: Services, clock: FrozenClock, sql: Sql
) -> None:
    alert_id = raise_alert()["alert_id"]
    calm = raise_alert(severity="info")["alert_id"]
    clock.advance(timedelta(hours=2))
    assert services.sla.run_once() == SweepResult(checked=1, tta_breaches=1, ttr_breaches=1)
    assert flags_of(sql, alert_id) == (True, True, None)
    assert flags_of(sql, calm)[:2] == (False, False)
    assert services.sla.run_once() == NOTHING
    assert tallied_breaches(sql) == {"critical": (1, 1)}


def raise_many(sql: Sql, count: int) -> None:
    """Insert so many critical alerts at T0, each on a device of its own."""
    sql("SELECT set_config('app.now', %s, false)", T0.isoformat())
    sql(
        "INSERT INTO alerts (device_id, severity, message)"
        " SELECT md5(n::text)::uuid, 'critical', 'm' FROM generate_series(1, %s) AS n",
        count,
    )


def test_sweep_goes_on_until_nothing_is_due(services: Services, clock: FrozenClock, sql: Sql) -> None:
    count = 2 * SWEEP_BATCH + 1
    raise_many(sql, count)
    clock.advance(6 * MINUTE)
    assert services.sla.run_once() == SweepResult(checked=count, tta_breaches=count, ttr_breaches=0)
    assert sql("SELECT count(*) FROM alert_slas WHERE NOT tta_breached") == [(0,)]


def test_concurrent_sweepers_flag_each_breach_once(services: Services, clock: FrozenClock, sql: Sql) -> None:
    count = 3 * SWEEP_BATCH
    raise_many(sql, count)
    clock.advance(31 * MINUTE)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: services.sla.run_once(), range(4)))
    assert sum(result.tta_breaches for result in results) == count
    assert sum(result.ttr_breaches for result in results) == count
    assert sql("SELECT DISTINCT tta_breached, ttr_breached, next_due_at FROM alert_slas") == [(True, True, None)]
    assert tallied_breaches(sql) == {"critical": (count, count)}


def test_sweep_passes_by_what_somebody_holds(
    raise_alert: RaiseAlert, services: Services, clock: FrozenClock, sql: Sql, database_url: str
) -> None:
    held, free = (raise_alert(device_id=make_device())["alert_id"] for _ in range(2))
    clock.advance(6 * MINUTE)
    somebody = psycopg2.connect(database_url)
    with somebody, somebody.cursor() as cursor:
        cursor.execute("SELECT FROM alert_slas WHERE alert_id = %s FOR UPDATE", (held,))
        assert services.sla.run_once() == SweepResult(checked=1, tta_breaches=1, ttr_breaches=0)
        assert (flags_of(sql, held)[0], flags_of(sql, free)[0]) == (False, True)
    somebody.close()
    assert services.sla.run_once().tta_breaches == 1
    assert flags_of(sql, held)[0]


def test_late_step_during_a_sweep_counts_the_breach_once(
    raise_alert: RaiseAlert, act: Act, clock: FrozenClock, sql: Sql, database_url: str
) -> None:
    alert_id = raise_alert()["alert_id"]
    clock.advance(6 * MINUTE)
    sweeper = psycopg2.connect(database_url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor() as pool:
        with sweeper, sweeper.cursor() as cursor:
            cursor.execute("SELECT set_config('app.now', %s, false)", (clock.now().isoformat(),))
            cursor.execute("SELECT tta_breaches FROM flag_sla_breaches(100)")
            assert cursor.fetchall() == [(1,)]
            late = pool.submit(act, alert_id, "acknowledge")
            assert await_condition(lambda: sql(waiting) == [(1,)], PATIENCE_SECONDS)
        assert late.result(PATIENCE_SECONDS).status_code == 200
    sweeper.close()
    assert flags_of(sql, alert_id) == (True, False, T0 + 30 * MINUTE)
    assert tallied_breaches(sql) == {"critical": (1, 0)}


# --- what people do to the clocks


def test_acknowledging_late_flags_the_breach_before_any_sweep(
    raise_alert: RaiseAlert, act: Act, services: Services, clock: FrozenClock, sql: Sql
) -> None:
    in_time, late = (raise_alert(device_id=make_device())["alert_id"] for _ in range(2))
    clock.advance(5 * MINUTE)
    sla = act(in_time, "acknowledge").json["sla"]
    assert (sla["actual_tta"], sla["tta_breached"]) == (5.0, False)
    clock.advance(timedelta(seconds=30))
    sla = act(late, "acknowledge").json["sla"]
    assert (sla["actual_tta"], sla["tta_breached"], sla["ttr_breached"]) == (5.5, True, False)
    assert sla["acknowledged_at"] == "2026-03-02T08:05:30+00:00"
    assert (flags_of(sql, in_time)[0], flags_of(sql, late)[0]) == (False, True)
    assert services.sla.run_once() == NOTHING
    assert tallied_breaches(sql) == {"critical": (1, 0)}


def test_resolving_late_flags_both_clocks_before_any_sweep(
    raise_alert: RaiseAlert, services: Services, clock: FrozenClock, sql: Sql
) -> None:
    in_time, late = (raise_alert(device_id=make_device(), severity="high")["alert_id"] for _ in range(2))
    clock.advance(120 * MINUTE)
    resolve(services, in_time, advance=True)
    clock.advance(MICROSECOND)
    resolve(services, late, advance=True)
    assert flags_of(sql, in_time) == (True, False, None)
    assert flags_of(sql, late) == (True, True, None)
    assert services.sla.run_once() == NOTHING
    assert tallied_breaches(sql) == {"high": (2, 1)}


def test_resolution_without_acknowledgement_stops_both_clocks(
    raise_alert: RaiseAlert,
    services: Services,
    clock: FrozenClock,
    read_sla: Callable[[str], dict[str, Any]],
) -> None:
    recovered, advanced = (raise_alert(device_id=make_device())["alert_id"] for _ in range(2))
    clock.advance(timedelta(minutes=4, seconds=15))
    resolve(services, recovered, GATEWAY)
    resolve(services, advanced, PERSON, advance=True)
    clock.advance(timedelta(days=1))
    assert services.sla.run_once() == NOTHING
    for alert_id in (recovered, advanced):
        sla = read_sla(alert_id)
        assert (sla["actual_tta"], sla["actual_ttr"]) == (4.25, 4.25)
        assert (sla["tta_breached"], sla["ttr_breached"]) == (False, False)
        # Nobody acknowledged in person.
        assert (sla["acknowledged_at"], sla["resolved_at"]) == (None, "2026-03-02T08:04:15+00:00")


def test_alert_is_at_risk_from_three_quarters_to_its_end(
    raise_alert: RaiseAlert, act: Act, clock: FrozenClock, read_sla: Callable[[str], dict[str, Any]]
) -> None:
    alert_id = raise_alert()["alert_id"]

    def look(minutes: float) -> tuple[bool, bool, bool, bool]:
        clock.advance(T0 + minutes * MINUTE - clock.now())
        sla = read_sla(alert_id)
        return sla["tta_at_risk"], sla["tta_breached"], sla["ttr_at_risk"], sla["ttr_breached"]

    assert look(3.74) == (False, False, False, False)
    assert look(3.75) == (True, False, False, False)
    assert look(5) == (True, False, False, False)
    assert look(5.01) == (False, True, False, False)
    assert look(22.49) == (False, True, False, False)
    assert look(22.5) == (False, True, True, False)
    act(alert_id, "acknowledge")
    assert look(30) == (False, True, True, False)
    assert look(30.01) == (False, True, False, True)
    act(alert_id, "resolve", advance=True)
    assert look(40) == (False, True, False, True)


def test_clocks_start_when_the_alert_is_recorded_not_when_it_occurred(
    raise_alert: RaiseAlert, read_sla: Callable[[str], dict[str, Any]]
) -> None:
    late_upload = raise_alert(occurred_at=(T0 - timedelta(hours=3)).isoformat())
    sla = read_sla(late_upload["alert_id"])
    assert (sla["tta_due_at"], sla["tta_breached"]) == ("2026-03-02T08:05:00+00:00", False)


# --- compliance


def test_mean_time_to_acknowledge_knows_explicit_acknowledgements_only(
    raise_alert: RaiseAlert, act: Act, services: Services, clock: FrozenClock, read_compliance: Any
) -> None:
    acknowledged, advanced, recovered = (raise_alert(device_id=make_device())["alert_id"] for _ in range(3))
    clock.advance(2 * MINUTE)
    act(acknowledged, "acknowledge")
    clock.advance(2 * MINUTE)
    resolve(services, advanced, advance=True)
    resolve(services, recovered, GATEWAY)
    row = read_compliance(T0, T0 + MINUTE)["critical"]
    assert row["mtta"] == {"mean": 2.0, "p50": 2.0, "p90": 2.0, "p95": 2.0}
    assert row["mttr"] == {"mean": 4.0, "p50": 4.0, "p90": 4.0, "p95": 4.0}
    assert row["tta"] == {"eligible": 3, "met": 3, "breached": 0, "open_past_due": 0, "compliance_pct": 100.0}


def test_duplicates_are_flagged_but_not_counted(
    raise_alert: RaiseAlert, act: Act, services: Services, clock: FrozenClock, read_compliance: Any, sql: Sql
) -> None:
    original, duplicate = raise_alert(), raise_alert()
    clock.advance(6 * MINUTE)
    swept = services.sla.run_once()
    assert (swept.checked, swept.tta_breaches) == (2, 1)
    assert flags_of(sql, duplicate["alert_id"])[0]
    act(original["alert_id"], "resolve", advance=True)
    late = raise_alert(message="other")["alert_id"]
    raise_alert(message="other")
    clock.advance(8 * MINUTE)
    act(late, "acknowledge")  # late, with its duplicate, before any sweep
    assert tallied_breaches(sql) == {"critical": (2, 0)}
    row = read_compliance(T0, T0 + timedelta(hours=1))["critical"]
    assert row["tta"] == {"eligible": 2, "met": 0, "breached": 2, "open_past_due": 0, "compliance_pct": 0.0}
    assert row["mtta"]["mean"] == 8.0
    assert row["ttr"]["eligible"] == 1


def test_nothing_counted_is_null(raise_alert: RaiseAlert, read_compliance: Any) -> None:
    raise_alert(severity="low")
    report = read_compliance(T0, T0 + MINUTE)
    assert list(report) == list(SEVERITIES)
    nothing = {"eligible": 0, "met": 0, "breached": 0, "open_past_due": 0, "compliance_pct": None}
    never = {"mean": None, "p50": None, "p90": None, "p95": None}
    for severity in SEVERITIES:  # that of the one alert still runs within its time: neither met nor breached
        assert report[severity] == {"severity": severity, "tta": nothing, "ttr": nothing, "mtta": never, "mttr": never}


def test_range_includes_its_start_and_excludes_its_end(
    raise_alert: RaiseAlert, services: Services, clock: FrozenClock, read_compliance: Any
) -> None:
    for _ in range(3):
        resolve(services, raise_alert(device_id=make_device())["alert_id"], GATEWAY)
        clock.advance(MINUTE)

    def count(start: datetime, end: datetime) -> int:
        return int(read_compliance(start, end)["critical"]["ttr"]["eligible"])

    assert count(T0, T0 + 2 * MINUTE) == 2
    assert count(T0, T0 + 2 * MINUTE + MICROSECOND) == 3
    assert count(T0 + MICROSECOND, T0 + 3 * MINUTE) == 2
    assert count(T0 + MINUTE, T0 + MINUTE) == 0


def test_compliance_of_one_severity(raise_alert: RaiseAlert, clock: FrozenClock, read_compliance: Any) -> None:
    raise_alert()
    raise_alert(severity="high")
    clock.advance(6 * MINUTE)
    report = read_compliance(T0, T0 + MINUTE, severity="critical")
    assert list(report) == ["critical"]
    # Past due counts as breached at once, whether or not a sweep has been by.
    assert report["critical"]["tta"] == {
        "eligible": 1,
        "met": 0,
        "breached": 1,
        "open_past_due": 1,
        "compliance_pct": 0.0,
    }


@dataclass(frozen=True)
class Life:
    """What happens to one alert: seconds since it was raised, None for never."""

    severity: str
    acknowledged: int | None
    resolved: int | None
    by_system: bool
    duplicates: int


@st.composite
def lives(draw: st.DrawFn) -> Life:
    # Short and long targets mixed with offsets around them; whole seconds, some exactly on due.
    severity = draw(st.sampled_from(["critical", "high", "medium"]))
    tta, ttr = TARGETS[severity]
    offset = st.one_of(st.sampled_from([tta * 60, tta * 60 + 1, ttr * 60, ttr * 60 + 1]), st.integers(0, ttr * 90))
    acknowledged = draw(st.none() | offset)
    resolved = draw(st.none() | offset.filter(lambda at: acknowledged is None or at >= acknowledged))
    return Life(severity, acknowledged, resolved, draw(st.booleans()), draw(st.integers(0, 1)))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie, interpolated between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def expect_durations(seconds: Sequence[int]) -> dict[str, Any]:
    minutes = [value / 60 for value in seconds]
    if not minutes:
        return {"mean": None, "p50": None, "p90": None, "p95": None}
    shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95}
    return {
        "mean": pytest.approx(fmean(minutes)),
        **{name: pytest.approx(percentile(minutes, share)) for name, share in shares.items()},
    }


def expect_clock(stops: Sequence[int | None], due: int, elapsed: int) -> dict[str, Any]:
    """Count clocks that stopped at ``stops`` seconds, or run for ``elapsed`` seconds, against ``due`` seconds."""
    met = sum(stop is not None and stop <= due for stop in stops)
    late = sum(stop is not None and stop > due for stop in stops)
    past_due = sum(stop is None and elapsed > due for stop in stops)
    eligible = met + late + past_due
    return {
        "eligible": eligible,
        "met": met,
        "breached": late + past_due,
        "open_past_due": past_due,
        "compliance_pct": pytest.approx(100 * met / eligible) if eligible else None,
    }


@settings(max_examples=30)
@given(
    plan=st.lists(lives(), min_size=1, max_size=8),
    sweeps=st.lists(st.integers(0, 40_000), max_size=3),
    wait=st.integers(0, 40_000),
)
def test_compliance_of_any_lives(
    plan: list[Life],
    sweeps: list[int],
    wait: int,
    services: Services,
    clock: FrozenClock,
    raise_alert: RaiseAlert,
    read_compliance: Any,
) -> None:
    clock.advance(timedelta(days=3))
    start = clock.now()
    move = services.lifecycle.transition
    events: list[tuple[int, Callable[[], object]]] = [(at, services.sla.run_once) for at in sweeps]
    for life in plan:
        device = make_device()
        alert_id = int(raise_alert(device_id=device, severity=life.severity)["alert_id"])
        for _ in range(life.duplicates):
            raise_alert(device_id=device, severity=life.severity)
        if life.acknowledged is not None:
            events.append((life.acknowledged, partial(move, alert_id, Transition("acknowledged"), PERSON)))
        if life.resolved is not None:
            done = Transition("resolved", advance=not life.by_system)
            events.append((life.resolved, partial(move, alert_id, done, GATEWAY if life.by_system else PERSON)))
    for at, happen in sorted(events, key=lambda event: event[0]):
        clock.advance(start + timedelta(seconds=at) - clock.now())
        happen()
    elapsed = max([wait, *(at for at, _ in events)])
    clock.advance(start + timedelta(seconds=elapsed) - clock.now())

    report = read_compliance(start, start + MICROSECOND)
    for severity, (tta, ttr) in TARGETS.items():
        of_it = [life for life in plan if life.severity == severity]
        stops = [life.resolved if life.acknowledged is None else life.acknowledged for life in of_it]
        resolutions = [life.resolved for life in of_it]
        assert report[severity] == {
            "severity": severity,
            "tta": expect_clock(stops, tta * 60, elapsed),
            "ttr": expect_clock(resolutions, ttr * 60, elapsed),
            "mtta": expect_durations([life.acknowledged for life in of_it if life.acknowledged is not None]),
            "mttr": expect_durations([at for at in resolutions if at is not None]),
        }


def test_batch_and_single_alerts_have_the_same_clocks(
    client: FlaskClient, headers: Headers, raise_alert: RaiseAlert, sql: Sql
) -> None:
    raise_alert(device_id=DEVICE)
    answer = client.post(
        "/api/v1/alerts/batch", json={"alerts": [make_report(device_id=make_device())]}, headers=headers("device")
    )
    assert answer.status_code == 201
    columns = "severity, is_duplicate, started_at, target_tta, target_ttr, tta_due_at, ttr_due_at, next_due_at"
    single, batched = sql(f"SELECT {columns} FROM alert_slas ORDER BY alert_id")
    assert single == batched == ("critical", False, T0, 5, 30, T0 + 5 * MINUTE, T0 + 30 * MINUTE, T0 + 5 * MINUTE)
