"""Grouping against the model: whatever arrives in whatever order and way, the database comes to the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg2
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from alert_state_machine import Actor, Transition
from alert_store import AlertReport
from foundation.clock import FrozenClock
from foundation.errors import IllegalTransition
from tests.conftest import START
from tests.factories import make_device
from tests.grouping_model import ACTIONS, Arrival, GroupingModel
from wiring import Services

Sql = Callable[..., list[tuple[Any, ...]]]
Headers = Callable[..., dict[str, str]]

WINDOW = timedelta(seconds=300)
METRICS = ("", "temperature")
MESSAGES = ("too hot", "too cold", "x" * 2000)

# Half windows, and a microsecond to either side of them: where joining and beginning anew meet.
times = st.builds(
    lambda halves, nudge: START + halves * WINDOW / 2 + timedelta(microseconds=nudge),
    st.integers(-6, 1),
    st.sampled_from((-1, 0, 0, 0, 1)),
)
any_times = times | st.timedeltas(timedelta(minutes=-30), timedelta(minutes=5)).map(lambda offset: START + offset)


@dataclass(frozen=True)
class Draft:
    """A report whose device is known only when the example runs: every example has devices of its own."""

    device: int
    severity: str
    message: str
    occurred_at: datetime
    metric: str
    key_class: str | None = None

    def arrive(self, devices: Sequence[str]) -> Arrival:
        """Return the arrival for the model."""
        return Arrival(devices[self.device], self.severity, self.message, self.occurred_at, self.metric, self.key_class)


drafts = st.builds(
    Draft,
    device=st.integers(0, 1),
    severity=st.sampled_from(("high", "low")),
    message=st.sampled_from(MESSAGES),
    occurred_at=any_times,
    metric=st.sampled_from(METRICS),
)
classed_drafts = st.builds(replace, drafts, key_class=st.sampled_from((None, "ml")))
few_key_drafts = st.builds(replace, classed_drafts, device=st.just(0), metric=st.just(""))


@dataclass
class Reporter:
    """The ways by which a report comes into the database."""

    client: FlaskClient
    headers: dict[str, str]
    services: Services
    sql: Sql

    def raise_over_rest(self, arrival: Arrival) -> list[int]:
        response = self.client.post("/api/v1/alerts", json=as_body(arrival), headers=self.headers)
        assert response.status_code == 201, response.json
        return [int(response.json["alert_id"])]  # type: ignore[index]  # a test response always has JSON here

    def raise_batch_over_rest(self, arrivals: Iterable[Arrival]) -> list[int]:
        body = {"alerts": [as_body(arrival) for arrival in arrivals]}
        response = self.client.post("/api/v1/alerts/batch", json=body, headers=self.headers)
        assert response.status_code == 201, response.json
        return [int(row["alert_id"]) for row in response.json["data"]]  # type: ignore[index]  # as above

    def raise_in_domain(self, arrival: Arrival) -> list[int]:
        raised = self.services.lifecycle.raise_alert(as_report(arrival), Actor("device"))
        return [int(raised.answers[0]["alert_id"])]

    def raise_batch_in_domain(self, arrivals: Iterable[Arrival]) -> list[int]:
        raised = self.services.lifecycle.raise_alerts([as_report(arrival) for arrival in arrivals], Actor("device"))
        return [int(row["alert_id"]) for row in raised.answers]

    def insert_plainly(self, arrivals: Sequence[Arrival]) -> list[int]:
        """Insert all arrivals with one plain statement."""
        places = ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(arrivals))
        values: list[Any] = []
        for a in arrivals:
            values += [a.device_id, a.severity, a.message, a.metric, a.occurred_at, a.key_class]
        rows = self.sql(
            "INSERT INTO alerts (device_id, severity, message, metric, occurred_at, key_class)"
            f" VALUES {places} RETURNING id",
            *values,
        )
        return [identifier for (identifier,) in rows]

    def raise_all(self, way: str, arrivals: Sequence[Arrival]) -> list[int]:
        """Raise the arrivals in order by one of ``WAYS``; return their ids."""
        if way == "REST batch":
            return self.raise_batch_over_rest(arrivals)
        if way == "domain batch":
            return self.raise_batch_in_domain(arrivals)
        if way == "one INSERT":
            return self.insert_plainly(arrivals)
        single: Callable[[Arrival], list[int]] = {
            "REST": self.raise_over_rest,
            "domain": self.raise_in_domain,
            "INSERT": lambda arrival: self.insert_plainly([arrival]),
        }[way]
        return [identifier for arrival in arrivals for identifier in single(arrival)]


# Over REST there are no classes: every class is the severity.
REST_WAYS = ("REST", "REST batch")
DEEP_WAYS = ("domain", "domain batch", "INSERT", "one INSERT")


def as_body(arrival: Arrival) -> dict[str, Any]:
    """Return the arrival as the body of a request."""
    return {
        "device_id": arrival.device_id,
        "severity": arrival.severity,
        "message": arrival.message,
        "metric": arrival.metric,
        "occurred_at": arrival.occurred_at.isoformat(),
    }


def as_report(arrival: Arrival) -> AlertReport:
    """Return the arrival as the domain takes it."""
    return AlertReport(
        arrival.device_id,
        arrival.severity,
        arrival.message,
        {},
        metric=arrival.metric,
        occurred_at=arrival.occurred_at,
        key_class=arrival.key_class,
    )


@pytest.fixture
def reporter(client: FlaskClient, headers: Headers, services: Services, sql: Sql, clock: FrozenClock) -> Reporter:
    sql("SELECT set_config('app.now', %s, false)", clock.now().isoformat())
    return Reporter(client, headers("device"), services, sql)


@dataclass
class Seen:
    """The database's alerts and groups, numbered like the model's."""

    alerts: list[tuple[int, str, int | None]] = field(default_factory=list)
    groups: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    history: list[list[str]] = field(default_factory=list)


def read_database(sql: Sql, ids: Sequence[int]) -> Seen:
    """Return what the database has of these alerts; ``ids`` in the order of their arrival."""
    rows = sql(
        "SELECT a.id, a.group_id, a.state::text, a.duplicate_of,"
        " ARRAY(SELECT s.state::text FROM alert_states AS s WHERE s.alert_id = a.id ORDER BY s.id)"
        " FROM alerts AS a WHERE a.id = ANY (%s)",
        list(ids),
    )
    by_id = {row[0]: row[1:] for row in rows}
    numbers = {identifier: number for number, identifier in enumerate(ids)}
    group_numbers: dict[int, int] = {}
    seen = Seen()
    for identifier in ids:
        group_id, state, duplicate_of, history = by_id[identifier]
        group = group_numbers.setdefault(group_id, len(group_numbers))
        seen.alerts.append((group, state, None if duplicate_of is None else numbers[duplicate_of]))
        seen.history.append(history)
    for row in sql(
        "SELECT id, device_id::text, metric, key_class, severity::text, status::text, occurrence_count, open_alerts,"
        " first_occurrence_at, last_occurrence_at FROM alert_groups WHERE id = ANY (%s)",
        list(group_numbers),
    ):
        seen.groups[group_numbers[row[0]]] = row[1:]
    return seen


def read_model(model: GroupingModel) -> Seen:
    """Return what the model has, in the same form; its history is checked apart."""
    order: dict[int, int] = {}
    for alert in model.alerts:
        order.setdefault(alert.group, len(order))
    seen = Seen([(order[alert.group], alert.state, alert.duplicate_of) for alert in model.alerts])
    for number, place in order.items():
        group = model.groups[number]
        seen.groups[place] = (
            *group.key,
            group.severity,
            "active" if group.is_active else "closed",
            len(group.alerts),
            len(group.open_alerts),
            group.first_at,
            group.last_at,
        )
    return seen


def check_against_model(sql: Sql, model: GroupingModel, ids: Sequence[int]) -> None:
    """Compare alerts and groups with the model, and the history with the states."""
    found, expected = read_database(sql, ids), read_model(model)
    assert found.alerts == expected.alerts
    assert found.groups == expected.groups
    assert [history[-1] for history in found.history] == [state for _, state, _ in expected.alerts]


def check_totals(sql: Sql) -> None:
    """Compare the running totals with what a count of the tables gives."""
    counted = sql(
        "SELECT (SELECT count(*) FROM alert_groups), (SELECT count(*) FROM alert_groups WHERE status = 'active'),"
        " (SELECT count(*) FROM alerts), (SELECT max(occurrence_count) FROM alert_groups)"
    )
    assert counted == sql(
        "SELECT total_groups, active_groups, total_alerts, max_alerts_in_group FROM v_alert_group_stats"
    )
    by_class = "SELECT severity::text, state::text, count(*) FROM alerts GROUP BY severity, state ORDER BY 1, 2"
    assert sql(by_class) == sql(
        "SELECT severity::text, state::text, alerts FROM v_tallies"
        " WHERE state IS NOT NULL AND alerts <> 0 ORDER BY severity::text, state::text"
    )


def run_through_model(arrivals: Iterable[Arrival]) -> GroupingModel:
    """Return the model after these arrivals."""
    model = GroupingModel(WINDOW)
    for arrival in arrivals:
        model.raise_alert(arrival)
    return model


@pytest.mark.parametrize("way", REST_WAYS)
def test_reports_over_rest_come_to_what_the_model_says(reporter: Reporter, way: str) -> None:
    @settings(max_examples=25)
    @given(st.lists(drafts, min_size=1, max_size=12))
    def check(reports: list[Draft]) -> None:
        devices = [make_device(), make_device()]
        arrivals = [report.arrive(devices) for report in reports]
        ids = reporter.raise_all(way, arrivals)
        check_against_model(reporter.sql, run_through_model(arrivals), ids)

    check()
    check_totals(reporter.sql)


@pytest.mark.parametrize("way", DEEP_WAYS)
def test_reports_below_rest_come_to_what_the_model_says(reporter: Reporter, way: str) -> None:
    @settings(max_examples=40)
    @given(st.lists(few_key_drafts, min_size=1, max_size=14))
    def check(reports: list[Draft]) -> None:
        devices = [make_device(), make_device()]
        arrivals = [report.arrive(devices) for report in reports]
        ids = reporter.raise_all(way, arrivals)
        check_against_model(reporter.sql, run_through_model(arrivals), ids)

    check()
    check_totals(reporter.sql)


def test_a_batch_equals_the_same_reports_one_by_one(reporter: Reporter) -> None:
    bodies = st.fixed_dictionaries(
        {
            "severity": st.sampled_from(("critical", "info")),
            "message": st.sampled_from(MESSAGES),
            "occurred_at": any_times,
        },
        optional={
            "metric": st.sampled_from(("", "temperature", "5", ":info")),
            "metadata": st.sampled_from(
                ({}, {"metric": "temperature"}, {"metric": ""}, {"metric": 5}, {"metric": None})
            ),
            "source": st.sampled_from(("", "plc")),
            "escalate": st.booleans(),
        },
    )

    def describe(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        ids = [int(row["alert_id"]) for row in rows]
        stored = reporter.sql(
            "SELECT severity::text, message, metric, key_class, source, escalate, metadata, occurred_at, created_at,"
            " reported_by FROM alerts WHERE id = ANY (%s) ORDER BY id",
            ids,
        )
        clocks = reporter.sql(
            "SELECT is_duplicate, target_tta, tta_due_at, ttr_due_at, next_due_at, acknowledged_at, actual_tta"
            " FROM alert_slas WHERE alert_id = ANY (%s) ORDER BY alert_id",
            ids,
        )
        seen = read_database(reporter.sql, ids)
        groups = {number: group[1:] for number, group in seen.groups.items()}  # without the device
        passed_on = ("severity", "message", "metric", "metadata", "state", "sla_targets", "is_duplicate", "created_at")
        answers = [[row[name] for name in passed_on] for row in rows]
        return [stored, clocks, seen.alerts, groups, seen.history, answers]

    @settings(max_examples=40)
    @given(st.lists(bodies, min_size=1, max_size=10))
    def check(reports: list[dict[str, Any]]) -> None:
        described = []
        for is_batch in (False, True):
            device = make_device()
            sent = [{**r, "device_id": device, "occurred_at": r["occurred_at"].isoformat()} for r in reports]
            if is_batch:
                answer: Any = reporter.client.post(
                    "/api/v1/alerts/batch", json={"alerts": sent}, headers=reporter.headers
                ).json
                rows = answer["data"]
            else:
                rows = [
                    reporter.client.post("/api/v1/alerts", json=body, headers=reporter.headers).json for body in sent
                ]
            described.append(describe(rows))
        assert described[0] == described[1]

    check()
    check_totals(reporter.sql)


class LifecycleMachine(RuleBasedStateMachine):
    """Reports and actions in any order; after each the database must look like the model."""

    alerts: Bundle[int] = Bundle("alerts")

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self.reporter = reporter
        self.devices = [make_device(), make_device()]
        self.model = GroupingModel(WINDOW)
        self.ids: list[int] = []

    @rule(target=alerts, report=few_key_drafts, way=st.sampled_from(DEEP_WAYS))
    def report(self, report: Draft, way: str) -> int:
        arrival = report.arrive(self.devices)
        self.ids += self.reporter.raise_all(way, [arrival])
        return self.model.raise_alert(arrival).number

    @rule(target=alerts, report=drafts)
    def report_over_rest(self, report: Draft) -> int:
        arrival = report.arrive(self.devices)
        self.ids += self.reporter.raise_over_rest(arrival)
        return self.model.raise_alert(arrival).number

    @rule(
        target=alerts,
        reports=st.lists(few_key_drafts, min_size=2, max_size=6),
        way=st.sampled_from(("domain batch", "one INSERT")),
    )
    def report_together(self, reports: list[Draft], way: str) -> Any:
        arrivals = [report.arrive(self.devices) for report in reports]
        self.ids += self.reporter.raise_all(way, arrivals)
        return multiple(*[self.model.raise_alert(arrival).number for arrival in arrivals])

    @rule(target=alerts, reports=st.lists(drafts, min_size=2, max_size=4))
    def report_a_batch_over_rest(self, reports: list[Draft]) -> Any:
        arrivals = [report.arrive(self.devices) for report in reports]
        self.ids += self.reporter.raise_batch_over_rest(arrivals)
        return multiple(*[self.model.raise_alert(arrival).number for arrival in arrivals])

    @rule(alert=alerts, action=st.sampled_from(tuple(ACTIONS)), advance=st.booleans(), is_system=st.booleans())
    def act(self, alert: int, action: str, advance: bool, is_system: bool) -> None:
        actor = Actor("somebody", "system" if is_system else "user")
        transition = Transition(ACTIONS[action], advance=advance)
        is_legal = self.model.act(alert, action, advance=advance, is_system=is_system)
        if is_legal:
            row = self.reporter.services.lifecycle.transition(self.ids[alert], transition, actor)
            assert row["state"] == ACTIONS[action]
        else:
            with pytest.raises(IllegalTransition) as caught:
                self.reporter.services.lifecycle.transition(self.ids[alert], transition, actor)
            assert caught.value.current_state == self.model.alerts[alert].state

    @rule(alert=alerts, action=st.sampled_from(tuple(ACTIONS)))
    def act_by_plain_sql(self, alert: int, action: str) -> None:
        statement = "INSERT INTO alert_states (alert_id, state) VALUES (%s, %s)"
        if self.model.act(alert, action):
            self.reporter.sql(statement, self.ids[alert], ACTIONS[action])
        else:
            with pytest.raises(psycopg2.Error) as caught:
                self.reporter.sql(statement, self.ids[alert], ACTIONS[action])
            assert caught.value.pgcode == "AA001"

    @rule(alert=alerts, action=st.sampled_from(tuple(ACTIONS)), advance=st.booleans())
    def act_on_its_group(self, alert: int, action: str, advance: bool) -> None:
        group = self.model.alerts[alert].group
        is_open = {a.number for a in self.model.groups[group].open_alerts}
        moved = self.model.act_on_group(group, action, advance=advance)
        outcome = self.reporter.services.lifecycle.transition_group(
            self._group_id(alert), Transition(ACTIONS[action], advance=advance), Actor("somebody")
        )
        assert set(outcome.changed) == {self.ids[number] for number in moved}
        assert set(outcome.unchanged) == {self.ids[number] for number in is_open - moved}

    @rule(alert=consumes(alerts))
    def close_its_group(self, alert: int) -> None:
        group = self.model.alerts[alert].group
        is_active = self.model.groups[group].is_active
        assert self.reporter.sql("SELECT close_alert_group(%s)", self._group_id(alert)) == [(is_active,)]
        self.model.close_group(group)

    @precondition(lambda self: self.ids)
    @invariant()
    def database_looks_like_the_model(self) -> None:
        check_against_model(self.reporter.sql, self.model, self.ids)

    def _group_id(self, alert: int) -> int:
        ((group_id,),) = self.reporter.sql("SELECT group_id FROM alerts WHERE id = %s", self.ids[alert])
        return int(group_id)


def test_any_sequence_of_reports_and_actions_looks_like_the_model(reporter: Reporter) -> None:
    run_state_machine_as_test(
        lambda: LifecycleMachine(reporter),  # type: ignore[arg-type]  # whatever makes a machine will do
        settings=settings(max_examples=30, stateful_step_count=25),
    )
    check_totals(reporter.sql)
    reporter.services.housekeeping.tallies.run_once()
    check_totals(reporter.sql)
