"""The outbox over a real database: claims, leases, attempts, and what becomes of a page when something goes wrong."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from alert_state_machine import Actor, Transition
from alert_store import AlertReport
from escalation_policies import PolicyDraft
from escalation_rules import Rules, Tier
from foundation.clock import FrozenClock
from foundation.errors import Unavailable
from foundation.settings import Settings
from notifications.channel import Channel, Outcome, Page, PermanentFailure, RateLimited, Sent, TemporaryFailure
from notifications.outbox import SENDERS_PER_CHANNEL, Outbox
from notifications.retries import GIVE_UP_SECONDS, MOST_ATTEMPTS
from notifications.twilio_status import StatusReport
from tests.factories import make_device
from wiring import Services, build_services

Sql = Callable[..., list[tuple[Any, ...]]]
Behaviour = Callable[[Page], Outcome]

MACHINE = Actor("gateway", "system")
PERSON = Actor("ana")
PATIENCE_SECONDS = 60.0
LEASE_SECONDS = 30.0
BASE_URL = "https://alerts.example.com"
SECOND = timedelta(seconds=1)
MAIL, NUMBER, URL = "shift@example.com", "+33612345678", "https://example.com/hook"


class ScriptedChannel:
    """Answers as told, page by page, and then takes everything in; remembers what it was given."""

    def __init__(self, *answers: Outcome | Behaviour) -> None:
        self.pages: list[Page] = []
        self.always: Outcome | Behaviour = Sent()
        self._answers = list(answers)
        self._lock = threading.Lock()

    def send(self, page: Page) -> Outcome:
        with self._lock:
            self.pages.append(page)
            answer = self._answers.pop(0) if self._answers else self.always
        return answer(page) if callable(answer) else answer

    @property
    def sends(self) -> list[int]:
        """The notifications that were given, in order."""
        return [page.notification_id for page in self.pages]


class AskableChannel(ScriptedChannel):
    """One whose provider can be asked what it took in."""

    def __init__(self, *answers: Outcome | Behaviour, found: list[Sent | Unavailable | None]) -> None:
        super().__init__(*answers)
        self.questions: list[tuple[str, int]] = []
        self._found = found

    def find_sent(self, address: str, notification_id: int) -> Sent | None:
        self.questions.append((address, notification_id))
        found = self._found.pop(0)
        if isinstance(found, Unavailable):
            raise found
        return found


class Gate:
    """Holds pages up until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self._opened = threading.Event()
        self._lock = threading.Lock()
        self.inside = 0
        self.most_inside = 0

    def hold(self, outcome: Outcome | None = None) -> Behaviour:
        """Return a behaviour that answers only after the gate was opened."""

        def wait(_: Page) -> Outcome:
            with self._lock:
                self.inside += 1
                self.most_inside = max(self.inside, self.most_inside)
            self.reached.release()
            self._opened.wait(PATIENCE_SECONDS)
            with self._lock:
                self.inside -= 1
            return outcome or Sent()

        return wait

    def await_pages(self, count: int = 1) -> None:
        """Wait until so many more are held."""
        for _ in range(count):
            assert self.reached.acquire(timeout=PATIENCE_SECONDS)

    def open(self) -> None:
        """Let everything through."""
        self._opened.set()


@pytest.fixture
def make_outbox(settings: Settings, clock: FrozenClock) -> Iterator[Callable[..., Outbox]]:
    """Return an outbox with connections of its own, as each worker has them: ``make_outbox(email=channel)``."""
    made: list[tuple[Services, Outbox]] = []

    def make(jitter: float = 0.5, **channels: Channel) -> Outbox:
        worker = build_services(settings, clock)
        made.append((worker, Outbox(worker.database, channels, BASE_URL, LEASE_SECONDS, lambda: jitter)))
        return made[-1][1]

    yield make
    for worker, outbox in made:
        outbox.stop(PATIENCE_SECONDS)
        worker.database.close()


@pytest.fixture
def make_gate(make_outbox: Callable[..., Outbox]) -> Iterator[Callable[[], Gate]]:
    """Return a gate that opens at the latest when the test is over, before its outboxes are stopped."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate())
        return made[-1]

    yield make
    for gate in made:
        gate.open()


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    return make_gate()


@pytest.fixture
def page(services: Services, sql: Sql) -> Callable[..., list[int]]:
    """Write notifications by a real escalation and return their ids: ``page(MAIL, NUMBER, later=[URL])``."""

    def write(*addresses: str, later: tuple[str, ...] = (), alerts: int = 1, **fields: Any) -> list[int]:
        tiers = [Tier(0, _channels(addresses), addresses)]
        if later:
            tiers.append(Tier(30, _channels(later), later))
        if sql("SELECT count(*) FROM escalation_policies") == [(0,)]:
            services.policies.create_policy(PolicyDraft("line", Rules(("critical",), tuple(tiers))))
        services.lifecycle.raise_alerts([AlertReport(**{**_report(), **fields}) for _ in range(alerts)], MACHINE)
        known = {row[0] for row in sql("SELECT id FROM notifications")}
        services.escalations.run_once()
        return [row[0] for row in sql("SELECT id FROM notifications ORDER BY id") if row[0] not in known]

    return write


def _report() -> dict[str, Any]:
    return {"device_id": make_device(), "severity": "critical", "message": "too hot", "metadata": {}}


def _channels(addresses: tuple[str, ...]) -> tuple[str, ...]:
    kinds = ["sms" if a.startswith("+") else "webhook" if "://" in a else "email" for a in addresses]
    return tuple(dict.fromkeys(kinds))


def run(outbox: Outbox) -> int:
    """Let an outbox send what is due and wait for it."""
    claimed = outbox.run_once()
    assert outbox.wait_until_idle(PATIENCE_SECONDS)
    return claimed


def read_status(sql: Sql) -> list[tuple[Any, ...]]:
    return sql("SELECT status::text, attempts, error FROM notifications ORDER BY id")


def acknowledge(services: Services, sql: Sql) -> int:
    """Acknowledge the newest alert; return how many notifications were on their way."""
    [(alert_id,)] = sql("SELECT max(id) FROM alerts")
    return int(services.lifecycle.transition(alert_id, Transition("acknowledged"), PERSON)["in_flight"])


# --- claims


def test_page_says_what_the_alert_says(page: Any, make_outbox: Any) -> None:
    channel = ScriptedChannel()
    [notification_id] = page(MAIL, metric="temperature", metadata={"device_name": "Press 4"}, message="85 °C")
    run(make_outbox(email=channel))
    [sent] = channel.pages
    assert (sent.notification_id, sent.severity, sent.message, sent.metric) == (
        notification_id, "critical", "85 °C", "temperature",
    )  # fmt: skip
    assert (sent.device_name, sent.address, sent.link) == ("Press 4", MAIL, f"{BASE_URL}/alerts/{sent.alert_id}")


def test_what_the_provider_says_is_kept(page: Any, make_outbox: Any, sql: Sql) -> None:
    page(NUMBER)
    channel = ScriptedChannel(Sent("SM1", "queued", 2, Decimal("-0.0150"), "USD"))
    outbox = make_outbox(sms=channel)
    assert (run(outbox), run(outbox)) == (1, 0)
    assert sql(
        """SELECT status::text, attempts, provider_id, provider_status, segments, price, price_unit, due_at, error,
                  sent_at = created_at FROM notifications"""
    ) == [("sent", 1, "SM1", "queued", 2, Decimal("-0.0150"), "USD", None, None, True)]


def test_one_turn_works_off_everything_that_is_due(page: Any, make_outbox: Any) -> None:
    written = page(MAIL, NUMBER, alerts=3 * SENDERS_PER_CHANNEL)
    email, sms = ScriptedChannel(), ScriptedChannel()
    assert run(make_outbox(email=email, sms=sms)) == 2 * SENDERS_PER_CHANNEL
    assert sorted(email.sends + sms.sends) == written


def test_outboxes_side_by_side_send_each_page_once(page: Any, make_outbox: Any, sql: Sql) -> None:
    written = page(MAIL, NUMBER, URL, alerts=100)
    channels = [{name: ScriptedChannel() for name in ("email", "sms", "webhook")} for _ in range(3)]
    outboxes = [make_outbox(**each) for each in channels]
    barrier = threading.Barrier(len(outboxes))

    def work(outbox: Outbox) -> None:
        barrier.wait(PATIENCE_SECONDS)
        while sql("SELECT 1 FROM notifications WHERE status = 'pending' LIMIT 1"):
            outbox.run_once()

    with ThreadPoolExecutor(len(outboxes)) as pool:
        list(pool.map(work, outboxes))
    assert all(outbox.wait_until_idle(PATIENCE_SECONDS) for outbox in outboxes)
    sends = Counter(number for each in channels for channel in each.values() for number in channel.sends)
    assert sends == dict.fromkeys(written, 1)
    assert sql("SELECT DISTINCT status::text, attempts FROM notifications") == [("sent", 1)]


def test_claim_passes_over_what_somebody_else_holds(page: Any, make_outbox: Any, database_url: str) -> None:
    first, second = page(MAIL, alerts=2)
    channel = ScriptedChannel()
    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM notifications WHERE id = %s FOR NO KEY UPDATE", (first,))
        assert run(make_outbox(email=channel)) == 1
    assert channel.sends == [second]


def test_channel_holds_no_more_at_once_than_it_has_senders(page: Any, make_outbox: Any, gate: Gate) -> None:
    page(MAIL, alerts=3 * SENDERS_PER_CHANNEL)
    channel = ScriptedChannel()
    channel.always = gate.hold()
    outbox = make_outbox(email=channel)
    assert outbox.run_once() == SENDERS_PER_CHANNEL
    gate.await_pages(SENDERS_PER_CHANNEL)
    assert outbox.run_once() == 0
    gate.open()
    assert outbox.wait_until_idle(PATIENCE_SECONDS)
    assert (gate.most_inside, len(channel.pages)) == (SENDERS_PER_CHANNEL, 3 * SENDERS_PER_CHANNEL)


def test_channel_that_hangs_holds_up_no_other(page: Any, make_outbox: Any, gate: Gate, sql: Sql) -> None:
    page(NUMBER, MAIL, alerts=3 * SENDERS_PER_CHANNEL)
    sms, email = ScriptedChannel(), ScriptedChannel()
    sms.always = gate.hold()
    outbox = make_outbox(sms=sms, email=email)
    outbox.run_once()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sql("SELECT 1 FROM notifications WHERE channel = 'email' AND status <> 'sent'"):
        assert time.monotonic() < deadline
        outbox.run_once()
    assert len(email.pages) == 3 * SENDERS_PER_CHANNEL
    assert sql("SELECT count(*) FROM notifications WHERE channel = 'sms' AND status = 'sent'") == [(0,)]


def test_outbox_that_stops_claims_nothing_more(page: Any, make_outbox: Any, gate: Gate, sql: Sql) -> None:
    page(MAIL, alerts=2 * SENDERS_PER_CHANNEL)
    channel = ScriptedChannel()
    channel.always = gate.hold()
    outbox = make_outbox(email=channel)
    outbox.run_once()
    gate.await_pages(SENDERS_PER_CHANNEL)
    assert outbox.stop(0.05) is False
    gate.open()
    assert outbox.stop(PATIENCE_SECONDS) is True
    assert sql("SELECT status::text, count(*) FROM notifications GROUP BY 1 ORDER BY 1") == [
        ("pending", SENDERS_PER_CHANNEL),
        ("sent", SENDERS_PER_CHANNEL),
    ]


# --- leases


def test_lease_keeps_others_away_until_it_ends(
    page: Any, make_outbox: Any, gate: Gate, clock: FrozenClock, sql: Sql
) -> None:
    [number] = page(MAIL)
    hanging, healthy = ScriptedChannel(gate.hold()), ScriptedChannel()
    make_outbox(email=hanging).run_once()
    gate.await_pages()
    other = make_outbox(email=healthy)
    clock.advance((LEASE_SECONDS - 1) * SECOND)
    assert run(other) == 0
    clock.advance(SECOND)
    assert run(other) == 1
    assert (hanging.sends, healthy.sends) == ([number], [number])
    assert read_status(sql) == [("sent", 2, None)]


@pytest.mark.parametrize("late", [PermanentFailure("too late"), TemporaryFailure("too late"), RateLimited("too late")])
def test_sender_whose_lease_ended_changes_nothing_by_a_failure(
    page: Any, make_outbox: Any, make_gate: Any, clock: FrozenClock, sql: Sql, late: Outcome
) -> None:
    page(MAIL)
    slow, quick = make_gate(), make_gate()
    first = make_outbox(email=ScriptedChannel(slow.hold(late)))
    second = make_outbox(email=ScriptedChannel(quick.hold(Sent("M2"))))
    first.run_once()
    slow.await_pages()
    clock.advance(LEASE_SECONDS * SECOND)
    second.run_once()
    quick.await_pages()
    slow.open()
    assert first.wait_until_idle(PATIENCE_SECONDS)
    assert read_status(sql) == [("sending", 2, None)]
    quick.open()
    assert second.wait_until_idle(PATIENCE_SECONDS)
    assert sql("SELECT status::text, provider_id FROM notifications") == [("sent", "M2")]


@pytest.mark.parametrize("second_outcome", [PermanentFailure("refused"), TemporaryFailure("away")])
def test_sender_whose_lease_ended_may_still_tell_that_the_page_went_out(
    page: Any, make_outbox: Any, make_gate: Any, clock: FrozenClock, sql: Sql, second_outcome: Outcome
) -> None:
    page(MAIL)
    slow, quick = make_gate(), make_gate()
    first = make_outbox(email=ScriptedChannel(slow.hold(Sent("M1"))))
    second = make_outbox(email=ScriptedChannel(quick.hold(second_outcome)))
    first.run_once()
    slow.await_pages()
    clock.advance(LEASE_SECONDS * SECOND)
    second.run_once()
    quick.await_pages()
    slow.open()
    assert first.wait_until_idle(PATIENCE_SECONDS)
    quick.open()
    assert second.wait_until_idle(PATIENCE_SECONDS)
    assert sql("SELECT status::text, provider_id, due_at FROM notifications") == [("sent", "M1", None)]


def test_page_whose_senders_all_died_ends_after_five_attempts(
    page: Any, make_outbox: Any, gate: Gate, clock: FrozenClock, services: Services, sql: Sql
) -> None:
    page(MAIL, later=(URL,))
    channel = ScriptedChannel()
    channel.always = gate.hold()
    for _ in range(MOST_ATTEMPTS):
        assert make_outbox(email=channel).run_once() == 1
        gate.await_pages()
        clock.advance(LEASE_SECONDS * SECOND)
    assert run(make_outbox(email=channel)) == 1
    assert len(channel.pages) == MOST_ATTEMPTS
    assert sql("SELECT status::text, error FROM notifications") == [
        ("failed", "the answer to the last attempt was lost")
    ]
    assert services.escalations.run_once().steps == 1


# --- asking before sending again


def test_provider_is_not_asked_before_the_first_attempt(page: Any, make_outbox: Any) -> None:
    page(NUMBER)
    channel = AskableChannel(found=[])
    run(make_outbox(sms=channel))
    assert (len(channel.pages), channel.questions) == (1, [])


@pytest.mark.parametrize("interruption", ["lost answer", "worker died"])
def test_message_that_the_provider_took_in_is_not_sent_again(
    page: Any, make_outbox: Any, gate: Gate, clock: FrozenClock, sql: Sql, interruption: str
) -> None:
    [number] = page(NUMBER)
    if interruption == "lost answer":
        first = AskableChannel(TemporaryFailure("the connection broke", may_have_gone_out=True), found=[])
        run(make_outbox(sms=first))
    else:
        first = AskableChannel(gate.hold(), found=[])
        make_outbox(sms=first).run_once()
        gate.await_pages()
    clock.advance(LEASE_SECONDS * SECOND)
    second = AskableChannel(found=[Sent("SM1", "delivered", 1)])
    run(make_outbox(sms=second))
    assert (first.sends, second.sends, second.questions) == ([number], [], [(NUMBER, number)])
    assert sql("SELECT status::text, provider_id, segments FROM notifications") == [("sent", "SM1", 1)]


def test_message_that_the_provider_does_not_know_is_sent_again(page: Any, make_outbox: Any, clock: FrozenClock) -> None:
    [number] = page(NUMBER)
    channel = AskableChannel(TemporaryFailure("the connection broke", may_have_gone_out=True), found=[None])
    outbox = make_outbox(sms=channel)
    run(outbox)
    clock.advance(LEASE_SECONDS * SECOND)
    run(outbox)
    assert (channel.sends, channel.questions) == ([number, number], [(NUMBER, number)])


def test_provider_is_asked_again_at_each_later_attempt(
    page: Any, make_outbox: Any, clock: FrozenClock, sql: Sql
) -> None:
    """Once an answer was lost, a later plain refusal does not make the message unsent."""
    [number] = page(NUMBER)
    channel = AskableChannel(
        TemporaryFailure("the connection broke", may_have_gone_out=True),
        TemporaryFailure("503"),
        found=[None, Unavailable("no answer"), Sent("SM1")],
    )
    outbox = make_outbox(sms=channel)
    for _ in range(4):
        run(outbox)
        clock.advance(24 * SECOND)
    assert channel.sends == [number, number]
    assert channel.questions == [(NUMBER, number)] * 3
    assert sql("SELECT status::text, attempts, provider_id FROM notifications") == [("sent", 4, "SM1")]


# --- attempts


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_temporary_failures_get_five_attempts_within_two_minutes(
    page: Any, make_outbox: Any, clock: FrozenClock, services: Services, sql: Sql, jitter: float
) -> None:
    page(MAIL, later=(URL,))
    channel = ScriptedChannel()
    channel.always = TemporaryFailure("421 try again later")
    outbox = make_outbox(email=channel, jitter=jitter)
    began_at = clock.now()
    pauses = []
    while run(outbox):
        [(due_at, status)] = sql("SELECT due_at, status::text FROM notifications")
        if due_at is None:
            break
        assert status == "pending"
        pauses.append((due_at - clock.now()).total_seconds())
        clock.advance(due_at - clock.now() - timedelta(microseconds=1))
        assert run(outbox) == 0, "not before its time"
        clock.advance(timedelta(microseconds=1))
    assert pauses == pytest.approx([3 * (0.5 + jitter) * 2**n for n in range(MOST_ATTEMPTS - 1)])
    assert (clock.now() - began_at).total_seconds() <= GIVE_UP_SECONDS
    assert len(channel.pages) == MOST_ATTEMPTS
    assert read_status(sql) == [("failed", MOST_ATTEMPTS, "421 try again later")]
    assert services.escalations.run_once().steps == 1, "the next tier at once"


def test_page_that_gets_through_at_the_second_attempt(
    page: Any, make_outbox: Any, clock: FrozenClock, sql: Sql
) -> None:
    page(MAIL)
    channel = ScriptedChannel(TemporaryFailure("421 try again later"))
    outbox = make_outbox(email=channel)
    run(outbox)
    assert read_status(sql) == [("pending", 1, "421 try again later")]
    clock.advance(3 * SECOND)
    run(outbox)
    assert read_status(sql) == [("sent", 2, None)]


def test_retry_after_is_kept(page: Any, make_outbox: Any, clock: FrozenClock, sql: Sql) -> None:
    page(MAIL)
    channel = ScriptedChannel(TemporaryFailure("429", retry_after_seconds=40))
    outbox = make_outbox(email=channel)
    run(outbox)
    clock.advance(39 * SECOND)
    assert run(outbox) == 0
    clock.advance(SECOND)
    assert run(outbox) == 1
    assert read_status(sql) == [("sent", 2, None)]


def test_retry_after_beyond_the_two_minutes_is_a_failure(
    page: Any, make_outbox: Any, services: Services, sql: Sql
) -> None:
    page(MAIL, later=(URL,))
    run(make_outbox(email=ScriptedChannel(TemporaryFailure("429", retry_after_seconds=3600))))
    assert read_status(sql) == [("failed", 1, "429")]
    assert services.escalations.run_once().steps == 1


def test_permanent_failure_is_tried_once(
    page: Any, make_outbox: Any, clock: FrozenClock, services: Services, sql: Sql
) -> None:
    page(MAIL, later=(URL,))
    channel = ScriptedChannel(PermanentFailure("550 no such user", is_setting_fault=True))
    outbox = make_outbox(email=channel)
    run(outbox)
    clock.advance(60 * SECOND)
    assert run(outbox) == 0
    assert read_status(sql) == [("failed", 1, "550 no such user")]
    assert sql("SELECT is_setting_fault, sent_at FROM notifications") == [(True, None)]
    assert services.escalations.run_once().steps == 1


def test_recipient_with_enough_sms_gets_the_other_channels(
    page: Any, make_outbox: Any, services: Services, sql: Sql
) -> None:
    page(NUMBER, MAIL, later=(URL,))
    email = ScriptedChannel()
    run(make_outbox(sms=ScriptedChannel(RateLimited("10 SMS in this hour")), email=email))
    assert sql("SELECT channel, status::text, error FROM notifications ORDER BY 1") == [
        ("email", "sent", None),
        ("sms", "rate_limited", "10 SMS in this hour"),
    ]
    assert services.escalations.run_once().steps == 0


def test_tier_of_which_everything_is_refused_brings_the_next_one_at_once(
    page: Any, make_outbox: Any, services: Services, sql: Sql
) -> None:
    page(NUMBER, MAIL, later=(URL,))
    sms, email = ScriptedChannel(RateLimited("10 SMS in this hour")), ScriptedChannel(PermanentFailure("550"))
    run(make_outbox(sms=sms))
    assert services.escalations.run_once().steps == 0, "the e-mail may still get through"
    run(make_outbox(email=email))
    assert services.escalations.run_once().steps == 1
    assert sql("SELECT channel FROM notifications WHERE tier = 2") == [("webhook",)]


def test_pages_that_fail_at_the_same_moment_bring_one_next_tier(
    page: Any, make_outbox: Any, services: Services, sql: Sql
) -> None:
    """Whichever of the two is recorded last sees the other."""
    page(NUMBER, MAIL, later=(URL,), alerts=40)
    together = threading.Barrier(2)

    def fail(_: Page) -> Outcome:
        together.wait(PATIENCE_SECONDS)
        return PermanentFailure("refused")

    sms, email = ScriptedChannel(), ScriptedChannel()
    sms.always = email.always = fail
    run(make_outbox(sms=sms, email=email))
    assert services.escalations.run_once().steps == 40
    assert sql("SELECT tier, count(*) FROM notifications GROUP BY 1 ORDER BY 1") == [(1, 80), (2, 40)]


def test_channel_that_raises_costs_one_attempt_of_one_page(
    page: Any, make_outbox: Any, clock: FrozenClock, sql: Sql
) -> None:
    page(MAIL, alerts=2 * SENDERS_PER_CHANNEL)

    def stumble(_: Page) -> Outcome:
        raise ZeroDivisionError("a fault")

    channel = ScriptedChannel(stumble)
    outbox = make_outbox(email=channel)
    run(outbox)
    assert sql("SELECT status::text, count(*) FROM notifications GROUP BY 1 ORDER BY 1") == [
        ("pending", 1),
        ("sent", 2 * SENDERS_PER_CHANNEL - 1),
    ]
    assert sql("SELECT error, may_have_gone_out FROM notifications WHERE status = 'pending'") == [
        ("a fault in the channel (ZeroDivisionError)", True)
    ]
    clock.advance(3 * SECOND)
    run(outbox)
    assert sql("SELECT DISTINCT status::text FROM notifications") == [("sent",)]


def test_channel_that_finds_the_database_away_is_tried_again(
    page: Any, make_outbox: Any, clock: FrozenClock, sql: Sql
) -> None:
    page(NUMBER)

    def fail(_: Page) -> Outcome:
        raise Unavailable("the database is busy")

    outbox = make_outbox(sms=ScriptedChannel(fail))
    run(outbox)
    assert read_status(sql) == [("pending", 1, "the database is busy")]
    clock.advance(3 * SECOND)
    run(outbox)
    assert read_status(sql) == [("sent", 2, None)]


# --- the database goes away


def test_outcome_is_recorded_once_the_database_is_back(
    page: Any, make_outbox: Any, database_url: str, sql: Sql
) -> None:
    page(MAIL)
    name = psycopg2.extensions.parse_dsn(database_url)["dbname"]
    with closing(psycopg2.connect(make_dsn(database_url, dbname="postgres"))) as server:
        server.autocommit = True

        def admit(admits: bool) -> None:
            with server.cursor() as cursor:
                cursor.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS {str(admits).lower()}')
                if not admits:
                    cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

        def take_database_away(_: Page) -> Outcome:
            admit(False)
            return Sent("M1")

        channel = ScriptedChannel(take_database_away)
        outbox = make_outbox(email=channel)
        assert outbox.run_once() == 1
        assert not outbox.wait_until_idle(0.3), "it waits for the database"
        with pytest.raises(Unavailable):
            outbox.run_once()
        admit(True)
        assert outbox.wait_until_idle(PATIENCE_SECONDS)
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT status::text, attempts, provider_id FROM notifications")
        assert cursor.fetchall() == [("sent", 1, "M1")]
    assert len(channel.pages) == 1


# --- acknowledged meanwhile


def test_pending_pages_are_taken_back(page: Any, make_outbox: Any, services: Services, sql: Sql) -> None:
    page(MAIL, NUMBER)
    assert acknowledge(services, sql) == 0
    assert run(make_outbox(email=ScriptedChannel(), sms=ScriptedChannel())) == 0
    assert [row[0] for row in read_status(sql)] == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Sent(), "sent"),
        (TemporaryFailure("503"), "cancelled"),
        (TemporaryFailure("lost", may_have_gone_out=True), "cancelled"),
        (PermanentFailure("550"), "failed"),
        (RateLimited("enough"), "rate_limited"),
    ],
)
def test_page_on_its_way_is_counted_and_not_tried_again(
    page: Any, make_outbox: Any, gate: Gate, clock: FrozenClock, services: Services, sql: Sql, outcome: Outcome,
    status: str,
) -> None:  # fmt: skip
    page(MAIL, NUMBER, later=(URL,))
    channel = ScriptedChannel(gate.hold(outcome))
    outbox = make_outbox(email=channel)
    outbox.run_once()
    gate.await_pages()
    assert acknowledge(services, sql) == 1
    gate.open()
    assert outbox.wait_until_idle(PATIENCE_SECONDS)
    assert sql("SELECT status::text, due_at FROM notifications WHERE channel = 'email'") == [(status, None)]
    clock.advance(60 * SECOND)
    assert run(outbox) == 0
    assert len(channel.pages) == 1
    assert services.escalations.run_once().steps == 0


def test_page_of_a_dead_worker_is_not_sent_again_after_the_acknowledgement(
    page: Any, make_outbox: Any, gate: Gate, clock: FrozenClock, services: Services, sql: Sql
) -> None:
    page(MAIL)
    make_outbox(email=ScriptedChannel(gate.hold())).run_once()
    gate.await_pages()
    assert acknowledge(services, sql) == 1
    clock.advance(LEASE_SECONDS * SECOND)
    channel = ScriptedChannel()
    assert run(make_outbox(email=channel)) == 0
    assert channel.pages == []
    assert read_status(sql) == [("cancelled", 1, "the worker that sent it stopped")]


@pytest.mark.parametrize("step", ["acknowledged", "resolved"])
@pytest.mark.parametrize("ending", ["answers", "dies"])
def test_page_that_outlasts_the_tiers_is_not_tried_again_after_a_step(
    page: Any, make_outbox: Any, gate: Gate, clock: FrozenClock, services: Services, sql: Sql, step: str, ending: str
) -> None:
    """A policy of one tier is over after a minute, the attempts of its page after two: the end waits for them."""
    page(MAIL)
    channel = ScriptedChannel(TemporaryFailure("503"), gate.hold(TemporaryFailure("503")))
    outbox = make_outbox(email=channel)
    run(outbox)
    clock.advance(61 * SECOND)
    assert services.escalations.run_once().ended_unheard == 0
    outbox.run_once()
    gate.await_pages()
    [(alert_id,)] = sql("SELECT id FROM alerts")
    assert services.lifecycle.transition(alert_id, Transition(step), MACHINE)["in_flight"] == 1
    if ending == "answers":
        gate.open()
        assert outbox.wait_until_idle(PATIENCE_SECONDS)
    clock.advance(LEASE_SECONDS * SECOND)
    assert run(make_outbox(email=channel)) == 0
    assert len(channel.pages) == 2
    assert [row[0] for row in read_status(sql)] == ["cancelled"]


def test_escalation_ends_unheard_once_its_last_page_is_done_with(
    page: Any, make_outbox: Any, clock: FrozenClock, services: Services, sql: Sql
) -> None:
    """Another message of the group meets one escalation meanwhile, and pages only after its end."""
    device = make_device()
    page(MAIL, device_id=device)
    channel = ScriptedChannel(TemporaryFailure("429", retry_after_seconds=100))
    outbox = make_outbox(email=channel)
    run(outbox)
    clock.advance(61 * SECOND)
    assert services.escalations.run_once().ended_unheard == 0
    page(MAIL, device_id=device, message="too cold")
    assert sql("SELECT status::text FROM escalations") == [("in_progress",)]
    clock.advance(60 * SECOND)
    assert run(outbox) == 1
    assert services.escalations.run_once().ended_unheard == 1
    assert [row[0] for row in read_status(sql)] == ["sent"]


# --- reports of the provider that are quicker than the worker


def test_report_that_comes_before_the_answer_is_kept(page: Any, make_outbox: Any, services: Services, sql: Sql) -> None:
    [first, second] = page(NUMBER, alerts=2)
    reports = {
        first: StatusReport("SM1", "delivered", None, first),
        second: StatusReport("SM2", "undelivered", 30003, second),
    }

    def send(sent: Page) -> Outcome:
        report = reports[sent.notification_id]
        assert services.delivery_reports.record(report)
        return Sent(report.provider_id, "queued", 1)

    channel = ScriptedChannel()
    channel.always = send
    run(make_outbox(sms=channel))
    [delivered, failed] = sql("SELECT status::text, provider_id, provider_status, error FROM notifications ORDER BY id")
    assert delivered == ("delivered", "SM1", "delivered", None)
    assert failed[:3] == ("failed", "SM2", "undelivered")
    assert failed[3], "why it failed"
