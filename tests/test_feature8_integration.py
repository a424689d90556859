"""The whole way of an alert, over real connections to a running web server with the real database."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import requests
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from escalation_engine import EngineResult
from foundation.clock import FrozenClock
from foundation.settings import Settings
from sla_tracker import SweepResult
from tests.factories import DEVICE, make_device, make_report
from tests.ml_streams import METRIC, STEP, make_values
from tests.test_webhook_channel import Receiver, run_receiver
from tests.twilio_double import ACCOUNT_SID, AUTH_TOKEN, FROM_NUMBER, TwilioDouble, run_double
from wiring import Services

TokenFor = Callable[..., str]

MINUTE = timedelta(minutes=1)
T0 = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
PARIS = ZoneInfo("Europe/Paris")
PATIENCE_SECONDS = 60.0


@pytest.fixture
def twilio() -> Iterator[TwilioDouble]:
    with run_double() as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with run_receiver() as running:
        yield running


@pytest.fixture
def settings(settings: Settings, twilio: TwilioDouble) -> Settings:
    """Settings for a hundred callers at once on a slow machine: none is turned away for want of a connection. SMS go
    to a double of Twilio, webhooks to loopback."""
    return settings.model_copy(
        update={
            "database_wait_seconds": PATIENCE_SECONDS,
            "public_url": "https://alerts.example.com",
            "twilio_account_sid": ACCOUNT_SID,
            "twilio_auth_token": AUTH_TOKEN,
            "twilio_from_number": FROM_NUMBER,
            "twilio_api_base_url": twilio.url,
            "webhook_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "webhook_allow_private": True,
        }
    )


class QuietHandler(WSGIRequestHandler):
    """Leaves the log of a failed test to what the product says."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@pytest.fixture
def address(app: Flask) -> Iterator[str]:
    """The base address of a server on loopback, with a thread for each connection."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}/api/v1"
    server.shutdown()
    serving.join(PATIENCE_SECONDS)
    server.server_close()


class Caller:
    """Somebody with a token; every call is a connection of its own."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}"}

    def call(self, method: str, path: str, status: int | None = None, **more: Any) -> Any:
        """Return the answer; with ``status`` given, only its JSON, after checking it."""
        with requests.Session() as session:
            session.trust_env = False  # loopback is never reached through a proxy
            answer = session.request(
                method, f"{self._address}{path}", headers=self._headers, timeout=PATIENCE_SECONDS, **more
            )
        if status is None:
            return answer
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str, **query: Any) -> Any:
        return self.call("GET", path, 200, params=query)

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        return self.call("POST", path, status, json=body)


@pytest.fixture
def caller(address: str, token_for: TokenFor) -> Callable[..., Caller]:
    """Return a caller: ``caller("operator", "ana")``."""

    def make(role: str, subject: str = "somebody") -> Caller:
        return Caller(address, token_for(role, subject=subject))

    return make


@pytest.fixture
def machine(caller: Callable[..., Caller]) -> Caller:
    """A gateway that reports alerts."""
    return caller("device", "gateway 7")


@pytest.fixture
def viewer(caller: Callable[..., Caller]) -> Caller:
    """Somebody who looks."""
    return caller("viewer", "vera")


@pytest.fixture
def ana(caller: Callable[..., Caller]) -> Caller:
    """An operator."""
    return caller("operator", "ana")


@pytest.fixture
def admin(caller: Callable[..., Caller]) -> Caller:
    """Somebody who writes policies and schedules."""
    return caller("admin", "root")


@pytest.fixture
def work(services: Services) -> Callable[[], EngineResult]:
    """Let the worker do what is due, until nothing more is; return what the engine did."""

    def turn() -> EngineResult:
        total = EngineResult()
        while True:
            result = services.escalations.run_once()
            claimed = services.outbox.run_once()
            assert services.outbox.wait_until_idle(PATIENCE_SECONDS)
            if result == EngineResult() and not claimed:
                return total
            total += result

    return turn


def report(machine: Caller, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = machine.post("/alerts", 201, **make_report(**fields))
    return answer


def call_together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make all calls at the same moment, each from a thread of its own; return the answers in order."""
    barrier = threading.Barrier(len(calls))

    def take_part(call: Callable[[], Any]) -> Any:
        barrier.wait(PATIENCE_SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(take_part, calls))


# --- the life of an alert


def test_alert_lifecycle_end_to_end(
    machine: Caller, viewer: Caller, ana: Caller, caller: Callable[..., Caller], clock: FrozenClock, services: Services
) -> None:
    ben = caller("engineer", "ben")
    user = services.accounts.create_user(
        email="ben@example.com", name="Ben", role="engineer", password="a long enough password"
    )
    raised = report(machine, metric="temperature")
    alert_id, group_id = raised["alert_id"], raised["group_id"]
    assert (raised["state"], raised["is_duplicate"]) == ("new", False)
    listed = viewer.get("/alerts", state="new", severity="critical")
    assert [(row["alert_id"], row["reported_by"]) for row in listed["data"]] == [(alert_id, "gateway 7")]
    assert viewer.get(f"/groups/{group_id}")["status"] == "active"
    assert viewer.call("POST", f"/alerts/{alert_id}/acknowledge").status_code == 403
    assert ana.post(f"/alerts/{alert_id}/resolve", 409)["allowed"] == ["acknowledged"]

    clock.advance(2 * MINUTE)
    acknowledged = ana.post(f"/alerts/{alert_id}/acknowledge", notes="on my way")
    assert (acknowledged["state"], acknowledged["sla"]["actual_tta"]) == ("acknowledged", 2.0)
    clock.advance(MINUTE)
    ana.post(f"/alerts/{alert_id}/notes", 201, notes="coolant flow is low")
    clock.advance(MINUTE)
    investigating = ben.post(f"/alerts/{alert_id}/investigate", assign_to_user_id=str(user.user_id))
    assert (investigating["state"], investigating["assigned_to_user_id"]) == ("investigating", str(user.user_id))
    clock.advance(10 * MINUTE)
    resolved = ben.post(f"/alerts/{alert_id}/resolve", notes="pump replaced", resolution="fixed")

    assert (resolved["state"], resolved["resolution"], resolved["sla"]["actual_ttr"]) == ("resolved", "fixed", 14.0)
    assert (resolved["sla"]["tta_breached"], resolved["sla"]["ttr_breached"]) == (False, False)
    assert (resolved["group"]["status"], resolved["group"]["open_alerts"]) == ("closed", 0)
    assert {**viewer.get(f"/alerts/{alert_id}"), "in_flight": 0} == resolved
    history = viewer.get(f"/alerts/{alert_id}/history")["data"]
    assert [(entry["by"], entry["state"], entry["notes"]) for entry in history] == [
        ("gateway 7", "new", None),
        ("ana", "acknowledged", "on my way"),
        ("ana", None, "coolant flow is low"),
        ("ben", "investigating", None),
        ("ben", "resolved", "pump replaced"),
    ]
    assert [datetime.fromisoformat(entry["created_at"]) - T0 for entry in history] == [
        minutes * MINUTE for minutes in (0, 2, 3, 4, 14)
    ]
    assert viewer.get("/alerts", state="new,acknowledged,investigating")["total"] == 0
    assert report(machine, metric="temperature")["group_id"] != group_id


def test_alert_lifecycle_with_sla_breach(
    machine: Caller, viewer: Caller, ana: Caller, clock: FrozenClock, services: Services
) -> None:
    alert_id = report(machine)["alert_id"]
    clock.advance(7 * MINUTE)
    assert services.sla.run_once() == SweepResult(checked=1, tta_breaches=1, ttr_breaches=0)
    late = ana.post(f"/alerts/{alert_id}/acknowledge")["sla"]
    assert (late["actual_tta"], late["tta_breached"], late["ttr_breached"]) == (7.0, True, False)
    ana.post(f"/alerts/{alert_id}/investigate")
    clock.advance(24 * MINUTE)
    assert services.sla.run_once() == SweepResult(checked=1, tta_breaches=0, ttr_breaches=1)
    resolved = ana.post(f"/alerts/{alert_id}/resolve", resolution="fixed")["sla"]
    assert (resolved["actual_ttr"], resolved["ttr_breached"]) == (31.0, True)
    [row] = viewer.get("/sla/compliance", severity="critical")["data"]
    assert (row["tta"]["breached"], row["ttr"]["breached"]) == (1, 1)
    assert (row["mtta"]["mean"], row["mttr"]["mean"]) == (7.0, 31.0)


def test_alert_reads_back_as_it_was_answered(machine: Caller, viewer: Caller) -> None:
    """The metric above all, which may come from the metadata: by one report and by a batch alike."""
    for fields in (
        {"metadata": {"metric": "temperature"}},
        {"metadata": {"metric": "temperature"}, "metric": "pressure"},
        {"metadata": {"metric": "temperature"}, "metric": ""},
        {"metadata": {"metric": 5}},
        {"metadata": {"metric": None}},
        {"metadata": {"metric": {"unit": "°C"}}},
        {},
    ):
        single = report(machine, device_id=make_device(), **fields)
        [batched] = machine.post("/alerts/batch", 201, alerts=[make_report(device_id=make_device(), **fields)])["data"]
        assert batched["metric"] == single["metric"], fields
        for answered in (single, batched):
            alert = viewer.get(f"/alerts/{answered['alert_id']}")
            assert alert["group"]["metric"] == answered["metric"], fields
            names = set(answered) & set(alert)
            assert {name: alert[name] for name in names} == {name: answered[name] for name in names}, fields


# --- escalation


def tier(delay_minutes: int, *recipients: str) -> dict[str, Any]:
    """Return a tier with the channels that its recipients need."""
    channels = dict.fromkeys("webhook" if "://" in recipient else "sms" for recipient in recipients)
    return {"delay_minutes": delay_minutes, "channels": list(channels), "recipients": list(recipients)}


def write_policy(admin: Caller, *tiers: dict[str, Any], **rules: Any) -> dict[str, Any]:
    rules = {"severity_match": ["critical"], "tiers": list(tiers), **rules}
    answer: dict[str, Any] = admin.post("/escalation-policies", 201, name="Critical line", rules=rules)
    return answer


def write_schedule(admin: Caller, **fields: Any) -> str:
    """Keep a weekly schedule of three people who hand over on Mondays at 08:00 in Paris; return its id."""
    people = [
        {"user_id": number, "name": name, "phone": f"+3361234567{number}"}
        for number, name in enumerate(("Ana", "Ben", "Cem"), start=1)
    ]
    schedule = {
        "name": "Line 3",
        "rotation_type": "weekly",
        "rotation_start": "2026-03-02T08:00:00",
        "timezone": "Europe/Paris",
        "users": {"users": people, "overrides": []},
        **fields,
    }
    return str(admin.post("/on-call/schedules", 201, **schedule)["schedule_id"])


def list_sms(twilio: TwilioDouble) -> list[str]:
    """Return the numbers that got an SMS, oldest first."""
    return [message["to"] for message in reversed(twilio.messages)]


def test_alert_lifecycle_with_escalation(
    machine: Caller,
    viewer: Caller,
    ana: Caller,
    admin: Caller,
    clock: FrozenClock,
    work: Callable[[], EngineResult],
    twilio: TwilioDouble,
    receiver: Receiver,
) -> None:
    hook = f"{receiver.url}/hook"
    policy = write_policy(admin, tier(0, "+33612345671", hook), tier(5, "+33612345672"))
    raised = report(machine, metric="temperature")
    alert_id, escalation_id = raised["alert_id"], raised["escalation_id"]
    assert viewer.get(f"/alerts/{alert_id}")["escalation"] == {
        "escalation_id": escalation_id,
        "policy_id": policy["policy_id"],
        "policy_name": "Critical line",
        "status": "pending",
        "current_tier": None,
        "next_tier_at": "2026-03-02T08:00:00+00:00",
        "pass": 1,
        "started_at": "2026-03-02T08:00:00+00:00",
        "ended_at": None,
    }
    assert work() == EngineResult(steps=1, notifications=2)
    clock.advance(2 * MINUTE)
    escalation = viewer.get(f"/alerts/{alert_id}")["escalation"]
    assert (escalation["status"], escalation["current_tier"]) == ("in_progress", 1)
    assert escalation["next_tier_at"] == "2026-03-02T08:05:00+00:00"
    assert ana.post(f"/alerts/{alert_id}/acknowledge")["in_flight"] == 0
    clock.advance(10 * MINUTE)
    assert work() == EngineResult()
    ana.post(f"/alerts/{alert_id}/investigate")
    resolved = ana.post(f"/alerts/{alert_id}/resolve", resolution="fixed")

    assert (resolved["escalation"]["status"], resolved["escalation"]["ended_at"]) == (
        "cancelled",
        "2026-03-02T08:02:00+00:00",
    )
    sent = viewer.get(f"/alerts/{alert_id}/notifications")["data"]
    assert sorted((n["channel"], n["recipient"], n["status"], n["tier"], n["attempts"]) for n in sent) == [
        ("sms", "+33612345671", "sent", 1, 1),
        ("webhook", hook, "sent", 1, 1),
    ]
    assert list_sms(twilio) == ["+33612345671"]
    [(_, path, _, _)] = receiver.requests
    assert path == "/hook"
    kinds = [entry["kind"] for entry in viewer.get(f"/alerts/{alert_id}/history")["data"]]
    assert Counter(kinds) == {"state": 4, "escalation": 2, "escalation_step": 1, "notification": 2}


def test_escalation_multi_tier(
    machine: Caller,
    viewer: Caller,
    admin: Caller,
    clock: FrozenClock,
    work: Callable[[], EngineResult],
    twilio: TwilioDouble,
) -> None:
    """Three tiers and a second pass, minute by minute, exactly as the simulation said."""
    tiers = [tier(0, "+33612345671"), tier(5, "+33612345672", "+33612345673"), tier(15, "+33612345674")]
    policy = write_policy(admin, *tiers, repeat=1)
    simulated = viewer.post(f"/escalation-policies/{policy['policy_id']}/simulate", severity="critical")
    alert_id = report(machine)["alert_id"]
    paged: list[tuple[int, list[str]]] = []
    for minute in range(61):
        before = len(list_sms(twilio))
        work()
        if numbers := list_sms(twilio)[before:]:
            paged.append((minute, sorted(numbers)))
        clock.advance(MINUTE)
    assert paged == [
        (start + delay, numbers)
        for start in (0, 30)
        for delay, numbers in (
            (0, ["+33612345671"]),
            (5, ["+33612345672", "+33612345673"]),
            (15, ["+33612345674"]),
        )
    ]
    assert paged == [
        (step["minutes"], sorted(target["address"] for target in step["targets"])) for step in simulated["timeline"]
    ]
    escalation = viewer.get(f"/alerts/{alert_id}")["escalation"]
    assert (escalation["status"], escalation["pass"], escalation["current_tier"], escalation["ended_at"]) == (
        "completed",
        2,
        3,
        "2026-03-02T09:00:00+00:00",
    )


@pytest.mark.parametrize("minute", [0, 3, 5, 14, 29])
def test_escalation_cancellation_on_ack(
    machine: Caller,
    viewer: Caller,
    ana: Caller,
    admin: Caller,
    clock: FrozenClock,
    work: Callable[[], EngineResult],
    twilio: TwilioDouble,
    minute: int,
) -> None:
    """At any minute, in the very minute of a tier too: what had gone out has gone out, nothing follows."""
    due = {0: "+33612345671", 5: "+33612345672", 15: "+33612345673"}
    write_policy(admin, *[tier(delay, number) for delay, number in due.items()])
    alert_id = report(machine)["alert_id"]
    for now in range(35):
        if now == minute:
            acknowledged = ana.post(f"/alerts/{alert_id}/acknowledge")
            assert (acknowledged["escalation"]["status"], acknowledged["in_flight"]) == ("cancelled", 0)
        work()
        clock.advance(MINUTE)
    assert list_sms(twilio) == [number for delay, number in due.items() if delay < minute]
    assert viewer.get(f"/alerts/{alert_id}/notifications")["total"] == len(list_sms(twilio))
    assert [e["status"] for e in viewer.get("/escalations")["data"]] == ["cancelled"]


def test_escalation_with_sms(
    machine: Caller,
    viewer: Caller,
    admin: Caller,
    clock: FrozenClock,
    work: Callable[[], EngineResult],
    twilio: TwilioDouble,
) -> None:
    """By Twilio's SDK: one number that gets the message, and one that is none, whose tier brings the next at once."""
    write_policy(admin, tier(0, "+15005550001"), tier(10, "+33612345671"))
    raised = report(machine, message="Bearing 85 °C", metadata={"device_name": "Press 4"})
    assert work() == EngineResult(steps=2, notifications=2)
    refused, sent = viewer.get(f"/alerts/{raised['alert_id']}/notifications")["data"]
    assert (refused["status"], refused["tier"], refused["attempts"]) == ("failed", 1, 1)
    assert "phone number" in refused["error"] or "21211" in refused["error"]
    assert (sent["status"], sent["tier"], sent["recipient"], sent["segments"]) == ("sent", 2, "+33612345671", 1)
    [message] = twilio.messages
    assert sent["provider_id"] == message["sid"]
    assert f"https://alerts.example.com/alerts/{raised['alert_id']}" in message["body"]
    assert "Press 4" in message["body"]
    assert "Bearing 85 C" in message["body"]
    assert f"notification={sent['notification_id']}" in twilio.callbacks[message["sid"]]


# --- on-call


def test_on_call_weekly_rotation(
    machine: Caller,
    viewer: Caller,
    ana: Caller,
    admin: Caller,
    clock: FrozenClock,
    work: Callable[[], EngineResult],
    twilio: TwilioDouble,
) -> None:
    """Who is on call week by week is who gets the SMS, from the very minute of the handover."""
    schedule_id = write_schedule(admin)
    write_policy(admin, tier(0, f"oncall:{schedule_id}"))
    handovers = [datetime(2026, 3, day, 8, 0, tzinfo=PARIS).astimezone(UTC) for day in (2, 9, 16, 23, 30)]
    for name, begins_at, ends_at in zip(("Ana", "Ben", "Cem", "Ana"), handovers, handovers[1:], strict=False):
        for moment in (max(begins_at, clock.now()), ends_at - MINUTE):
            clock.advance(moment - clock.now())
            current = viewer.get("/on-call/current", schedule_id=schedule_id)
            assert current["user"]["name"] == name, moment
            alert_id = report(machine, message=f"at {moment}")["alert_id"]
            work()
            assert list_sms(twilio)[-1] == current["user"]["phone"], moment
            ana.post(f"/alerts/{alert_id}/resolve", advance=True)
    assert len(list_sms(twilio)) == 8


def test_on_call_override(
    machine: Caller,
    viewer: Caller,
    admin: Caller,
    clock: FrozenClock,
    work: Callable[[], EngineResult],
    twilio: TwilioDouble,
) -> None:
    """Somebody stands in between two tiers of an escalation that runs."""
    schedule_id = write_schedule(admin)
    on_call = f"oncall:{schedule_id}"
    write_policy(admin, tier(0, on_call), tier(10, on_call), tier(20, on_call))
    admin.post(
        f"/on-call/schedules/{schedule_id}/overrides",
        201,
        start="2026-03-02T08:05:00+00:00",
        end="2026-03-02T08:20:00+00:00",
        user_id=3,
        reason="dentist",
    )
    report(machine)
    seen = []
    for _ in range(3):
        work()
        current = viewer.get("/on-call/current", schedule_id=schedule_id)
        seen.append((current["user"]["name"], current["is_override"], current["override_reason"]))
        clock.advance(10 * MINUTE)
    assert seen == [("Ana", False, None), ("Cem", True, "dentist"), ("Ana", False, None)]
    assert list_sms(twilio) == ["+33612345671", "+33612345673", "+33612345671"]


@pytest.mark.parametrize(
    ("zone", "before", "after"),
    [
        # Handover at 08:00 on the wall: an hour earlier in UTC once summer time has begun.
        ("Europe/Paris", "2026-03-23T07:00:00+00:00", "2026-03-30T06:00:00+00:00"),
        ("America/New_York", "2026-03-02T13:00:00+00:00", "2026-03-09T12:00:00+00:00"),
        ("Asia/Kolkata", "2026-03-23T02:30:00+00:00", "2026-03-30T02:30:00+00:00"),
    ],
)
def test_on_call_timezone_handling(
    machine: Caller,
    viewer: Caller,
    ana: Caller,
    admin: Caller,
    clock: FrozenClock,
    work: Callable[[], EngineResult],
    twilio: TwilioDouble,
    zone: str,
    before: str,
    after: str,
) -> None:
    schedule_id = write_schedule(admin, timezone=zone, rotation_start="2026-02-23T08:00:00")
    write_policy(admin, tier(0, f"oncall:{schedule_id}"))
    phones = []
    for handover in (datetime.fromisoformat(before), datetime.fromisoformat(after)):
        for moment in (handover - MINUTE, handover):
            clock.advance(moment - clock.now())
            current = viewer.get("/on-call/current", schedule_id=schedule_id)
            alert_id = report(machine, message=f"at {moment}")["alert_id"]
            work()
            phones.append(current["user"]["phone"])
            assert list_sms(twilio)[-1] == phones[-1]
            ana.post(f"/alerts/{alert_id}/resolve", advance=True)
        assert phones[-2] != phones[-1], "one hands over to the next"
        assert current["shift_start"] == handover.isoformat()


# --- SLA


def test_sla_breach_detection_tta(machine: Caller, viewer: Caller, clock: FrozenClock, services: Services) -> None:
    for severity, tta in (("critical", 5), ("high", 15), ("medium", 60), ("low", 240), ("info", 1440)):
        alert_id = report(machine, severity=severity)["alert_id"]

        def read(alert_id: str = alert_id) -> tuple[bool, bool]:
            sla = viewer.get(f"/alerts/{alert_id}")["sla"]
            return sla["tta_at_risk"], sla["tta_breached"]

        def count_breaches(severity: str = severity) -> int:
            """Count those of this severity: the clocks of the others run on."""
            [row] = viewer.get("/sla/compliance", severity=severity)["data"]
            return int(row["tta"]["breached"])

        assert read() == (False, False)
        clock.advance(0.75 * tta * MINUTE)
        assert read() == (True, False)
        clock.advance(0.25 * tta * MINUTE)
        services.sla.run_once()
        assert (read(), count_breaches()) == ((True, False), 0)
        clock.advance(timedelta(microseconds=1))
        # Seen at once; the sweep flags it, though nobody acts.
        assert (read(), count_breaches()) == ((False, True), 1)
        assert services.sla.run_once().tta_breaches == 1
        assert (read(), count_breaches()) == ((False, True), 1)


def test_sla_breach_detection_ttr(
    machine: Caller, viewer: Caller, ana: Caller, clock: FrozenClock, services: Services
) -> None:
    alert_id = report(machine)["alert_id"]
    ana.post(f"/alerts/{alert_id}/acknowledge")
    ana.post(f"/alerts/{alert_id}/investigate")

    def read() -> tuple[bool, bool, bool]:
        sla = viewer.get(f"/alerts/{alert_id}")["sla"]
        return sla["ttr_at_risk"], sla["ttr_breached"], sla["tta_breached"]

    clock.advance(30 * MINUTE)
    assert services.sla.run_once() == SweepResult(checked=0, tta_breaches=0, ttr_breaches=0)
    assert read() == (True, False, False)
    clock.advance(timedelta(microseconds=1))
    assert read() == (False, True, False)
    assert services.sla.run_once() == SweepResult(checked=1, tta_breaches=0, ttr_breaches=1)
    ana.post(f"/alerts/{alert_id}/resolve")
    assert read() == (False, True, False)


def test_sla_compliance_reporting(
    machine: Caller, viewer: Caller, ana: Caller, clock: FrozenClock, services: Services
) -> None:
    acknowledged_after = (1, 2, 3, 10)
    ids = [report(machine, device_id=make_device())["alert_id"] for _ in acknowledged_after]
    report(machine, device_id=make_device())  # nobody ever looks at this one
    report(machine, severity="high")
    report(machine, severity="high")  # its duplicate
    for minutes, alert_id in zip(acknowledged_after, ids, strict=True):
        clock.advance(T0 + minutes * MINUTE - clock.now())
        ana.post(f"/alerts/{alert_id}/acknowledge")
    clock.advance(T0 + 20 * MINUTE - clock.now())
    for alert_id in ids[:2]:
        ana.post(f"/alerts/{alert_id}/resolve", advance=True)
    services.sla.run_once()

    today = {"start_date": "2026-03-02", "end_date": "2026-03-03"}
    answer = viewer.get("/sla/compliance", **today)
    assert (answer["start_date"], answer["end_date"]) == ("2026-03-02T00:00:00+00:00", "2026-03-03T00:00:00+00:00")
    critical, high, *rest = answer["data"]
    assert critical == {
        "severity": "critical",
        "tta": {"eligible": 5, "met": 3, "breached": 2, "open_past_due": 1, "compliance_pct": 60.0},
        "ttr": {"eligible": 2, "met": 2, "breached": 0, "open_past_due": 0, "compliance_pct": 100.0},
        "mtta": {
            "mean": 4.0,
            "p50": 2.5,
            "p90": pytest.approx(3 + 0.7 * 7),
            "p95": pytest.approx(3 + 0.85 * 7),
        },
        "mttr": {"mean": 20.0, "p50": 20.0, "p90": 20.0, "p95": 20.0},
    }
    assert high["tta"] == {"eligible": 1, "met": 0, "breached": 1, "open_past_due": 1, "compliance_pct": 0.0}
    assert [row["severity"] for row in rest] == ["medium", "low", "info"]
    assert all(row["tta"]["compliance_pct"] is None and row["mttr"]["mean"] is None for row in rest)
    yesterday = viewer.get("/sla/compliance", start_date="2026-03-01", end_date="2026-03-02")
    assert all(row["tta"]["eligible"] == 0 for row in yesterday["data"])


# --- grouping


def test_alert_grouping_time_window(machine: Caller, viewer: Caller, clock: FrozenClock) -> None:
    def raise_at(now: timedelta, **fields: Any) -> str:
        clock.advance(T0 + now - clock.now())
        return str(report(machine, message=f"fault at {now}", **fields)["group_id"])

    first = raise_at(timedelta(0))
    # The window runs from the group's last alert, its end included.
    assert raise_at(5 * MINUTE) == first
    assert raise_at(10 * MINUTE) == first
    second = raise_at(15 * MINUTE + timedelta(microseconds=1))
    assert second != first
    assert viewer.get(f"/groups/{first}")["status"] == "closed"
    assert raise_at(16 * MINUTE, severity="high") not in (first, second)
    assert raise_at(16 * MINUTE, metric="pressure") not in (first, second)
    assert raise_at(16 * MINUTE, device_id=make_device()) not in (first, second)
    # A late report joins the group that is active now.
    assert raise_at(17 * MINUTE, occurred_at=T0.isoformat()) == second
    group = viewer.get(f"/groups/{second}")
    assert (group["status"], group["occurrence_count"], group["group_key"]) == ("active", 2, f"{DEVICE}::critical")
    assert (group["first_occurrence_at"], group["last_occurrence_at"]) == (
        "2026-03-02T08:00:00+00:00",
        "2026-03-02T08:15:00.000001+00:00",
    )
    groups = viewer.get("/groups", device_id=DEVICE)
    assert Counter(row["status"] for row in groups["data"]) == {"active": 3, "closed": 1}


def test_alert_grouping_deduplication(machine: Caller, viewer: Caller, ana: Caller) -> None:
    original = report(machine)
    repeats = [report(machine) for _ in range(3)]
    different = report(machine, message="Pressure lost")
    assert [(each["is_duplicate"], each["duplicate_of"]) for each in repeats] == [(True, original["alert_id"])] * 3
    assert (different["is_duplicate"], different["group_id"]) == (False, original["group_id"])
    assert not report(machine, severity="high")["is_duplicate"]

    ana.post(f"/alerts/{original['alert_id']}/acknowledge")
    assert all(viewer.get(f"/alerts/{each['alert_id']}")["state"] == "acknowledged" for each in repeats)
    late = report(machine)
    assert (late["state"], late["duplicate_of"]) == ("acknowledged", original["alert_id"])

    group = ana.post(f"/alerts/{original['alert_id']}/resolve", advance=True)["group"]
    assert (group["occurrence_count"], group["open_alerts"], group["status"]) == (6, 1, "active")
    assert viewer.get(f"/alerts/{late['alert_id']}")["state"] == "resolved"
    again = report(machine)
    assert (again["is_duplicate"], again["group_id"]) == (False, original["group_id"])
    assert viewer.get("/alerts", group_id=original["group_id"])["total"] == 7


def test_alert_grouping_noise_reduction(machine: Caller, viewer: Caller, clock: FrozenClock) -> None:
    """A morning in a plant: six machines chatter every minute for an hour, with pauses of different length."""
    devices = [make_device() for _ in range(6)]
    expected_groups, alerts = 0, 0
    last_minute: dict[str, int] = {}
    for minute in range(60):
        clock.advance(T0 + minute * MINUTE - clock.now())
        talking = [device for number, device in enumerate(devices) if minute % 20 < 5 + 2 * number]
        if not talking:
            continue
        reports = [make_report(device_id=device, message=f"vibration {minute % 3}") for device in talking]
        answer = machine.post("/alerts/batch", 201, alerts=reports)
        assert len(answer["data"]) == len(talking)
        for device in talking:
            expected_groups += minute - last_minute.get(device, -60) > 5
            last_minute[device] = minute
            alerts += 1

    stats = viewer.get("/groups/stats")
    assert (stats["total_groups"], stats["total_alerts"]) == (expected_groups, alerts)
    assert stats["noise_reduction_pct"] == pytest.approx(100 * (1 - expected_groups / alerts))
    assert stats["noise_reduction_pct"] >= 70
    assert stats["avg_alerts_per_group"] == pytest.approx(alerts / expected_groups)
    groups = viewer.get("/groups", limit=200)["data"]
    assert len(groups) == expected_groups
    assert sum(group["occurrence_count"] for group in groups) == alerts
    for group in groups:
        assert group["noise_reduction_pct"] == pytest.approx(100 * (1 - 1 / group["occurrence_count"]))


# --- many at once


def test_concurrent_alert_creation(machine: Caller, viewer: Caller) -> None:
    """128 reports at the same moment: half from devices of their own, half from one with eight faults, 16 of them
    in batches."""
    quiet = [make_report(device_id=make_device()) for _ in range(64)]
    hot = [make_report(message=f"fault {number % 8}") for number in range(64)]
    post = partial(machine.call, "POST")
    calls: list[Callable[[], Any]] = [partial(post, "/alerts", json=body) for body in (*quiet, *hot[:48])]
    calls += [partial(post, "/alerts/batch", json={"alerts": hot[at : at + 4]}) for at in range(48, 64, 4)]
    calls += [partial(viewer.call, "GET", "/alerts")] * 12
    answers = call_together(calls)
    assert Counter(answer.status_code for answer in answers) == {201: 116, 200: 12}

    singles = [answer.json() for answer in answers[:112]]
    raised = [*singles, *(row for answer in answers[112:116] for row in answer.json()["data"])]
    assert len({alert["alert_id"] for alert in raised}) == 128
    by_quiet, by_hot = raised[:64], raised[64:]
    assert len({alert["group_id"] for alert in by_quiet}) == 64
    assert not any(alert["is_duplicate"] for alert in by_quiet)

    [group_id] = {alert["group_id"] for alert in by_hot}
    originals = {alert["message"]: alert["alert_id"] for alert in by_hot if not alert["is_duplicate"]}
    assert len(originals) == sum(not alert["is_duplicate"] for alert in by_hot) == 8
    assert all(alert["duplicate_of"] == originals[alert["message"]] for alert in by_hot if alert["is_duplicate"])
    group = viewer.get(f"/groups/{group_id}")
    assert (group["status"], group["occurrence_count"], group["open_alerts"]) == ("active", 64, 64)

    stats = viewer.get("/groups/stats")
    assert (stats["total_groups"], stats["active_groups"], stats["total_alerts"]) == (65, 65, 128)
    assert stats["max_alerts_in_group"] == 64
    listed = viewer.get("/alerts", limit=200)
    assert listed["total"] == 128
    assert {row["alert_id"] for row in listed["data"]} == {alert["alert_id"] for alert in raised}
    assert all(row["state"] == "new" and row["sla"]["target_tta"] == 5 for row in listed["data"])


def test_concurrent_state_transitions(machine: Caller, viewer: Caller, caller: Callable[..., Caller]) -> None:
    """Forty people take the same step of one alert at the same moment, some by its duplicate."""
    people = [caller("operator", f"person {number}") for number in range(40)]
    ids = [report(machine)["alert_id"] for _ in range(2)]
    winners = []
    for action, state, allowed in (
        ("acknowledge", "acknowledged", ["investigating"]),
        ("investigate", "investigating", ["resolved"]),
        ("resolve", "resolved", []),
    ):
        answers = call_together(
            [
                partial(person.call, "POST", f"/alerts/{ids[number % 2]}/{action}")
                for number, person in enumerate(people)
            ]
        )
        assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 39}
        for number, answer in enumerate(answers):
            if answer.status_code == 200:
                assert answer.json()["state"] == state
                winners.append(f"person {number}")
                continue
            refusal = answer.json()
            assert refusal["code"] == "illegal_transition"
            assert (refusal["current_state"], refusal["allowed"]) == (state, allowed)

    for alert_id in ids:
        history = viewer.get(f"/alerts/{alert_id}/history")["data"]
        assert [entry["state"] for entry in history] == ["new", "acknowledged", "investigating", "resolved"]
        assert [entry["by"] for entry in history] == ["gateway 7", *winners]
    stats = viewer.get("/groups/stats")
    assert (stats["active_groups"], stats["closed_groups"]) == (0, 1)


# --- anomalies


class Sensor:
    """A sensor with a trained model. The clock goes along with its readings."""

    def __init__(self, engineer: Caller, machine: Caller, clock: FrozenClock, rows: int = 1500) -> None:
        self._machine, self._clock = machine, clock
        self.device_id = make_device()
        self._values = iter(make_values(rows + 200))
        times = [clock.now() - STEP * (rows - 1 - row) for row in range(rows)]
        body = [{"timestamp": at.isoformat(), "value": next(self._values)} for at in times]
        self.model = engineer.post("/ml/models/train", 201, device_id=self.device_id, metric=METRIC, rows=body)

    def read(self, readings: int, fault: float = 0.0) -> list[dict[str, Any]]:
        """Hand over the next readings, with a fault on top, and return what was said of each."""
        return [self._predict(fault) for _ in range(readings)]

    def _predict(self, fault: float) -> dict[str, Any]:
        self._clock.advance(STEP)
        body = {"device_id": self.device_id, "metric": METRIC, "value": next(self._values) + fault}
        answer: dict[str, Any] = self._machine.post("/ml/predict", timestamp=self._clock.now().isoformat(), **body)
        return {**body, **answer}


@pytest.fixture
def make_sensor(caller: Callable[..., Caller], machine: Caller, clock: FrozenClock) -> Callable[..., Sensor]:
    """Return a sensor whose model an engineer has trained: ``make_sensor(rows=400)``."""
    return partial(Sensor, caller("engineer", "eve"), machine, clock)


def test_ml_anomaly_to_alert(make_sensor: Callable[..., Sensor], viewer: Caller, clock: FrozenClock) -> None:
    sensor = make_sensor()
    quiet = sensor.read(60)
    assert all((said["is_anomaly"], said["alert_id"]) == (1, None) for said in quiet)
    began_at = clock.now() + STEP
    fault = sensor.read(40, 30.0)
    for said in fault:
        assert said["model_id"] == sensor.model["model_id"]
        assert (said["is_anomaly"] == -1) == (said["confidence"] >= 0.50)
        assert (said["alert_id"] is not None) == (said["confidence"] >= 0.70)
    # Announced with its first reading, and the model comes to terms with the new level by and by.
    first, last = fault[0], fault[-1]
    assert first["confidence"] >= 0.80
    assert last["alert_id"] is None

    raised = [said for said in fault if said["alert_id"] is not None]
    alert = viewer.get(f"/alerts/{first['alert_id']}")
    assert (alert["device_id"], alert["metric"], alert["state"]) == (sensor.device_id, METRIC, "new")
    assert alert["severity"] == ("high" if first["confidence"] >= 0.85 else "medium")
    assert alert["message"] == (
        f"ML anomaly detected: {METRIC}={first['value']:.2f} (confidence: {first['confidence']:.2%})"
    )
    assert alert["metadata"] == {
        "source": "ml_anomaly_detection",
        "model_id": sensor.model["model_id"],
        "confidence": first["confidence"],
        "metric": METRIC,
        "value": first["value"],
        "threshold_exceeded": True,
    }
    assert datetime.fromisoformat(alert["occurred_at"]) == began_at
    [group] = viewer.get("/groups", device_id=sensor.device_id)["data"]
    assert (group["group_id"], group["occurrence_count"]) == (alert["group_id"], len(raised))
    record = viewer.get(f"/ml/models/{sensor.model['model_id']}")
    assert (record["rows_seen"], record["alerts_raised"]) == (1600, len(raised))


def test_ml_auto_escalation(
    make_sensor: Callable[..., Sensor],
    viewer: Caller,
    ana: Caller,
    admin: Caller,
    clock: FrozenClock,
    work: Callable[[], EngineResult],
    twilio: TwilioDouble,
) -> None:
    severities = ["low", "medium", "high", "critical"]
    policy = write_policy(admin, tier(0, "+33612345671"), tier(30, "+33612345672"), severity_match=severities)
    # A model that has seen few rows is never sure enough to wake anybody.
    young = [said for said in make_sensor(rows=590).read(6, 300.0) if said["alert_id"] is not None]
    assert young
    assert work() == EngineResult()
    assert all(viewer.get(f"/alerts/{said['alert_id']}")["escalation"] is None for said in young)

    sensor = make_sensor()
    first, *more = sensor.read(4, 30.0)
    assert first["confidence"] >= 0.80
    escalation = viewer.get(f"/alerts/{first['alert_id']}")["escalation"]
    assert (escalation["policy_id"], escalation["status"]) == (policy["policy_id"], "pending")
    assert work() == EngineResult(steps=1, notifications=1)
    # It goes on, and it is one group, one escalation, one page.
    more += sensor.read(2, 30.0)
    assert work() == EngineResult()
    assert list_sms(twilio) == ["+33612345671"]
    raised = [said["alert_id"] for said in more if said["alert_id"] is not None]
    assert raised
    shown = [viewer.get(f"/alerts/{alert_id}") for alert_id in raised]
    assert {alert["group_id"] for alert in shown} == {viewer.get(f"/alerts/{first['alert_id']}")["group_id"]}
    assert len(viewer.get("/escalations")["data"]) == 1

    ana.post(f"/alerts/{first['alert_id']}/acknowledge")
    clock.advance(60 * MINUTE)
    assert work() == EngineResult()
    assert list_sms(twilio) == ["+33612345671"]


def test_ml_false_positive_tracking(
    make_sensor: Callable[..., Sensor], viewer: Caller, ana: Caller, address: str
) -> None:
    sensor = make_sensor()
    raised = [said for said in sensor.read(8, 30.0) if said["alert_id"] is not None]
    assert len(raised) > 2
    other = make_sensor()
    [elsewhere] = other.read(1, 30.0)
    assert elsewhere["alert_id"] is not None
    false, true = raised[:2], raised[2:]
    for said in false:
        ana.post(f"/alerts/{said['alert_id']}/resolve", resolution="false_positive", advance=True)
    for said in true:
        ana.post(f"/alerts/{said['alert_id']}/resolve", resolution="fixed", advance=True)

    record = viewer.get(f"/ml/models/{sensor.model['model_id']}")
    assert [record[name] for name in ("alerts_raised", "alerts_resolved", "false_positives")] == [
        len(raised),
        len(raised),
        2,
    ]
    assert record["measured_precision"] == pytest.approx(1 - 2 / len(raised))
    assert record["promised_precision"] == pytest.approx(sum(said["confidence"] for said in raised) / len(raised))
    record = viewer.get(f"/ml/models/{other.model['model_id']}")
    assert (record["alerts_raised"], record["alerts_resolved"], record["false_positives"]) == (1, 0, 0)
    metrics = requests.get(f"{address.removesuffix('/api/v1')}/metrics", timeout=PATIENCE_SECONDS).text
    assert 'advanced_alerting_ml_false_positives_total{algorithm="surprise"} 2.0' in metrics
