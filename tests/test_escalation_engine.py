"""The engine over a real database: escalations by hand, steps side by side, acknowledgements that race with them."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg2
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from alert_state_machine import Actor, AlertStateMachine, Transition
from alert_store import AlertReport
from escalation_directory import InstantDirectory
from escalation_engine import EngineResult
from escalation_policies import PolicyDraft
from escalation_rules import Rules, Tier
from escalation_simulation import plan_pages
from foundation.clock import FrozenClock
from foundation.database import Connection
from foundation.errors import Conflict, NotFound
from foundation.settings import Settings
from notifications.channel import Outcome, Page, Sent
from notifications.outbox import Outbox
from on_call_document import parse_schedule
from tests.factories import DEVICE, SEND_EVERYTHING, make_device
from wiring import Services, build_services

Sql = Callable[..., list[tuple[Any, ...]]]

MINUTE = timedelta(minutes=1)
MACHINE = Actor("gateway", "system")
PERSON = Actor("ana")
PATIENCE_SECONDS = 60.0
ACKNOWLEDGE = Transition("acknowledged")
MAIL = Tier(0, ("email",), ("shift@example.com",))
SMS = Tier(5, ("sms",), ("+33612345678",))
HOOK = Tier(15, ("webhook",), ("https://example.com/hook",))


@pytest.fixture
def write_policy(services: Services) -> Callable[..., int]:
    """Keep a policy and return its id: ``write_policy(MAIL, SMS, name="line")``."""

    def write(*tiers: Tier, name: str = "line", severities: Sequence[str] = ("critical",), **fields: Any) -> int:
        rules = Rules(tuple(severities), tiers or (MAIL, SMS, HOOK), fields.pop("repeat", 0))
        return services.policies.create_policy(PolicyDraft(name, rules, **fields)).policy_id

    return write


@pytest.fixture
def report(services: Services) -> Callable[..., dict[str, Any]]:
    """Record an alert and return the answer: ``report(message="too hot")``."""

    def record(**fields: Any) -> dict[str, Any]:
        return dict(services.lifecycle.raise_alert(make_alert(**fields), MACHINE).answers[0])

    return record


@pytest.fixture
def escalate(services: Services) -> Callable[[int], int]:
    """Bring the next tier of an alert at once and return the escalation's id."""
    return lambda alert_id: services.database.run(lambda c: services.escalations.escalate_now(c, alert_id))


def make_alert(**fields: Any) -> AlertReport:
    return AlertReport(**{"device_id": DEVICE, "severity": "critical", "message": "too hot", "metadata": {}, **fields})


def list_steps(sql: Sql) -> list[tuple[Any, ...]]:
    return sql("SELECT escalation_id, pass, tier FROM escalation_steps ORDER BY 1, 2, 3")


# --- finding and starting


def test_escalation_starts_with_its_alert(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql
) -> None:
    policy_id = write_policy()
    alert = report()
    assert sql(
        """SELECT id::text, alert_id::text, policy_id, policy_name, status::text, pass, current_tier, next_pass,
                  next_tier, severity::text, due_at = started_at FROM escalations"""
    ) == [(alert["escalation_id"], alert["alert_id"], policy_id, "line", "pending", 1, None, 1, 1, "critical", True)]
    assert services.escalations.run_once() == EngineResult(steps=1, notifications=1, ended_unheard=0)
    assert services.escalations.run_once() == EngineResult()


def test_find_policy_answers_none_where_none_is_for_the_severity(
    services: Services, write_policy: Callable[..., int]
) -> None:
    write_policy(enabled=False)
    assert services.escalations.find_policy("critical") is None
    policy_id = write_policy(MAIL, name="other")
    found = services.escalations.find_policy("critical")
    assert found is not None
    assert (found["id"], found["name"], Rules.from_document(found["rules"]).tiers) == (policy_id, "other", (MAIL,))


def test_trigger_escalation_starts_one(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql
) -> None:
    alert_id = int(report(escalate=False)["alert_id"])
    policy_id = write_policy(severities=("info",))
    escalation_id = services.escalations.trigger_escalation(alert_id, policy_id)
    assert sql("SELECT id, alert_id, policy_id FROM escalations") == [(escalation_id, alert_id, policy_id)]
    assert sql("SELECT escalation_id FROM alert_groups") == [(escalation_id,)]
    services.escalations.run_once()
    assert list_steps(sql) == [(escalation_id, 1, 1)]


def test_trigger_escalation_answers_the_one_that_runs(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql
) -> None:
    write_policy()
    other_id = write_policy(name="other")
    alert = report()
    assert services.escalations.trigger_escalation(int(alert["alert_id"]), other_id) == int(alert["escalation_id"])
    assert sql("SELECT policy_name FROM escalations") == [("line",)]


def test_trigger_escalation_in_the_callers_transaction(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql
) -> None:
    policy_id = write_policy()
    alert_id = int(report(escalate=False)["alert_id"])

    def trigger_and_fail(connection: Connection) -> None:
        services.escalations.trigger_escalation(alert_id, policy_id, connection=connection)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        services.database.run(trigger_and_fail)
    assert sql("SELECT count(*) FROM escalations") == [(0,)]
    assert sql("SELECT escalation_id FROM alert_groups") == [(None,)]


def test_trigger_escalation_refuses_what_cannot_be(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql
) -> None:
    alert_id = int(report()["alert_id"])
    policy_id = write_policy()
    with pytest.raises(NotFound, match="policy 999"):
        services.escalations.trigger_escalation(alert_id, 999)
    with pytest.raises(NotFound, match="alert 999"):
        services.escalations.trigger_escalation(999, policy_id)
    services.lifecycle.transition(alert_id, Transition("resolved"), MACHINE)
    with pytest.raises(Conflict, match="resolved"):
        services.escalations.trigger_escalation(alert_id, policy_id)
    assert sql("SELECT count(*) FROM escalations") == [(0,)]


# --- the next tier now


def test_escalate_now_brings_the_next_tier_at_once(
    services: Services,
    write_policy: Callable[..., int],
    report: Callable[..., dict[str, Any]],
    escalate: Callable[[int], int],
    clock: FrozenClock,
    sql: Sql,
) -> None:
    write_policy()
    alert = report()
    services.escalations.run_once()
    clock.advance(MINUTE)
    assert escalate(int(alert["alert_id"])) == int(alert["escalation_id"])
    assert services.escalations.run_once().steps == 1
    assert sql("SELECT current_tier, next_tier, due_at - started_at FROM escalations") == [(2, 3, 15 * MINUTE)]


def test_escalate_now_has_no_tier_after_the_last(
    services: Services,
    write_policy: Callable[..., int],
    report: Callable[..., dict[str, Any]],
    escalate: Callable[[int], int],
) -> None:
    write_policy(MAIL)
    alert_id = int(report()["alert_id"])
    services.escalations.run_once()
    with pytest.raises(Conflict, match="last tier"):
        escalate(alert_id)
    services.lifecycle.transition(alert_id, ACKNOWLEDGE, PERSON)
    with pytest.raises(Conflict, match="last tier"):
        escalate(alert_id)


def test_escalate_now_goes_from_the_last_tier_to_the_next_pass(
    services: Services,
    write_policy: Callable[..., int],
    report: Callable[..., dict[str, Any]],
    escalate: Callable[[int], int],
    sql: Sql,
) -> None:
    write_policy(MAIL, repeat=1)
    alert = report()
    services.escalations.run_once()
    escalate(int(alert["alert_id"]))
    services.escalations.run_once()
    escalation_id = int(alert["escalation_id"])
    assert list_steps(sql) == [(escalation_id, 1, 1), (escalation_id, 2, 1)]


def test_escalate_now_starts_anew_after_one_that_ran_out(
    services: Services,
    write_policy: Callable[..., int],
    report: Callable[..., dict[str, Any]],
    escalate: Callable[[int], int],
    clock: FrozenClock,
    sql: Sql,
) -> None:
    write_policy(MAIL)
    alert = report()
    services.escalations.run_once()
    sql(SEND_EVERYTHING)
    clock.advance(2 * MINUTE)
    assert services.escalations.run_once() == EngineResult(ended_unheard=1)
    second = escalate(int(alert["alert_id"]))
    assert second != int(alert["escalation_id"])
    assert services.escalations.run_once().steps == 1
    assert list_steps(sql) == [(int(alert["escalation_id"]), 1, 1), (second, 1, 1)]


def test_escalate_now_refuses_what_cannot_be(
    services: Services, report: Callable[..., dict[str, Any]], escalate: Callable[[int], int]
) -> None:
    alert_id = int(report()["alert_id"])
    with pytest.raises(Conflict, match="no enabled escalation policy is for critical"):
        escalate(alert_id)
    with pytest.raises(NotFound, match="alert 999"):
        escalate(999)
    services.lifecycle.transition(alert_id, Transition("resolved"), MACHINE)
    with pytest.raises(Conflict, match="resolved"):
        escalate(alert_id)


# --- what is written


def test_rolled_back_report_leaves_no_escalation(
    services: Services, write_policy: Callable[..., int], sql: Sql
) -> None:
    write_policy()

    def raise_and_fail(connection: Connection) -> None:
        services.store.raise_alert(connection, make_alert(), "gateway")
        services.store.raise_alerts(connection, [make_alert(device_id=make_device())], "gateway")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        services.database.run(raise_and_fail)
    assert sql("SELECT count(*) FROM escalations") == [(0,)]


def test_rolled_back_acknowledgement_cancels_nothing(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql
) -> None:
    write_policy()
    alert_id = int(report()["alert_id"])
    services.escalations.run_once()

    def acknowledge_and_fail(connection: Connection) -> None:
        AlertStateMachine().transition_state(connection, alert_id, ACKNOWLEDGE, PERSON)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        services.database.run(acknowledge_and_fail)
    assert sql("SELECT status::text FROM escalations") == [("in_progress",)]
    assert sql("SELECT status::text FROM notifications") == [("pending",)]


def test_step_that_cannot_be_written_leaves_nothing(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql
) -> None:
    """The step, its notifications and the next time are one transaction."""
    write_policy()
    report()
    sql("ALTER TABLE notifications ADD CONSTRAINT none_today CHECK (channel <> 'email')")
    with pytest.raises(Exception, match="none_today"):
        services.escalations.run_once()
    assert list_steps(sql) == []
    assert sql("SELECT status::text, current_tier FROM escalations") == [("pending", None)]
    sql("ALTER TABLE notifications DROP CONSTRAINT none_today")
    assert services.escalations.run_once() == EngineResult(steps=1, notifications=1)


def test_acknowledgement_names_who_ended_it(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql
) -> None:
    write_policy()
    alert_id = int(report()["alert_id"])
    services.escalations.run_once()
    services.lifecycle.transition(alert_id, ACKNOWLEDGE, PERSON)
    assert sql("SELECT status::text, ended_by, due_at FROM escalations") == [("cancelled", "ana", None)]
    assert sql("SELECT status::text, due_at FROM notifications") == [("cancelled", None)]


def test_unreachable_recipients_are_kept_with_the_step(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql
) -> None:
    [(user_id,)] = sql("INSERT INTO users (email, name, role) VALUES ('b@example.com', 'Ben', 'operator') RETURNING id")
    write_policy(Tier(0, ("sms",), (f"user:{user_id}", "+33612345678")), Tier(5, ("sms",), (f"user:{user_id}",)))
    report()
    sql("DELETE FROM users")
    services.escalations.run_once()
    assert sql("SELECT unreachable FROM escalation_steps") == [
        ([{"recipient": f"user:{user_id}", "reason": "there is no such user"}],)
    ]


def test_one_escalation_speaks_for_two_groups_of_its_key_in_a_batch(
    services: Services, write_policy: Callable[..., int], clock: FrozenClock, sql: Sql
) -> None:
    write_policy(MAIL)
    late = [make_alert(occurred_at=clock.now() - minutes * MINUTE) for minutes in (50, 20, 0)]
    first, *others = services.lifecycle.raise_alerts(late, MACHINE).answers
    assert len({answer["group_id"] for answer in (first, *others)}) == 3
    assert {answer["escalation_id"] for answer in others} == {first["escalation_id"]}
    assert sql("SELECT id::text, alert_id::text FROM escalations") == [(first["escalation_id"], first["alert_id"])]
    assert sql("SELECT DISTINCT escalation_id::text FROM alert_groups") == [(first["escalation_id"],)]


def test_more_escalations_than_fit_into_one_transaction(
    services: Services, write_policy: Callable[..., int], sql: Sql
) -> None:
    write_policy()
    services.lifecycle.raise_alerts([make_alert(device_id=make_device()) for _ in range(450)], MACHINE)
    assert services.escalations.run_once() == EngineResult(steps=450, notifications=450)
    assert sql("SELECT DISTINCT pass, tier, count(*) FROM escalation_steps GROUP BY 1, 2") == [(1, 1, 450)]


# --- what a person broke


def write_schedule(services: Services) -> int:
    document = {
        "name": "Line 3",
        "rotation_type": "weekly",
        "rotation_start": "2026-02-23T08:00:00",
        "timezone": "Europe/Paris",
        "users": {"users": [{"user_id": 1, "name": "Ana", "phone": "+33612345679"}]},
    }
    return services.on_call.create_schedule(parse_schedule(document)).schedule_id


@pytest.mark.parametrize(
    "damage",
    [
        "users = '{}'",
        "users = '[]'",
        """users = '{"users": []}'""",
        """users = '{"users": [{"user_id": 0}]}'""",
        """users = '{"users": [{"user_id": 1, "phone": "112"}]}'""",
        "timezone = 'Europe/Atlantis'",
        "rotation_start = 'infinity'",
    ],
)
def test_damaged_schedule_holds_up_nobody_elses_page(
    services: Services, write_policy: Callable[..., int], report: Callable[..., dict[str, Any]], sql: Sql, damage: str
) -> None:
    schedule = f"oncall:{write_schedule(services)}"
    write_policy(Tier(0, ("sms",), (schedule,)), SMS)
    write_policy(Tier(0, ("sms",), ("+33612345670", schedule)), name="mixed", severities=("high",))
    write_policy(MAIL, name="other", severities=("low",))
    for severity in ("critical", "high", "low"):
        report(severity=severity)
    sql(f"UPDATE on_call_schedules SET {damage}")
    services.escalations.run_once()
    assert sql(
        """SELECT severity::text, tier, address FROM notifications JOIN escalations AS e ON e.id = escalation_id
           ORDER BY 1"""
    ) == [
        ("critical", 2, "+33612345678"),  # the next one, at once
        ("high", 1, "+33612345670"),
        ("low", 1, "shift@example.com"),
    ]


@pytest.mark.parametrize(
    "damage",
    [
        {"severity_match": ["critical"]},
        {"severity_match": ["critical"], "tiers": []},
        {"severity_match": ["critical"], "tiers": "none"},
        {"severity_match": ["critical"], "tiers": [{"delay_minutes": 0}]},
        {"severity_match": ["critical"], "tiers": [{"channels": ["sms"], "recipients": ["+33612345678"]}]},
        {"severity_match": ["critical"], "tiers": [MAIL.__dict__, {"delay_minutes": "soon"}]},
        {"severity_match": ["critical"], "tiers": [{**MAIL.__dict__, "delay_minutes": "soon"}]},
        {"severity_match": ["critical"], "tiers": [{**MAIL.__dict__, "delay_minutes": 0.5}]},
        {"severity_match": ["critical"], "tiers": [MAIL.__dict__], "repeat": "often"},
    ],
)
def test_policy_of_another_shape_is_refused_by_the_database_itself(sql: Sql, damage: dict[str, Any]) -> None:
    """Policies may be written by plain SQL, past every check of the API; a bad one would stop alerts and engine."""
    with pytest.raises(psycopg2.errors.CheckViolation):
        sql("INSERT INTO escalation_policies (name, rules) VALUES ('damaged', %s)", json.dumps(damage))


def test_one_connection_is_enough(
    settings: Settings,
    write_policy: Callable[..., int],
    report: Callable[..., dict[str, Any]],
    clock: FrozenClock,
    sql: Sql,
) -> None:
    """The smallest pool that the settings allow: whoever looks people up must not wait for a second connection."""
    [(user_id,)] = sql(
        "INSERT INTO users (email, name, role) VALUES ('ben@example.com', 'Ben', 'operator') RETURNING id"
    )
    write_policy(Tier(0, ("email",), (f"user:{user_id}",)))
    report()
    small = build_services(settings.model_copy(update={"database_pool_size": 1, "database_wait_seconds": 0.2}), clock)
    try:
        assert small.escalations.run_once() == EngineResult(steps=1, notifications=1)
    finally:
        small.database.close()


# --- as planned

channels_of_tiers = st.sampled_from([("email",), ("sms",), ("email", "sms")])
recipients_of_tiers = st.sampled_from(["user:1", "user:2", "user:9", "oncall:1", "oncall:2", "oncall:9"])
tiers_of_policies = st.lists(
    st.builds(
        Tier,
        st.integers(0, 8),
        channels_of_tiers,
        st.lists(recipients_of_tiers, min_size=1, max_size=2, unique=True).map(tuple),
    ),
    min_size=1,
    max_size=4,
).map(lambda tiers: tuple(sorted(tiers, key=lambda tier: tier.delay_minutes)))


def test_engine_does_what_the_simulation_shows(services: Services, clock: FrozenClock, sql: Sql) -> None:
    """Users with and without a phone or at all, schedules that are on, off or gone; acknowledged at any minute."""
    sql("INSERT INTO users (email, name, role, phone) VALUES ('a@example.com', 'Ana', 'operator', '+33612345678')")
    sql("INSERT INTO users (email, name, role) VALUES ('b@example.com', 'Ben', 'operator')")
    write_schedule(services)
    services.on_call.create_schedule(
        parse_schedule(
            {
                "name": "off",
                "rotation_type": "daily",
                "rotation_start": "2026-02-23T08:00:00",
                "timezone": "UTC",
                "enabled": False,
                "users": {"users": [{"user_id": 1}]},
            }
        )
    )
    sound = Rules(("critical",), (MAIL,)).to_document()
    sql("INSERT INTO escalation_policies (name, rules) VALUES ('line', %s)", json.dumps(sound))

    @given(tiers_of_policies, st.integers(0, 2), st.one_of(st.none(), st.integers(0, 40)))
    @hypothesis_settings(max_examples=30)
    def compare(tiers: tuple[Tier, ...], repeat: int, acknowledged_minute: int | None) -> None:
        rules = Rules(("critical",), tiers, repeat)
        sql("UPDATE escalation_policies SET rules = %s", json.dumps(rules.to_document()))
        began_at = clock.now()
        until = None if acknowledged_minute is None else began_at + acknowledged_minute * MINUTE
        with services.database.autocommit() as connection:

            def directory_at(at: datetime) -> InstantDirectory:
                return InstantDirectory(connection, services.accounts, services.on_call, at)

            planned = [
                ((page.at - began_at) / MINUTE, page.step.number, page.step.tier, target.channel, target.address)
                for page in plan_pages(rules, began_at, until, directory_at)
                for target in page.resolved.targets
            ]
        alert = services.lifecycle.raise_alert(make_alert(device_id=make_device()), MACHINE).answers[0]
        for minute in range(60):
            if minute == acknowledged_minute:
                services.lifecycle.transition(int(alert["alert_id"]), ACKNOWLEDGE, PERSON)
            services.escalations.run_once()
            clock.advance(MINUTE)
        written = [
            ((created_at - began_at) / MINUTE, *rest)
            for created_at, *rest in sql(
                """SELECT created_at, pass, tier, channel, address FROM notifications WHERE escalation_id = %s
                   ORDER BY pass, tier, id""",
                int(alert["escalation_id"]),
            )
        ]
        assert written == [tuple(page) for page in planned]

    compare()


reports_of_batches = st.lists(
    st.builds(
        lambda device, metric, message, severity, late, escalate: {
            "device": device, "metric": metric, "message": message, "severity": severity, "late": late,
            "escalate": escalate,
        },
        st.integers(0, 1),
        st.sampled_from(["", "temperature"]),
        st.sampled_from(["too hot", "too cold"]),
        st.sampled_from(["critical", "low"]),
        st.sampled_from([0, 0, 3, 30, 59, 61]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


def test_batch_pages_as_if_its_reports_had_come_one_by_one(
    services: Services, write_policy: Callable[..., int], clock: FrozenClock, sql: Sql
) -> None:
    write_policy(MAIL)

    def raise_all(reports: list[dict[str, Any]], devices: list[str], *, is_batch: bool) -> list[Any]:
        made = [
            make_alert(
                device_id=devices[r["device"]], metric=r["metric"], message=r["message"], severity=r["severity"],
                escalate=r["escalate"], occurred_at=clock.now() - r["late"] * MINUTE,
            )
            for r in reports
        ]  # fmt: skip
        if is_batch:
            answers = list(services.lifecycle.raise_alerts(made, MACHINE).answers)
        else:
            answers = [services.lifecycle.raise_alert(one, MACHINE).answers[0] for one in made]
        position = {int(answer["alert_id"]): number for number, answer in enumerate(answers)}
        # By which report each escalation began, and for how many groups it speaks.
        started = sql(
            """SELECT e.alert_id, array_agg(g.id ORDER BY g.id) FROM escalations AS e
               JOIN alert_groups AS g ON g.escalation_id = e.id WHERE e.alert_id = ANY (%s) GROUP BY 1""",
            list(position),
        )
        return sorted((position[alert_id], len(groups)) for alert_id, groups in started)

    @given(reports_of_batches)
    @hypothesis_settings(max_examples=60)
    def compare(reports: list[dict[str, Any]]) -> None:
        singly = raise_all(reports, [make_device(), make_device()], is_batch=False)
        assert raise_all(reports, [make_device(), make_device()], is_batch=True) == singly

    compare()


# --- many at once


@pytest.fixture
def make_services(settings: Settings, clock: FrozenClock) -> Iterator[Callable[[], Services]]:
    """Return services of their own connections, as another process has them."""
    with ExitStack() as stack:

        def make() -> Services:
            built = build_services(settings, clock)
            stack.callback(built.database.close)
            return built

        yield make


def run_together(*works: Callable[[], Any]) -> list[Any]:
    """Run all at the same moment, each on a thread of its own."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], Any]) -> Any:
        barrier.wait(PATIENCE_SECONDS)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(begin, works))


def test_engines_side_by_side_take_each_step_once(
    services: Services,
    make_services: Callable[[], Services],
    write_policy: Callable[..., int],
    clock: FrozenClock,
    sql: Sql,
) -> None:
    write_policy(MAIL, SMS)
    engines = [make_services().escalations for _ in range(3)]
    began_at = clock.now()
    services.lifecycle.raise_alerts([make_alert(device_id=make_device()) for _ in range(600)], MACHINE)
    for minute, expected in ((0, EngineResult(600, 600)), (5, EngineResult(600, 600)), (10, EngineResult(0, 0, 600))):
        clock.advance(began_at + minute * MINUTE - clock.now())
        sql(SEND_EVERYTHING)
        results = run_together(*[engine.run_once for engine in engines])
        # One that found everything locked comes back a moment later.
        results += [engine.run_once() for engine in engines]
        assert sum(results, EngineResult()) == expected
    assert sql("SELECT pass, tier, count(*) FROM escalation_steps GROUP BY 1, 2 ORDER BY 1, 2") == [
        (1, 1, 600),
        (1, 2, 600),
    ]
    assert sql("SELECT count(*) FROM notifications") == [(1200,)]


def test_first_alerts_of_a_key_start_one_escalation_together(
    services: Services, write_policy: Callable[..., int], sql: Sql
) -> None:
    write_policy()
    for _ in range(10):
        device = make_device()
        answers = run_together(
            *[
                lambda n=n, device=device: services.lifecycle.raise_alert(
                    make_alert(device_id=device, message=f"fault {n}"), MACHINE
                ).answers[0]
                for n in range(3)
            ],
            *[
                lambda n=n, device=device: services.lifecycle.raise_alerts(
                    [make_alert(device_id=device, message=f"fault {n}")], MACHINE
                ).answers[0]
                for n in range(3)
            ],
        )
        assert len({answer["escalation_id"] for answer in answers} - {None}) == 1
        assert all(answer["escalation_id"] is not None for answer in answers)
    assert sql("SELECT count(*) FROM escalations") == [(10,)]


def test_alerts_in_two_groups_of_one_key_start_one_escalation_together(
    services: Services, write_policy: Callable[..., int], sql: Sql
) -> None:
    """Reports of several windows, close to each other: groups come and go, one escalation runs."""
    write_policy()
    for _ in range(10):
        device = make_device()
        answers = run_together(
            *[
                lambda n=n, device=device: services.lifecycle.raise_alert(
                    make_alert(
                        device_id=device,
                        message=f"fault {n}",
                        occurred_at=services.clock.now() - n * timedelta(minutes=9),
                    ),
                    MACHINE,
                ).answers[0]
                for n in range(6)
            ]
        )
        assert len({answer["escalation_id"] for answer in answers}) == 1
        assert None not in {answer["escalation_id"] for answer in answers}
    assert sql("SELECT count(*) FROM escalations WHERE ended_at IS NULL") == [(10,)]
    assert sql("SELECT count(*) FROM escalations") == [(10,)]
    assert sql("SELECT count(DISTINCT group_id) > 10 FROM alerts") == [(True,)]


def test_alert_that_meets_the_end_of_its_keys_escalation_is_paged_for(
    services: Services,
    make_services: Callable[[], Services],
    write_policy: Callable[..., int],
    clock: FrozenClock,
    sql: Sql,
) -> None:
    """The escalation that an alert would have joined ends while the alert is being written."""
    write_policy(MAIL)
    first = services.lifecycle.raise_alert(make_alert(), MACHINE).answers[0]
    services.escalations.run_once()
    sql(SEND_EVERYTHING)
    clock.advance(10 * MINUTE)  # it is over, and so is the window of its group
    # Whoever has tried to start one waits before looking at the one that runs.
    sql(
        """CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$"""
    )
    sql(
        """CREATE TRIGGER wait_here AFTER INSERT ON escalations
           FOR EACH STATEMENT EXECUTE FUNCTION wait_here()"""
    )
    sql("SELECT pg_advisory_lock(1)")
    worker = make_services()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(services.lifecycle.raise_alert, make_alert(message="too cold"), MACHINE)
        await_waiting(sql)
        assert worker.escalations.run_once() == EngineResult(ended_unheard=1)
        sql("SELECT pg_advisory_unlock(1)")
        answer = second.result(PATIENCE_SECONDS).answers[0]
    assert answer["escalation_id"] not in (None, first["escalation_id"])
    assert sql("SELECT status::text FROM escalations ORDER BY id") == [("completed",), ("pending",)]


def await_waiting(sql: Sql) -> None:
    """Wait until somebody waits for the advisory lock."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- acknowledgements that race


class CountingChannel:
    """Takes everything in."""

    def send(self, page: Page) -> Outcome:
        return Sent()


def read_outbox(connection: Connection, alert_id: int) -> tuple[list[tuple[Any, ...]], int]:
    """Return the notifications of an alert with their attempts, and the steps of its escalation."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, status::text, attempts FROM notifications WHERE alert_id = %s ORDER BY id", (alert_id,)
        )
        rows = [tuple(row) for row in cursor.fetchall()]
        cursor.execute(
            """SELECT count(*) FROM escalation_steps JOIN escalations AS e ON e.id = escalation_id
               WHERE e.alert_id = %s""",
            (alert_id,),
        )
        return rows, int(cursor.fetchone()[0])


def test_nothing_passes_from_pending_to_sending_after_an_acknowledgement_500_times(
    services: Services, make_services: Callable[[], Services], write_policy: Callable[..., int], sql: Sql
) -> None:
    """Two workers take steps and claim while somebody acknowledges at a random moment of it."""
    write_policy(
        Tier(0, ("email", "sms", "webhook"), ("shift@example.com", "+33612345678", "https://example.com/hook")),
        Tier(0, ("email",), ("night@example.com",)),
    )
    chance = random.Random(20260302)
    stopped = threading.Event()
    outboxes: list[Outbox] = []
    machine = AlertStateMachine()
    at_commit: dict[int, tuple[dict[int, int], int]] = {}

    def work(worker: Services, outbox: Outbox) -> None:
        while not stopped.is_set():
            worker.escalations.run_once()
            outbox.run_once()

    def acknowledge(connection: Connection, alert_id: int) -> tuple[list[tuple[Any, ...]], int, int]:
        machine.transition_state(connection, alert_id, ACKNOWLEDGE, PERSON)
        [group_id] = [row[0] for row in query(connection, "SELECT group_id FROM alerts WHERE id = %s", alert_id)]
        rows, steps = read_outbox(connection, alert_id)
        return rows, steps, services.escalation_log.count_in_flight(connection, group_id)

    threads = []
    for _ in range(2):
        worker = make_services()
        channels = {name: CountingChannel() for name in ("email", "sms", "webhook")}
        outboxes.append(Outbox(worker.database, channels, "https://alerts.example.com", 30.0))
        threads.append(threading.Thread(target=work, args=(worker, outboxes[-1])))
        threads[-1].start()
    try:
        for _ in range(500):
            answer = services.lifecycle.raise_alert(make_alert(device_id=make_device()), MACHINE).answers[0]
            alert_id = int(answer["alert_id"])
            time.sleep(chance.choice((0.0, 0.001, 0.002, 0.004, 0.008, 0.016)) * chance.random())
            rows, steps, in_flight = services.database.run(lambda c, i=alert_id: acknowledge(c, i))
            assert "pending" not in {status for _, status, _ in rows}
            # Read one after the other: what is on its way may arrive, and nothing else sets out.
            assert in_flight <= sum(status == "sending" for _, status, _ in rows)
            at_commit[alert_id] = ({number: attempts for number, _, attempts in rows}, steps)
    finally:
        stopped.set()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert all(outbox.wait_until_idle(PATIENCE_SECONDS) for outbox in outboxes)

    for alert_id, (attempts, steps) in at_commit.items():
        with services.database.autocommit() as connection:
            rows, steps_at_last = read_outbox(connection, alert_id)
        assert {number: made for number, _, made in rows} == attempts
        assert steps_at_last == steps
    assert len(at_commit) == 500
    seen = Counter(
        "unsent" if not any(attempts.values()) else "partly" if not all(attempts.values()) else "sent"
        for attempts, _ in at_commit.values()
    )
    assert seen["unsent"] > 0, "no acknowledgement came before a page"
    assert seen["sent"] + seen["partly"] > 0, "no acknowledgement came after a page"
    assert sql("SELECT DISTINCT status::text FROM escalations") == [("cancelled",)]


def query(connection: Connection, statement: str, *parameters: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


# --- everybody at once

BROKEN_PROMISES = {
    "two running escalations of a key": """
        SELECT device_id, metric, key_class FROM escalations WHERE ended_at IS NULL
        GROUP BY 1, 2, 3 HAVING count(*) > 1""",
    "a count of handled alerts that is none": """
        SELECT g.id FROM alert_groups AS g WHERE g.handled_alerts <> (
            SELECT count(*) FROM alerts AS a WHERE a.group_id = g.id AND a.duplicate_of IS NULL
                AND a.state IN ('acknowledged', 'investigating'))""",
    "a page to come of an escalation that a person has ended": """
        SELECT n.id FROM notifications AS n JOIN escalations AS e ON e.id = n.escalation_id
        WHERE e.status = 'cancelled' AND n.status IN ('pending', 'sending')""",
    "an alert that nobody heard of": """
        SELECT a.id FROM alerts AS a JOIN alert_groups AS g ON g.id = a.group_id
        WHERE a.state = 'new' AND a.escalate AND a.duplicate_of IS NULL AND g.handled_alerts = 0 AND NOT EXISTS (
            SELECT FROM escalations AS e
            WHERE e.device_id = a.device_id AND e.metric = a.metric AND e.key_class = a.key_class
                AND (e.ended_at IS NULL OR e.status = 'completed'))""",
    "a group that forgot its escalation": """
        SELECT g.id FROM alert_groups AS g WHERE g.escalation_id IS NULL
            AND EXISTS (SELECT FROM escalations AS e WHERE e.group_id = g.id)""",
    "a step without a page": """
        SELECT escalation_id, pass, tier FROM escalation_steps
        EXCEPT SELECT escalation_id, pass, tier FROM notifications""",
    "a page without a step": """
        SELECT escalation_id, pass, tier FROM notifications
        EXCEPT SELECT escalation_id, pass, tier FROM escalation_steps""",
    "a page sent more than once": "SELECT id FROM notifications WHERE attempts > 1",
}


def report_at_random(source: random.Random, services: Services, devices: Sequence[str]) -> int:
    """Report one fault, or a batch of them; return the id of one."""
    reports = [
        make_alert(device_id=source.choice(devices), message=f"fault {source.randrange(3)}")
        for _ in range(source.randrange(1, 4))
    ]
    if source.random() < 0.5:
        answers = services.lifecycle.raise_alerts(reports, MACHINE).answers
    else:
        answers = services.lifecycle.raise_alert(reports[0], MACHINE).answers
    return int(source.choice(list(answers))["alert_id"])


def act_at_random(source: random.Random, services: Services, alert_id: int) -> None:
    """Acknowledge, resolve, escalate, or leave it."""
    choice = source.random()
    if choice < 0.4:
        services.lifecycle.transition(alert_id, ACKNOWLEDGE, PERSON)
    elif choice < 0.7:
        services.lifecycle.transition(alert_id, Transition("resolved", advance=True), PERSON)
    elif choice < 0.8:
        services.lifecycle.escalate(alert_id, None, PERSON)


def test_promises_hold_while_everybody_acts(
    make_services: Callable[[], Services], write_policy: Callable[..., int], sql: Sql
) -> None:
    """Single reports and batches on few keys, people who acknowledge, resolve and escalate, two workers."""
    write_policy(MAIL, Tier(0, ("sms",), ("+33612345678",)), SMS, repeat=1)
    devices = [make_device() for _ in range(3)]
    stopped = threading.Event()

    def act(source: random.Random, services: Services) -> None:
        for _ in range(60):
            alert_id = report_at_random(source, services, devices)
            with suppress(Conflict):  # somebody else was quicker
                act_at_random(source, services, alert_id)

    def work(services: Services) -> None:
        channels = {name: CountingChannel() for name in ("email", "sms")}
        outbox = Outbox(services.database, channels, "https://alerts.example.com", 30.0)
        while not stopped.is_set():
            services.escalations.run_once()
            outbox.run_once()
        assert outbox.wait_until_idle(PATIENCE_SECONDS)

    people = [make_services() for _ in range(4)]
    workers = [make_services() for _ in range(2)]
    with ThreadPoolExecutor(len(workers)) as pool:
        working = [pool.submit(work, services) for services in workers]
        try:
            run_together(*[lambda n=n, s=s: act(random.Random(n), s) for n, s in enumerate(people)])
        finally:
            stopped.set()
        for each in working:
            each.result(PATIENCE_SECONDS)
    broken = {name: rows for name, statement in BROKEN_PROMISES.items() if (rows := sql(statement))}
    assert broken == {}
    assert sql("SELECT count(*) > 10 FROM escalations WHERE status = 'cancelled'") == [(True,)]
    assert sql("SELECT count(*) > 10 FROM notifications WHERE status = 'sent'") == [(True,)]
