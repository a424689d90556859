"""The life of an alert: decided purely, recorded over the service, and held by the database against plain SQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise, product
from threading import Barrier
from typing import Any, get_args

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alert_state_machine import (
    ALLOWED_STATES,
    OPEN_STATES,
    RESOLUTIONS,
    STATES,
    Actor,
    ActorKind,
    Step,
    Transition,
    plan_steps,
)
from foundation.clock import FrozenClock
from foundation.errors import IllegalTransition, NotFound, ValidationFailed
from foundation.processes import await_condition
from tests.factories import DEVICE, make_device
from wiring import Services

Sql = Callable[..., list[tuple[Any, ...]]]
RaiseAlert = Callable[..., dict[str, Any]]
Act = Callable[..., Any]

NEW, ACKNOWLEDGED, INVESTIGATING, RESOLVED = STATES
ANA, BEN = Actor("ana"), Actor("ben")
GATEWAY = Actor("gateway", "system")
ACTOR_KINDS: tuple[ActorKind, ...] = get_args(ActorKind)
PATIENCE_SECONDS = 30.0

# Who may go where in one step, and, in brackets, what `advance` walks on the way. Written out, not computed.
PLANS: dict[tuple[ActorKind, bool], dict[tuple[str, str], str]] = {
    ("user", False): {
        (NEW, ACKNOWLEDGED): "acknowledged",
        (ACKNOWLEDGED, INVESTIGATING): "investigating",
        (INVESTIGATING, RESOLVED): "resolved",
    },
    ("user", True): {
        (NEW, ACKNOWLEDGED): "acknowledged",
        (NEW, INVESTIGATING): "(acknowledged) investigating",
        (NEW, RESOLVED): "(acknowledged) (investigating) resolved",
        (ACKNOWLEDGED, INVESTIGATING): "investigating",
        (ACKNOWLEDGED, RESOLVED): "(investigating) resolved",
        (INVESTIGATING, RESOLVED): "resolved",
    },
    ("system", False): {
        (NEW, ACKNOWLEDGED): "acknowledged",
        (NEW, RESOLVED): "resolved",
        (ACKNOWLEDGED, INVESTIGATING): "investigating",
        (ACKNOWLEDGED, RESOLVED): "resolved",
        (INVESTIGATING, RESOLVED): "resolved",
    },
    ("system", True): {
        (NEW, ACKNOWLEDGED): "acknowledged",
        (NEW, INVESTIGATING): "(acknowledged) investigating",
        (NEW, RESOLVED): "resolved",
        (ACKNOWLEDGED, INVESTIGATING): "investigating",
        (ACKNOWLEDGED, RESOLVED): "resolved",
        (INVESTIGATING, RESOLVED): "resolved",
    },
}
WALK_TO = {NEW: "", ACKNOWLEDGED: "acknowledged", INVESTIGATING: "acknowledged investigating"}
WALK_TO[RESOLVED] = f"{WALK_TO[INVESTIGATING]} resolved"

INSERT_STATE = "INSERT INTO alert_states (alert_id, state, changed_by, actor_kind) VALUES (%s, %s, %s, %s)"


def parse_steps(text: str) -> tuple[Step, ...]:
    return tuple(Step(word.strip("()"), implied=word.startswith("(")) for word in text.split())


def error_of(sql: Sql, statement: str, *parameters: Any) -> psycopg2.Error:
    with pytest.raises(psycopg2.Error) as caught:
        sql(statement, *parameters)
    return caught.value


def walk(services: Services, alert_id: str, states: str, actor: Actor = ANA) -> None:
    for state in states.split():
        services.lifecycle.transition(int(alert_id), Transition(state), actor)


def history_of(sql: Sql, alert_id: str) -> list[tuple[str | None, str]]:
    return sql("SELECT previous_state, state FROM alert_states WHERE alert_id = %s ORDER BY id", alert_id)


def state_of(sql: Sql, alert_id: str) -> str:
    return str(sql("SELECT state FROM alerts WHERE id = %s", alert_id)[0][0])


@pytest.fixture
def raise_in_state(raise_alert: RaiseAlert, services: Services) -> Callable[[str], str]:
    """Return a function that raises an alert on a device of its own and walks it to a state."""

    def make(state: str) -> str:
        alert_id: str = raise_alert(device_id=make_device())["alert_id"]
        walk(services, alert_id, WALK_TO[state])
        return alert_id

    return make


@pytest.fixture
def holding(database_url: str) -> Callable[[str], Any]:
    """Return a context that holds the lock of an alert's group, as somebody in the middle of a step does."""

    @contextmanager
    def hold(alert_id: str) -> Iterator[Callable[..., None]]:
        connection = psycopg2.connect(database_url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT g.id FROM alert_groups AS g JOIN alerts AS a ON a.group_id = g.id"
                    " WHERE a.id = %s FOR NO KEY UPDATE OF g",
                    (alert_id,),
                )
                yield lambda statement, *parameters: cursor.execute(statement, parameters)
        finally:
            connection.close()

    return hold


def await_waiting(sql: Sql, sessions: int) -> None:
    """Wait until so many sessions of this database stand before a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    assert await_condition(lambda: sql(waiting) == [(sessions,)], PATIENCE_SECONDS)


# --- decided purely


@pytest.mark.parametrize(("actor_kind", "advance"), PLANS)
@pytest.mark.parametrize("target", STATES)
@pytest.mark.parametrize("current", STATES)
def test_plan_of_every_state_actor_and_advance(current: str, target: str, actor_kind: ActorKind, advance: bool) -> None:
    expected = PLANS[actor_kind, advance].get((current, target))
    if expected is not None:
        assert plan_steps(current, target, actor_kind, advance=advance) == parse_steps(expected)
        return
    with pytest.raises(IllegalTransition) as refused:
        plan_steps(current, target, actor_kind, advance=advance)
    assert refused.value.current_state == current
    assert refused.value.message == f"an alert in state {current} cannot become {target}"
    one_step = PLANS[actor_kind, False]
    assert set(refused.value.allowed) == {goal for start, goal in one_step if start == current}


def test_every_step_of_a_plan_is_itself_allowed() -> None:
    for (actor_kind, advance), plans in PLANS.items():
        for current, target in plans:
            states = [current, *(step.state for step in plan_steps(current, target, actor_kind, advance=advance))]
            assert all(after in ALLOWED_STATES[actor_kind][before] for before, after in pairwise(states))
            assert states[-1] == target


def test_only_the_last_step_of_a_plan_is_taken_in_person() -> None:
    for (actor_kind, advance), plans in PLANS.items():
        for current, target in plans:
            steps = plan_steps(current, target, actor_kind, advance=advance)
            assert [step.implied for step in steps] == [True] * (len(steps) - 1) + [False]


def test_people_act_one_step_at_a_time_unless_told_otherwise() -> None:
    assert plan_steps(NEW, ACKNOWLEDGED) == (Step(ACKNOWLEDGED),)
    with pytest.raises(IllegalTransition):
        plan_steps(NEW, RESOLVED)


# --- the same table in the database


def test_allowed_states_agree_with_the_database(sql: Sql) -> None:
    for kind, state in product(ACTOR_KINDS, STATES):
        (allowed,) = sql("SELECT allowed_alert_states(%s, %s)::text[]", state, kind)[0]
        assert tuple(allowed) == ALLOWED_STATES[kind][state], (kind, state)


def test_vocabulary_agrees_with_the_database(sql: Sql) -> None:
    def values(enum: str) -> tuple[str, ...]:
        return tuple(sql(f"SELECT enum_range(NULL::{enum})::text[]")[0][0])

    assert values("alert_state") == STATES
    assert values("alert_resolution") == RESOLUTIONS
    assert set(values("alert_actor_kind")) == set(ACTOR_KINDS) == set(ALLOWED_STATES)
    assert (*OPEN_STATES, RESOLVED) == STATES


def test_database_takes_exactly_the_allowed_steps(raise_in_state: Callable[[str], str], sql: Sql) -> None:
    for actor_kind, current, target in product(ACTOR_KINDS, STATES, STATES):
        alert_id = raise_in_state(current)
        before = history_of(sql, alert_id)
        if (current, target) in PLANS[actor_kind, False]:
            sql(INSERT_STATE, alert_id, target, "ana", actor_kind)
            assert history_of(sql, alert_id) == [*before, (current, target)]
            assert state_of(sql, alert_id) == target
            continue
        refused = error_of(sql, INSERT_STATE, alert_id, target, "ana", actor_kind)
        assert refused.pgcode == "AA001"
        assert refused.diag.message_primary == f"an alert in state {current} cannot become {target}"
        assert json.loads(refused.diag.message_detail or "") == {
            "current_state": current,
            "allowed": list(ALLOWED_STATES[actor_kind][current]),
        }
        assert history_of(sql, alert_id) == before
        assert state_of(sql, alert_id) == current


def test_steps_are_checked_in_order_within_one_statement(raise_alert: RaiseAlert, sql: Sql) -> None:
    alert_id = raise_alert()["alert_id"]
    sql(
        "INSERT INTO alert_states (alert_id, state) VALUES (%s, 'acknowledged'), (%s, 'investigating')",
        alert_id,
        alert_id,
    )
    assert state_of(sql, alert_id) == INVESTIGATING
    other_id = raise_alert(device_id=make_device())["alert_id"]
    refused = error_of(
        sql, "INSERT INTO alert_states (alert_id, state) VALUES (%s, 'acknowledged'), (%s, 'resolved')", *[other_id] * 2
    )
    assert refused.pgcode == "AA001"
    assert history_of(sql, other_id) == [(None, NEW)]


def test_step_of_an_unknown_alert_is_refused(sql: Sql, services: Services) -> None:
    assert error_of(sql, INSERT_STATE, 4711, ACKNOWLEDGED, "ana", "user").pgcode == "AA003"
    with pytest.raises(NotFound, match="alert 4711 does not exist"):
        services.lifecycle.transition(4711, Transition(ACKNOWLEDGED), ANA)


def test_previous_state_cannot_be_forged(raise_alert: RaiseAlert, sql: Sql) -> None:
    alert_id = raise_alert()["alert_id"]
    sql(
        "INSERT INTO alert_states (alert_id, state, previous_state) VALUES (%s, 'acknowledged', 'investigating')",
        alert_id,
    )
    assert history_of(sql, alert_id)[-1] == (NEW, ACKNOWLEDGED)


def test_record_is_never_rewritten(raise_alert: RaiseAlert, sql: Sql) -> None:
    alert_id = raise_alert()["alert_id"]
    tables = ("alerts", "alert_states", "alert_groups", "alert_slas")
    before = [sql(f"SELECT * FROM {table}") for table in tables]
    for statement in (
        f"UPDATE alerts SET state = 'resolved' WHERE id = {alert_id}",
        f"UPDATE alerts SET state = state WHERE id = {alert_id}",
        f"UPDATE alerts SET group_id = group_id + 1 WHERE id = {alert_id}",
        f"UPDATE alerts SET duplicate_of = id WHERE id = {alert_id}",
        f"UPDATE alert_states SET changed_by = 'nobody' WHERE alert_id = {alert_id}",
        f"DELETE FROM alert_states WHERE alert_id = {alert_id}",
        f"DELETE FROM alerts WHERE id = {alert_id}",
        "DELETE FROM alert_groups",
        "DELETE FROM alert_slas",
    ):
        assert error_of(sql, statement).pgcode == "AA004", statement
        assert [sql(f"SELECT * FROM {table}") for table in tables] == before, statement


def test_record_is_never_emptied(raise_alert: RaiseAlert, sql: Sql) -> None:
    raise_alert()
    for table in ("alerts", "alert_states", "alert_groups", "alert_slas"):
        assert error_of(sql, f"TRUNCATE {table} CASCADE").pgcode == "AA004", table


def test_what_an_alert_was_placed_by_never_changes(raise_alert: RaiseAlert, sql: Sql) -> None:
    """Its group, its duplicates, its clocks and the tallies were decided by these."""
    alert_id = raise_alert()["alert_id"]
    for change in (
        "severity = 'low'",
        "message = 'something else'",
        f"device_id = '{make_device()}'",
        "metric = 'pressure'",
        "key_class = 'ml'",
    ):
        assert error_of(sql, f"UPDATE alerts SET {change} WHERE id = {alert_id}").pgcode == "AA004", change


def test_inserted_alert_begins_as_new_in_its_own_group(raise_alert: RaiseAlert, sql: Sql) -> None:
    other = raise_alert()
    [(alert_id, state, group_id, duplicate_of)] = sql(
        "INSERT INTO alerts (device_id, severity, message, state, group_id, duplicate_of)"
        " VALUES (%s, 'low', 'forged', 'resolved', %s, %s) RETURNING id, state, group_id, duplicate_of",
        make_device(),
        other["group_id"],
        other["alert_id"],
    )
    assert (state, duplicate_of) == (NEW, None)
    assert str(group_id) != other["group_id"]
    assert history_of(sql, alert_id) == [(None, NEW)]


# --- over the service


def test_people_walk_an_alert_to_its_end(raise_alert: RaiseAlert, services: Services, sql: Sql) -> None:
    alert_id = raise_alert()["alert_id"]
    for before, after in pairwise(STATES):
        assert state_of(sql, alert_id) == before
        assert services.lifecycle.transition(int(alert_id), Transition(after), ANA)["state"] == after
    assert history_of(sql, alert_id) == [
        (None, NEW),
        (NEW, ACKNOWLEDGED),
        (ACKNOWLEDGED, INVESTIGATING),
        (INVESTIGATING, RESOLVED),
    ]


def test_illegal_step_changes_nothing(raise_in_state: Callable[[str], str], services: Services, sql: Sql) -> None:
    for current, target in product(STATES, STATES):
        if (current, target) in PLANS["user", False]:
            continue
        alert_id = raise_in_state(current)
        before = services.lifecycle.get_alert(int(alert_id))
        with pytest.raises(IllegalTransition) as refused:
            services.lifecycle.transition(int(alert_id), Transition(target, notes="lost", resolution="fixed"), ANA)
        assert (refused.value.current_state, refused.value.allowed) == (current, ALLOWED_STATES["user"][current])
        assert dict(services.lifecycle.get_alert(int(alert_id))) == dict(before)
        assert len(history_of(sql, alert_id)) == STATES.index(current) + 1


def test_resolved_is_final(raise_in_state: Callable[[str], str], services: Services, sql: Sql) -> None:
    alert_id = raise_in_state(RESOLVED)
    for actor, advance, target in product((ANA, GATEWAY), (False, True), STATES):
        with pytest.raises(IllegalTransition) as refused:
            services.lifecycle.transition(int(alert_id), Transition(target, advance=advance), actor)
        assert (refused.value.current_state, refused.value.allowed) == (RESOLVED, ())
    assert len(history_of(sql, alert_id)) == 4


def test_system_resolves_from_any_open_state(
    raise_in_state: Callable[[str], str], services: Services, sql: Sql
) -> None:
    for current in OPEN_STATES:
        alert_id = raise_in_state(current)
        services.lifecycle.transition(int(alert_id), Transition(RESOLVED, notes="back to normal"), GATEWAY)
        assert history_of(sql, alert_id)[-1] == (current, RESOLVED)
        last = services.lifecycle.list_history(int(alert_id))[-1]
        assert (last["by"], last["notes"], last["implied"]) == ("gateway", "back to normal", False)
        kinds = sql("SELECT actor_kind FROM alert_states WHERE alert_id = %s ORDER BY id", alert_id)
        assert [kind for (kind,) in kinds] == ["system", *["user"] * STATES.index(current), "system"]


def test_people_acting_over_the_api_are_no_system(raise_alert: RaiseAlert, act: Act) -> None:
    refused = act(raise_alert()["alert_id"], "resolve")
    assert refused.status_code == 409
    assert (refused.json["current_state"], refused.json["allowed"]) == (NEW, [ACKNOWLEDGED])


def test_history_keeps_who_when_and_notes(
    raise_alert: RaiseAlert, services: Services, clock: FrozenClock, act: Act, client: Any, headers: Any, sql: Sql
) -> None:
    [(user_id,)] = sql("INSERT INTO users (email, name, role) VALUES ('b@example.com', 'B', 'engineer') RETURNING id")
    alert_id = raise_alert()["alert_id"]
    clock.advance(timedelta(minutes=2, microseconds=7))
    services.lifecycle.transition(int(alert_id), Transition(ACKNOWLEDGED, notes="mine"), ANA)
    clock.advance(timedelta(minutes=1))
    services.lifecycle.add_note(int(alert_id), "spare pump is in store 3", BEN)
    clock.advance(timedelta(minutes=1))
    services.lifecycle.transition(int(alert_id), Transition(INVESTIGATING, assign_to_user_id=user_id), BEN)
    clock.advance(timedelta(minutes=1))
    assert act(alert_id, "resolve", notes="pump replaced", resolution="fixed").status_code == 200

    answer = client.get(f"/api/v1/alerts/{alert_id}/history", headers=headers("viewer")).json
    assert answer["alert_id"] == alert_id
    names = ("kind", "created_at", "by", "previous_state", "state", "notes", "resolution", "assigned_to_user_id")
    assert [tuple(entry[name] for name in names) for entry in answer["data"]] == [
        ("state", "2026-03-02T08:00:00+00:00", "tester", None, NEW, None, None, None),
        ("state", "2026-03-02T08:02:00.000007+00:00", "ana", NEW, ACKNOWLEDGED, "mine", None, None),
        ("note", "2026-03-02T08:03:00.000007+00:00", "ben", None, None, "spare pump is in store 3", None, None),
        ("state", "2026-03-02T08:04:00.000007+00:00", "ben", ACKNOWLEDGED, INVESTIGATING, None, None, str(user_id)),
        (
            "state",
            "2026-03-02T08:05:00.000007+00:00",
            "tester",
            INVESTIGATING,
            RESOLVED,
            "pump replaced",
            "fixed",
            None,
        ),
    ]
    assert [entry["implied"] for entry in answer["data"]] == [False, False, None, False, False]
    alert = services.lifecycle.get_alert(int(alert_id))
    assert (alert["resolution"], alert["assigned_to_user_id"]) == ("fixed", user_id)


def test_advance_records_each_step(raise_in_state: Callable[[str], str], services: Services, sql: Sql) -> None:
    transition = Transition(RESOLVED, notes="already fixed", resolution="no_action", advance=True)
    for current in OPEN_STATES:
        alert_id = raise_in_state(current)
        assert services.lifecycle.transition(int(alert_id), transition, BEN)["state"] == RESOLVED
        rows = sql(
            "SELECT previous_state, state, changed_by, implied, notes, resolution FROM alert_states"
            " WHERE alert_id = %s ORDER BY id",
            alert_id,
        )[STATES.index(current) + 1 :]
        walked = list(pairwise(STATES[STATES.index(current) :]))
        assert [(before, after) for before, after, *_ in rows] == walked
        assert [row[2:] for row in rows[:-1]] == [("ben", True, None, None)] * (len(walked) - 1)
        assert rows[-1][2:] == ("ben", False, "already fixed", "no_action")


def test_unknown_assignee_leaves_the_alert_alone(raise_alert: RaiseAlert, services: Services, sql: Sql) -> None:
    alert_id = raise_alert()["alert_id"]
    walk(services, alert_id, "acknowledged")
    with pytest.raises(ValidationFailed, match="assign_to_user_id"):
        services.lifecycle.transition(int(alert_id), Transition(INVESTIGATING, assign_to_user_id=4711), ANA)
    assert state_of(sql, alert_id) == ACKNOWLEDGED


# --- duplicates


def test_duplicates_follow_their_original(raise_alert: RaiseAlert, services: Services, sql: Sql) -> None:
    original, *duplicates = (raise_alert() for _ in range(3))
    other = raise_alert(message="Pressure lost")
    assert [d["duplicate_of"] for d in duplicates] == [original["alert_id"]] * 2
    for target in (ACKNOWLEDGED, INVESTIGATING, RESOLVED):
        services.lifecycle.transition(int(original["alert_id"]), Transition(target, notes=f"to {target}"), BEN)
        for alert in (original, *duplicates):
            assert state_of(sql, alert["alert_id"]) == target
            last = services.lifecycle.list_history(int(alert["alert_id"]))[-1]
            assert (last["state"], last["by"], last["notes"]) == (target, "ben", f"to {target}")
    assert history_of(sql, duplicates[0]["alert_id"]) == history_of(sql, original["alert_id"])
    assert state_of(sql, other["alert_id"]) == NEW


def test_step_of_a_duplicate_is_a_step_of_its_original(raise_alert: RaiseAlert, act: Act, sql: Sql) -> None:
    original, duplicate, sibling = (raise_alert()["alert_id"] for _ in range(3))
    answer = act(duplicate, "acknowledge", notes="seen on the panel")
    assert answer.status_code == 200
    assert (answer.json["alert_id"], answer.json["state"]) == (duplicate, ACKNOWLEDGED)
    assert {state_of(sql, alert_id) for alert_id in (original, duplicate, sibling)} == {ACKNOWLEDGED}
    assert [len(history_of(sql, alert_id)) for alert_id in (original, duplicate, sibling)] == [2, 2, 2]
    assert act(original, "acknowledge").status_code == 409


def test_duplicate_takes_over_the_state_it_finds(raise_alert: RaiseAlert, act: Act, sql: Sql) -> None:
    original = raise_alert()["alert_id"]
    for action, state in (("acknowledge", ACKNOWLEDGED), ("investigate", INVESTIGATING)):
        assert act(original, action).status_code == 200
        late = raise_alert()
        assert (late["state"], late["duplicate_of"]) == (state, original)
        assert history_of(sql, late["alert_id"]) == [(None, state)]
    assert act(original, "resolve").status_code == 200
    assert state_of(sql, late["alert_id"]) == RESOLVED
    fresh = raise_alert()
    assert (fresh["state"], fresh["is_duplicate"]) == (NEW, False)


def test_duplicate_that_arrives_during_a_step_follows_it(raise_alert: RaiseAlert, sql: Sql, holding: Any) -> None:
    original = raise_alert()["alert_id"]
    with ThreadPoolExecutor() as pool:
        with holding(original) as execute:
            arriving = pool.submit(raise_alert)
            await_waiting(sql, 1)
            execute(INSERT_STATE, original, ACKNOWLEDGED, "ana", "user")
        late = arriving.result(PATIENCE_SECONDS)
    assert (late["state"], late["duplicate_of"]) == (ACKNOWLEDGED, original)


# --- groups


def test_group_action_moves_what_can_take_the_step(raise_alert: RaiseAlert, act: Act, sql: Sql) -> None:
    first, second, third = (raise_alert(message=f"fault {number}") for number in range(3))
    duplicate = raise_alert(message="fault 0")
    elsewhere = raise_alert(device_id=make_device())
    assert act(second["alert_id"], "acknowledge").status_code == 200
    assert act(third["alert_id"], "resolve", advance=True).status_code == 200

    done = act(first["group_id"], "acknowledge", kind="groups", notes="all mine")
    assert done.status_code == 200
    assert done.json["changed"] == [
        {"alert_id": alert["alert_id"], "previous_state": NEW, "state": ACKNOWLEDGED} for alert in (first, duplicate)
    ]
    assert [(left["alert_id"], left["state"]) for left in done.json["unchanged"]] == [
        (second["alert_id"], ACKNOWLEDGED)
    ]
    assert ACKNOWLEDGED in done.json["unchanged"][0]["reason"]
    assert (done.json["group"]["open_alerts"], done.json["group"]["status"]) == (3, "active")
    assert state_of(sql, elsewhere["alert_id"]) == NEW
    notes = sql("SELECT notes FROM alert_states WHERE alert_id = %s ORDER BY id DESC LIMIT 1", duplicate["alert_id"])
    assert notes == [("all mine",)]


def test_group_resolution_closes_the_group(raise_alert: RaiseAlert, act: Act, sql: Sql) -> None:
    alerts = [raise_alert(message=f"fault {number % 3}") for number in range(5)]
    assert act(alerts[1]["alert_id"], "acknowledge").status_code == 200
    group_id = alerts[0]["group_id"]

    refused = act(group_id, "resolve", kind="groups").json
    assert (refused["changed"], len(refused["unchanged"])) == ([], 5)
    assert refused["group"]["status"] == "active"

    done = act(group_id, "resolve", kind="groups", advance=True, resolution="fixed").json
    assert {change["alert_id"] for change in done["changed"]} == {alert["alert_id"] for alert in alerts}
    assert done["unchanged"] == []
    assert (done["group"]["status"], done["group"]["open_alerts"]) == ("closed", 0)
    assert sql("SELECT DISTINCT state, resolution FROM alerts") == [(RESOLVED, "fixed")]

    again = act(group_id, "resolve", kind="groups", advance=True)
    assert (again.status_code, again.json["changed"], again.json["unchanged"]) == (200, [], [])
    assert act("4711", "resolve", kind="groups").status_code == 404


# --- two at once


def run_together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work(0)``, ``work(1)``, … at the same moment; return results and domain errors in order."""
    barrier = Barrier(count)

    def take_part(number: int) -> Any:
        barrier.wait(PATIENCE_SECONDS)
        try:
            return work(number)
        except IllegalTransition as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(take_part, range(count)))


def test_of_two_people_at_once_exactly_one_wins(
    raise_alert: RaiseAlert, services: Services, sql: Sql, holding: Any
) -> None:
    alert_id = raise_alert()["alert_id"]

    def acknowledge(actor: Actor) -> Any:
        return services.lifecycle.transition(int(alert_id), Transition(ACKNOWLEDGED), actor)

    with ThreadPoolExecutor() as pool:
        with holding(alert_id):
            attempts: list[Future[Any]] = [pool.submit(acknowledge, actor) for actor in (ANA, BEN)]
            await_waiting(sql, 2)
        errors = [attempt.exception(PATIENCE_SECONDS) for attempt in attempts]
    [loser] = [error for error in errors if error is not None]
    assert isinstance(loser, IllegalTransition)
    assert (loser.current_state, loser.allowed) == (ACKNOWLEDGED, (INVESTIGATING,))
    winner = ("ana", "ben")[errors.index(None)]
    assert sql("SELECT changed_by FROM alert_states WHERE alert_id = %s AND state <> 'new'", alert_id) == [(winner,)]


def test_of_many_who_advance_at_once_exactly_one_wins(raise_alert: RaiseAlert, services: Services, sql: Sql) -> None:
    for _ in range(5):
        alert_id = raise_alert(device_id=make_device())["alert_id"]

        def resolve(number: int, alert_id: int = int(alert_id)) -> Any:
            actor = Actor(f"person {number}")
            return services.lifecycle.transition(alert_id, Transition(RESOLVED, advance=True), actor)

        outcomes = run_together(6, resolve)
        winners = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, IllegalTransition)]
        assert len(winners) == 1
        rows = sql("SELECT state, changed_by FROM alert_states WHERE alert_id = %s ORDER BY id", alert_id)
        assert rows[1:] == [(state, f"person {winners[0]}") for state in STATES[1:]]


def test_group_and_single_actions_at_once_lose_no_step(raise_alert: RaiseAlert, services: Services, sql: Sql) -> None:
    for _ in range(3):
        device = make_device()
        alerts = [raise_alert(device_id=device, message=f"fault {number % 4}") for number in range(8)]

        def take(number: int, alerts: list[dict[str, Any]] = alerts) -> Any:
            if number % 2:
                group_id = int(alerts[0]["group_id"])
                return services.lifecycle.transition_group(group_id, Transition(ACKNOWLEDGED), Actor(f"group {number}"))
            alert_id = int(alerts[number]["alert_id"])
            return services.lifecycle.transition(alert_id, Transition(ACKNOWLEDGED), Actor(f"single {number}"))

        run_together(6, take)
        ids = [int(alert["alert_id"]) for alert in alerts]
        # Each alert was acknowledged exactly once, whoever did it.
        rows = sql(
            "SELECT alert_id, array_agg(state::text ORDER BY id) FROM alert_states WHERE alert_id = ANY (%s)"
            " GROUP BY alert_id ORDER BY alert_id",
            ids,
        )
        assert rows == [(alert_id, [NEW, ACKNOWLEDGED]) for alert_id in ids]


def test_step_that_waited_for_another_is_the_newer_one(
    raise_alert: RaiseAlert, services: Services, sql: Sql, holding: Any
) -> None:
    """A source reports its recovery while somebody acknowledges: the resolution begins first and ends last."""
    alert_id = raise_alert()["alert_id"]
    with ThreadPoolExecutor() as pool:
        with holding(alert_id) as execute:
            recovery = pool.submit(services.lifecycle.transition, int(alert_id), Transition(RESOLVED), GATEWAY)
            await_waiting(sql, 1)
            execute(INSERT_STATE, alert_id, ACKNOWLEDGED, "ana", "user")
        recovery.result(PATIENCE_SECONDS)
    assert state_of(sql, alert_id) == RESOLVED
    assert sql("SELECT state FROM get_current_alert_state(%s)", alert_id) == [(RESOLVED,)]
    assert sql("SELECT state FROM v_current_alert_states WHERE alert_id = %s", alert_id) == [(RESOLVED,)]
    assert [entry["state"] for entry in services.lifecycle.list_history(int(alert_id))] == [
        NEW,
        ACKNOWLEDGED,
        RESOLVED,
    ]


def test_times_of_the_steps_never_run_backwards(sql: Sql, database_url: str) -> None:
    """Both transactions run on the real clock here: the one that began first takes the later step."""
    [(alert_id,)] = sql(
        "INSERT INTO alerts (device_id, severity, message) VALUES (%s, 'low', 'm') RETURNING id", DEVICE
    )
    early = psycopg2.connect(database_url)
    with early, early.cursor() as cursor:
        cursor.execute("SELECT now()")  # its transaction, and so its time, begins here
        sql(INSERT_STATE, alert_id, ACKNOWLEDGED, "ana", "user")
        cursor.execute(INSERT_STATE, (alert_id, INVESTIGATING, "ben", "user"))
    early.close()
    times = sql("SELECT created_at FROM alert_states WHERE alert_id = %s ORDER BY id", alert_id)
    assert times == sorted(times)
    [(acknowledged_at,)] = sql("SELECT acknowledged_at FROM alert_slas WHERE alert_id = %s", alert_id)
    assert acknowledged_at == times[1][0]


# --- any life


ACTORS = st.sampled_from([ANA, GATEWAY])
STEPS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(STATES), ACTORS, st.booleans(), st.integers(0, 30)), max_size=25
)


@settings(max_examples=40)
@given(messages=st.lists(st.sampled_from(["one", "two"]), min_size=5, max_size=5), steps=STEPS)
def test_any_life_follows_the_table(
    messages: list[str],
    steps: list[tuple[int, str, Actor, bool, int]],
    services: Services,
    clock: FrozenClock,
    raise_alert: RaiseAlert,
    sql: Sql,
) -> None:
    device = make_device()
    alerts = [raise_alert(device_id=device, message=message) for message in messages]
    states = dict.fromkeys(messages, NEW)
    lives: dict[str, list[tuple[str, bool]]] = {message: [] for message in messages}
    for index, target, actor, advance, seconds in steps:
        clock.advance(timedelta(seconds=seconds))
        message = messages[index]
        plan = PLANS[actor.kind, advance].get((states[message], target))
        alert_id = int(alerts[index]["alert_id"])
        if plan is None:
            with pytest.raises(IllegalTransition):
                services.lifecycle.transition(alert_id, Transition(target, advance=advance), actor)
            continue
        services.lifecycle.transition(alert_id, Transition(target, advance=advance), actor)
        states[message] = target
        lives[message] += [(step.state, step.implied) for step in parse_steps(plan)]

    for alert, message in zip(alerts, messages, strict=True):
        rows: list[tuple[str | None, str, bool, datetime]] = sql(
            "SELECT previous_state, state, implied, created_at FROM alert_states WHERE alert_id = %s ORDER BY id",
            alert["alert_id"],
        )
        assert [(state, implied) for _, state, implied, _ in rows] == [(NEW, False), *lives[message]]
        assert [before for before, *_ in rows] == [None, *(state for _, state, *_ in rows[:-1])]
        assert [at for *_, at in rows] == sorted(at for *_, at in rows)
        assert state_of(sql, alert["alert_id"]) == states[message]
    [(open_alerts, status)] = sql("SELECT open_alerts, status FROM alert_groups WHERE id = %s", alerts[0]["group_id"])
    assert open_alerts == sum(states[message] != RESOLVED for message in messages)
    assert status == ("active" if open_alerts else "closed")
