"""The SMS channel: the real SDK talks to a double of Twilio over HTTP, the hour is counted in a real database."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from openapi_schema_validator import OAS30Validator
from twilio.request_validator import RequestValidator

from foundation.clock import FrozenClock
from foundation.database import Database
from foundation.errors import Unavailable
from foundation.settings import Settings
from notifications.channel import (
    OffChannel,
    Page,
    PermanentFailure,
    RateLimited,
    Sent,
    TemporaryFailure,
    build_alert_link,
)
from notifications.sms_ledger import SmsLedger
from notifications.twilio_errors import DELIVERY_FAULTS, describe_delivery
from notifications.twilio_status import (
    RANKS,
    STATUS_PATH,
    StatusReport,
    advance_status,
    is_signed_by_twilio,
    parse_report,
    to_notification_status,
)
from tests.twilio_double import (
    ACCOUNT_SID,
    AUTH_TOKEN,
    FROM_NUMBER,
    Handler,
    Reply,
    TwilioDouble,
    answer_with,
    fall_over,
    hang,
    json_reply,
    lose_answer,
    refuse,
    reset,
    run_double,
    take_silently,
)
from twilio_notifier import VALIDITY_SECONDS, TwilioNotifier

Sql = Callable[..., list[tuple[Any, ...]]]

ROOT = Path(__file__).resolve().parent.parent
NUMBER = "+33612345678"
PAGE = Page(
    notification_id=41,
    alert_id=812,
    severity="critical",
    device_id="3a9ccfce-9773-4c72-b905-6a850e961587",
    device_name="Press 4",
    message="Temperature threshold exceeded: 85.5 °C",
    occurred_at=datetime(2026, 3, 2, 8, 0, tzinfo=UTC),
    link="https://alerts.example.com/alerts/812",
    address=NUMBER,
)


@pytest.fixture
def double() -> Iterator[TwilioDouble]:
    with run_double() as running:
        yield running


@pytest.fixture
def sms_settings(settings: Settings, double: TwilioDouble) -> Settings:
    return settings.model_copy(
        update={
            "twilio_account_sid": ACCOUNT_SID,
            "twilio_auth_token": AUTH_TOKEN,
            "twilio_from_number": FROM_NUMBER,
            "twilio_api_base_url": double.url,
            "public_url": "https://alerts.example.com",
        }
    )


@pytest.fixture
def notifier(sms_settings: Settings, database: Database, clock: FrozenClock) -> TwilioNotifier:
    return TwilioNotifier(sms_settings, database, clock)


@pytest.fixture
def ledger(database: Database) -> SmsLedger:
    return SmsLedger(database, 10)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Set the process's environment; settings that are not named are not set."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def page_for(number: str = NUMBER, notification_id: int = 41) -> Page:
    return dataclasses.replace(PAGE, address=number, notification_id=notification_id)


class TestSending:
    def test_send_sms_success(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        answer = notifier.send_sms(NUMBER, "Boiler 2 is hot", 812)
        [message] = double.messages
        assert answer == {"sid": message["sid"], "status": "queued", "alert_id": 812, "to": NUMBER}
        assert (message["to"], message["from"], message["body"]) == (NUMBER, FROM_NUMBER, "Boiler 2 is hot")

    def test_a_page_becomes_a_text_with_all_that_matters(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        outcome = notifier.send(PAGE)
        [message] = double.messages
        assert message["body"] == (
            "CRITICAL Press 4: Temperature threshold exceeded: 85.5 C Alert 812"
            " https://alerts.example.com/alerts/812#n41"
        )
        assert outcome == Sent(message["sid"], "queued", segments=1, price=None, price_unit="USD")

    def test_a_device_without_a_name_goes_by_the_beginning_of_its_id(
        self, notifier: TwilioNotifier, double: TwilioDouble
    ) -> None:
        notifier.send(dataclasses.replace(PAGE, device_name=None))
        assert double.messages[0]["body"].startswith("CRITICAL 3a9ccfce: ")

    def test_a_request_is_one_that_twilio_describes(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        notifier.send(PAGE)
        description = json.loads((ROOT / "../shared/data/twilio/messages_openapi.json").read_text())
        operation = description["paths"]["/2010-04-01/Accounts/{AccountSid}/Messages.json"]["post"]
        schema = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
        [sent] = double.sends
        document = {**sent, "ValidityPeriod": int(sent["ValidityPeriod"])}
        strict = {**schema, "additionalProperties": False, "components": description["components"]}
        OAS30Validator(strict).validate(document)

    def test_a_stale_page_never_leaves_the_queue(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        notifier.send(PAGE)
        assert double.sends[0]["ValidityPeriod"] == str(VALIDITY_SECONDS)
        assert 60 <= VALIDITY_SECONDS <= 900

    def test_the_callback_address_carries_the_notification(
        self, notifier: TwilioNotifier, double: TwilioDouble
    ) -> None:
        notifier.send(PAGE)
        assert double.sends[0]["StatusCallback"] == f"https://alerts.example.com{STATUS_PATH}?notification=41"

    def test_a_callback_address_that_twilio_cannot_reach_costs_the_callback_not_the_page(
        self, sms_settings: Settings, database: Database, clock: FrozenClock, double: TwilioDouble
    ) -> None:
        double.refuses_local_callbacks = True
        notifier = TwilioNotifier(sms_settings.model_copy(update={"public_url": ""}), database, clock)
        assert isinstance(notifier.send(PAGE), Sent)
        assert ["StatusCallback" in sent for sent in double.sends] == [True, False]
        assert len(double.messages) == 1

    def test_a_long_message_is_cut_at_twilio_s_limit(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        assert "error" not in notifier.send_sms(NUMBER, "x" * 2000, 812)
        assert double.messages[0]["body"] == "x" * 1600

    def test_segments_are_kept(self, notifier: TwilioNotifier) -> None:
        outcome = notifier.send(dataclasses.replace(PAGE, message="Давление в котле выше нормы " * 3))
        assert isinstance(outcome, Sent)
        assert outcome.segments == 2

    def test_each_thread_has_a_client_of_its_own(self, notifier: TwilioNotifier) -> None:
        together = threading.Barrier(4)

        def take(_: int) -> int:
            together.wait(10)
            assert notifier.client is notifier.client
            together.wait(10)
            return id(notifier.client)

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(take, range(4)))) == 4


class TestCredentials:
    def test_missing_credentials_are_an_error(self, environment: Callable[..., None]) -> None:
        with pytest.raises(ValueError, match="TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN, TWILIO_FROM_NUMBER"):
            TwilioNotifier()

    @pytest.mark.parametrize("missing", ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM_NUMBER"])
    def test_one_missing_credential_is_named(self, environment: Callable[..., None], missing: str) -> None:
        credentials = {
            "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
            "TWILIO_FROM_NUMBER": FROM_NUMBER,
        }
        environment(**{name: value for name, value in credentials.items() if name != missing})
        with pytest.raises(ValueError, match=missing):
            TwilioNotifier()

    def test_credentials_come_from_the_environment(
        self, environment: Callable[..., None], double: TwilioDouble
    ) -> None:
        environment(
            TWILIO_ACCOUNT_SID=ACCOUNT_SID,
            TWILIO_AUTH_TOKEN=AUTH_TOKEN,
            TWILIO_FROM_NUMBER=FROM_NUMBER,
            TWILIO_API_BASE_URL=f"{double.url}/",
        )
        notifier = TwilioNotifier()
        answers = [notifier.send_sms(NUMBER, f"text {number}", 812) for number in range(11)]
        assert [answer["sid"] for answer in answers[:10]] == [message["sid"] for message in reversed(double.messages)]
        # Without a database the hour is counted within the process.
        assert answers[10] == {"error": "Rate limit exceeded", "alert_id": 812, "to": NUMBER}

    def test_wrong_credentials_are_a_setting_s_fault(
        self, sms_settings: Settings, database: Database, double: TwilioDouble
    ) -> None:
        double.auth_token = "another"
        outcome = TwilioNotifier(sms_settings, database).send(PAGE)
        assert isinstance(outcome, PermanentFailure)
        assert (outcome.code, outcome.is_setting_fault) == ("20003", True)
        assert "TWILIO_AUTH_TOKEN" in outcome.reason

    def test_the_sdk_is_not_loaded_before_the_first_message(self) -> None:
        program = (
            "import sys; from twilio_notifier import TwilioNotifier; from foundation.settings import Settings;"
            f"TwilioNotifier(Settings(_env_file=None, twilio_account_sid='{ACCOUNT_SID}', twilio_auth_token='t',"
            f" twilio_from_number='{FROM_NUMBER}')); import notifications.twilio_status;"
            "print('twilio' in sys.modules, 'requests' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.split() == ["False", "False"], done.stderr


class TestHourlyLimit:
    def test_send_sms_rate_limit(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        answers = [notifier.send_sms(NUMBER, "hot", 812) for _ in range(11)]
        assert all("error" not in answer for answer in answers[:10])
        assert answers[10] == {"error": "Rate limit exceeded", "alert_id": 812, "to": NUMBER}
        assert len(double.messages) == 10

    def test_a_page_beyond_it_is_rate_limited(
        self, sms_settings: Settings, database: Database, clock: FrozenClock, double: TwilioDouble
    ) -> None:
        notifier = TwilioNotifier(sms_settings.model_copy(update={"sms_max_per_hour": 1}), database, clock)
        outcomes = [notifier.send(page_for(notification_id=number)) for number in (1, 2)]
        assert [type(outcome) for outcome in outcomes] == [Sent, RateLimited]
        assert "1 SMS within the hour" in outcomes[1].reason
        assert len(double.messages) == 1

    def test_it_is_each_recipient_s_own(self, notifier: TwilioNotifier) -> None:
        for _ in range(10):
            notifier.send_sms(NUMBER, "hot", 812)
        assert "error" not in notifier.send_sms("+33699999999", "hot", 812)

    def test_it_slides_with_the_hour(self, notifier: TwilioNotifier, clock: FrozenClock) -> None:
        for _ in range(10):
            notifier.send_sms(NUMBER, "hot", 812)
            clock.advance(timedelta(minutes=1))
        clock.advance(timedelta(minutes=50) - timedelta(seconds=1))
        assert notifier.send_sms(NUMBER, "hot", 812)["error"] == "Rate limit exceeded"
        clock.advance(timedelta(seconds=1))
        assert "error" not in notifier.send_sms(NUMBER, "hot", 812)
        assert notifier.send_sms(NUMBER, "hot", 812)["error"] == "Rate limit exceeded"

    def test_it_holds_across_processes_at_once(self, database_url: str, double: TwilioDouble) -> None:
        program = (
            "import sys; from twilio_notifier import TwilioNotifier;"
            f"n = TwilioNotifier(); print(sum('sid' in n.send_sms('{NUMBER}', 'hot', 1) for _ in range(6)))"
        )
        environment = {
            "PATH": "/usr/bin:/bin",
            "DATABASE_URL": database_url,
            "JWT_SECRET": "a secret that only the tests use, long enough",
            "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
            "TWILIO_FROM_NUMBER": FROM_NUMBER,
            "TWILIO_API_BASE_URL": double.url,
        }
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        endings = [process.communicate(timeout=60) for process in processes]
        assert sum(int(output) for output, _ in endings) == 10, endings
        assert len(double.messages) == 10

    def test_many_at_once_get_no_more_places_than_there_are(self, ledger: SmsLedger) -> None:
        with ThreadPoolExecutor(8) as pool:
            places = list(pool.map(lambda number: ledger.take_place(NUMBER, number), range(40)))
        assert sum(place is not None for place in places) == 10

    def test_what_twilio_refuses_takes_no_place(self, notifier: TwilioNotifier, double: TwilioDouble, sql: Sql) -> None:
        double.misbehave(*[refuse(400, 21211)] * 4, *[refuse(429, 20429)] * 4, *[refuse(401, 20003)] * 4)
        for number in range(12):
            assert not isinstance(notifier.send(page_for(notification_id=number)), Sent | RateLimited)
        assert sql("SELECT count(*) FROM sms_log") == [(0,)]

    def test_a_page_that_is_tried_again_takes_one_place(
        self, notifier: TwilioNotifier, double: TwilioDouble, sql: Sql
    ) -> None:
        double.misbehave(*[reset()] * 12)
        outcomes = [notifier.send(PAGE) for _ in range(13)]
        assert isinstance(outcomes[-1], Sent)
        assert sql("SELECT to_number, notification_id FROM sms_log") == [(NUMBER, 41)]

    def test_old_entries_are_forgotten(
        self, notifier: TwilioNotifier, ledger: SmsLedger, clock: FrozenClock, sql: Sql
    ) -> None:
        notifier.send(page_for(notification_id=1))
        clock.advance(timedelta(hours=23))
        notifier.send(page_for(notification_id=2))
        clock.advance(timedelta(hours=1))
        assert ledger.forget_old() == 1
        assert sql("SELECT notification_id FROM sms_log") == [(2,)]

    def test_what_was_sent_stands_where_the_books_cannot_be_kept(
        self, sms_settings: Settings, database_url: str, double: TwilioDouble
    ) -> None:
        narrow = Database(database_url, pool_size=1, wait_seconds=0.05)
        held = contextlib.ExitStack()

        def take_the_only_connection(handler: Handler, take_in: Callable[[], Reply]) -> None:
            held.enter_context(narrow.autocommit())
            handler.reply(take_in())

        double.misbehave(take_the_only_connection)
        with held:
            outcome = TwilioNotifier(sms_settings, narrow).send(PAGE)
        assert isinstance(outcome, Sent)
        narrow.close()

    def test_nothing_is_sent_uncounted(self, sms_settings: Settings, double: TwilioDouble) -> None:
        nowhere = Database("postgresql://nobody@127.0.0.1:1/nowhere")
        outcome = TwilioNotifier(sms_settings, nowhere).send(PAGE)
        assert isinstance(outcome, TemporaryFailure)
        assert not outcome.may_have_gone_out
        assert double.requests == []


class TestRefusals:
    def test_send_sms_invalid_number(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        answer = notifier.send_sms("+15005550001", "hot", 812)
        assert answer == {
            "error": "the number is not a valid phone number (Twilio error 21211)",
            "alert_id": 812,
            "to": "+15005550001",
        }
        assert double.messages == []

    @pytest.mark.parametrize("text", ["invalid", "", "0612345678", "+33 6 12 34 56 78", "+33612345678\n", "+٣٣٦١٢٣٤"])
    def test_what_is_no_number_never_leaves(self, notifier: TwilioNotifier, double: TwilioDouble, text: str) -> None:
        assert "is not a phone number" in notifier.send_sms(text, "hot", 812)["error"]
        assert double.requests == []

    @pytest.mark.parametrize(
        ("number", "code"),
        [
            ("+15005550001", "21211"),
            ("+15005550002", "21612"),
            ("+15005550003", "21408"),
            ("+15005550004", "21610"),
            ("+15005550009", "21614"),
        ],
    )
    def test_a_number_that_will_never_work_is_permanent(self, notifier: TwilioNotifier, number: str, code: str) -> None:
        outcome = notifier.send(page_for(number))
        assert isinstance(outcome, PermanentFailure)
        assert (outcome.code, outcome.is_setting_fault) == (code, False)

    def test_a_sender_that_is_not_the_account_s_is_a_setting_s_fault(
        self, notifier: TwilioNotifier, double: TwilioDouble
    ) -> None:
        double.misbehave(refuse(400, 21606))
        outcome = notifier.send(PAGE)
        assert isinstance(outcome, PermanentFailure)
        assert outcome.is_setting_fault
        assert "TWILIO_FROM_NUMBER" in outcome.reason

    def test_a_problem_document_is_read_too(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        # RFC 9457, as Twilio's newer services answer.
        problem = {"type": "about:blank", "title": "Bad number", "status": 400, "code": 21211, "detail": "no such"}
        double.misbehave(answer_with(json_reply(400, problem)))
        outcome = notifier.send(PAGE)
        assert isinstance(outcome, PermanentFailure)
        assert outcome.code == "21211"

    def test_an_unknown_refusal_is_permanent_and_told_in_one_line(
        self, notifier: TwilioNotifier, double: TwilioDouble
    ) -> None:
        double.misbehave(refuse(400, 29999, "new\r\nrule " + "x" * 500))
        outcome = notifier.send(PAGE)
        assert isinstance(outcome, PermanentFailure)
        assert "new rule" in outcome.reason
        assert "\n" not in outcome.reason
        assert outcome.code == "29999"
        assert len(outcome.reason) < 300

    @pytest.mark.parametrize(
        ("status", "code", "retry_after", "expected"),
        [(429, 20429, "7", 7.0), (429, 20429, None, None), (429, 63038, "x", None), (503, 20503, "30", 30.0)],
    )
    def test_a_busy_twilio_is_temporary(
        self,
        notifier: TwilioNotifier,
        double: TwilioDouble,
        status: int,
        code: int,
        retry_after: str | None,
        expected: float | None,
    ) -> None:
        double.misbehave(refuse(status, code, **({"Retry_After": retry_after} if retry_after else {})))
        outcome = notifier.send(PAGE)
        assert isinstance(outcome, TemporaryFailure)
        assert outcome.retry_after_seconds == expected
        assert outcome.may_have_gone_out == (status >= 500)

    def test_a_retry_after_is_not_carried_over_to_the_next_answer(
        self, notifier: TwilioNotifier, double: TwilioDouble
    ) -> None:
        double.misbehave(refuse(429, 20429, Retry_After="7"), refuse(429, 20429))
        outcomes = [notifier.send(PAGE) for _ in range(2)]
        assert [outcome.retry_after_seconds for outcome in outcomes] == [7.0, None]  # type: ignore[union-attr]

    def test_a_503_in_html_is_temporary(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        double.misbehave(fall_over())
        assert notifier.send(PAGE) == TemporaryFailure("Twilio answered 503", may_have_gone_out=True)

    def test_a_redirect_is_not_followed(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        double.misbehave(answer_with(Reply(307, b"", headers={"Location": f"{double.url}/elsewhere"})))
        assert isinstance(notifier.send(PAGE), PermanentFailure)
        assert len(double.requests) == 1


class TestLostAnswers:
    def test_a_hang_is_bounded(self, sms_settings: Settings, database: Database, double: TwilioDouble) -> None:
        double.misbehave(hang())
        outcome = TwilioNotifier(sms_settings, database, timeout_seconds=0.2).send(PAGE)
        assert outcome == TemporaryFailure("Twilio did not answer in time", may_have_gone_out=True)
        assert len(double.requests) == 1

    def test_a_reset_is_temporary_and_never_repeated_by_itself(
        self, notifier: TwilioNotifier, double: TwilioDouble
    ) -> None:
        double.misbehave(reset())
        outcome = notifier.send(PAGE)
        assert outcome == TemporaryFailure("the connection to Twilio broke", may_have_gone_out=True)
        assert len(double.requests) == 1

    def test_a_closed_door_means_that_nothing_went_out(self, sms_settings: Settings, database: Database) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            port = listener.getsockname()[1]
        settings = sms_settings.model_copy(update={"twilio_api_base_url": f"http://127.0.0.1:{port}"})
        assert TwilioNotifier(settings, database).send(PAGE) == TemporaryFailure("Twilio cannot be reached")

    def test_a_201_without_a_body_gives_no_sid(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        double.misbehave(take_silently(), take_silently())
        outcome = notifier.send(PAGE)
        assert isinstance(outcome, Sent)
        assert (outcome.provider_id, outcome.segments) == (None, 1)
        assert notifier.send_sms(NUMBER, "hot", 812) == {"sid": None, "status": None, "alert_id": 812, "to": NUMBER}

    def test_a_201_that_cannot_be_read_may_have_gone_out(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        double.misbehave(take_silently(b"<html>"))
        assert notifier.send(PAGE) == TemporaryFailure("Twilio's answer cannot be read", may_have_gone_out=True)

    def test_a_page_whose_answer_was_lost_is_found(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        double.misbehave(lose_answer())
        outcome = notifier.send(PAGE)
        assert isinstance(outcome, TemporaryFailure)
        assert outcome.may_have_gone_out
        found = notifier.find_sent(NUMBER, 41)
        assert found is not None
        assert (found.provider_id, found.provider_status) == (double.messages[0]["sid"], "queued")

    def test_a_page_that_was_lost_before_is_not_found(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        double.misbehave(reset())
        notifier.send(PAGE)
        assert notifier.find_sent(NUMBER, 41) is None

    def test_only_the_notification_s_own_message_is_found(self, notifier: TwilioNotifier) -> None:
        notifier.send(page_for(notification_id=414))
        notifier.send(page_for("+33699999999", notification_id=41))
        assert notifier.find_sent(NUMBER, 41) is None
        assert notifier.find_sent(NUMBER, 4) is None
        assert notifier.find_sent(NUMBER, 414) is not None

    def test_it_is_found_behind_later_messages(self, notifier: TwilioNotifier, double: TwilioDouble) -> None:
        notifier.send(PAGE)
        for number in range(30):
            double.take_in({"To": NUMBER, "From": FROM_NUMBER, "Body": f"another {number}"})
        found = notifier.find_sent(NUMBER, 41)
        assert found is not None
        assert found.provider_id == double.messages[-1]["sid"]

    @pytest.mark.parametrize("behaviour", [fall_over(), reset(), refuse(401, 20003), answer_with(Reply(200, b"?"))])
    def test_where_twilio_cannot_be_asked_it_says_so(
        self, notifier: TwilioNotifier, double: TwilioDouble, behaviour: Any
    ) -> None:
        double.misbehave(behaviour)
        with pytest.raises(Unavailable, match="Twilio cannot be asked"):
            notifier.find_sent(NUMBER, 41)


class TestOffChannel:
    def test_a_channel_that_is_off_says_so(self) -> None:
        outcome = OffChannel("the SMS channel is off: TWILIO_ACCOUNT_SID is not set").send(PAGE)
        assert outcome == PermanentFailure(
            "the SMS channel is off: TWILIO_ACCOUNT_SID is not set", is_setting_fault=True
        )

    def test_the_link_of_an_alert(self) -> None:
        assert (
            build_alert_link("https://alerts.example.com/plant", 812) == "https://alerts.example.com/plant/alerts/812"
        )


class TestOptOuts:
    def test_a_number_that_opted_out_is_marked(
        self, notifier: TwilioNotifier, ledger: SmsLedger, clock: FrozenClock
    ) -> None:
        notifier.send(page_for("+15005550004"))
        assert ledger.list_opted_out(["+15005550004", NUMBER]) == {"+15005550004": clock.now()}

    def test_other_refusals_mark_nobody(self, notifier: TwilioNotifier, ledger: SmsLedger) -> None:
        notifier.send(page_for("+15005550001"))
        assert ledger.list_opted_out(["+15005550001"]) == {}

    def test_the_next_message_that_is_taken_in_clears_the_mark(
        self, notifier: TwilioNotifier, ledger: SmsLedger
    ) -> None:
        ledger.mark_opted_out(NUMBER)
        ledger.mark_opted_out(NUMBER)
        ledger.mark_opted_out("+33699999999")
        notifier.send(PAGE)
        assert list(ledger.list_opted_out([NUMBER, "+33699999999"])) == ["+33699999999"]


class TestStatusReports:
    @pytest.fixture
    def callbacks(self) -> Iterator[tuple[str, list[tuple[str, dict[str, str], str | None]]]]:
        """A receiver of callbacks that keeps the raw path, form and signature; yields its address, too."""
        received: list[tuple[str, dict[str, str], str | None]] = []

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                received.append((self.path, dict(parse_qsl(body)), self.headers["X-Twilio-Signature"]))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        server.server_close()
        thread.join()

    def test_a_report_is_signed_and_names_its_notification(
        self, sms_settings: Settings, database: Database, double: TwilioDouble, callbacks: Any
    ) -> None:
        address, received = callbacks
        notifier = TwilioNotifier(sms_settings.model_copy(update={"public_url": address}), database)
        outcome = notifier.send(PAGE)
        assert isinstance(outcome, Sent)
        sid = outcome.provider_id or ""
        assert double.report(sid, "undelivered", 30003) == 204
        [(path, form, signature)] = received
        assert is_signed_by_twilio(AUTH_TOKEN, address, path, form, signature)
        assert parse_report(path, form) == StatusReport(sid, "undelivered", 30003, 41)

    def test_reports_in_any_order_end_in_the_same_status(
        self, sms_settings: Settings, database: Database, double: TwilioDouble, callbacks: Any
    ) -> None:
        address, received = callbacks
        notifier = TwilioNotifier(sms_settings.model_copy(update={"public_url": address}), database)
        outcome = notifier.send(PAGE)
        assert isinstance(outcome, Sent)
        for status in ("delivered", "sent", "queued", "sent", "sending", "delivered"):
            double.report(outcome.provider_id or "", status)
        current: str | None = "queued"
        for path, form, _ in received:
            report = parse_report(path, form)
            assert report is not None
            current = advance_status(current, report.status) or current
        assert current == "delivered"
        assert len(received) == 6

    def test_the_price_is_known_once_it_was_delivered(
        self, sms_settings: Settings, database: Database, double: TwilioDouble, callbacks: Any
    ) -> None:
        notifier = TwilioNotifier(sms_settings.model_copy(update={"public_url": callbacks[0]}), database)
        outcome = notifier.send(PAGE)
        assert isinstance(outcome, Sent)
        sid = outcome.provider_id or ""
        double.report(sid, "delivered")
        assert notifier.fetch_sent(sid) == Sent(sid, "delivered", 1, Decimal("-0.00750"), "USD")

    def test_an_unknown_message_cannot_be_fetched(self, notifier: TwilioNotifier) -> None:
        with pytest.raises(Unavailable):
            notifier.fetch_sent("SM" + "0" * 32)

    @pytest.mark.parametrize(
        "path",
        [
            f"{STATUS_PATH}?notification=41",
            f"{STATUS_PATH}?notification=41&name=caf%C3%A9%20%2B+1",
            "/api/v1/notifications/twilio/%73tatus",
        ],
    )
    def test_the_raw_path_is_what_is_signed(self, path: str) -> None:
        base, form = "https://alerts.example.com", {"MessageSid": "SM1", "MessageStatus": "sent"}
        signature = RequestValidator(AUTH_TOKEN).compute_signature(base + path, form)
        assert is_signed_by_twilio(AUTH_TOKEN, base, path, form, signature)
        assert not is_signed_by_twilio(AUTH_TOKEN, base, path + "x", form, signature)
        assert not is_signed_by_twilio(AUTH_TOKEN, base, path, {**form, "MessageStatus": "failed"}, signature)
        assert not is_signed_by_twilio("another token", base, path, form, signature)

    def test_a_missing_signature_or_token_is_no_good_one(self) -> None:
        form = {"MessageSid": "SM1"}
        forged = RequestValidator("").compute_signature("https://a.example/p", form)
        assert not is_signed_by_twilio("", "https://a.example", "/p", form, forged)
        assert not is_signed_by_twilio(AUTH_TOKEN, "https://a.example", "/p", form, None)
        assert not is_signed_by_twilio(AUTH_TOKEN, "https://a.example", "/p", form, "")
        assert not is_signed_by_twilio(AUTH_TOKEN, "https://a.example", "/p", form, "é")

    def test_a_status_only_moves_forward(self) -> None:
        for current, rank in RANKS.items():
            for reported, further in RANKS.items():
                expected = reported if further > rank else None
                assert advance_status(current, reported) == expected, (current, reported)
        assert advance_status(None, "queued") == "queued"
        assert advance_status("queued", "invented") is None

    def test_what_ended_badly_counts_as_failed(self) -> None:
        ends = {status: to_notification_status(status) for status in RANKS}
        assert {s for s, end in ends.items() if end == "failed"} == {"undelivered", "failed", "canceled"}
        assert {s for s, end in ends.items() if end == "delivered"} == {"delivered", "read"}

    @pytest.mark.parametrize(
        "form",
        [{}, {"MessageSid": "SM1"}, {"MessageSid": "SM1", "MessageStatus": "received"}, {"MessageStatus": "sent"}],
    )
    def test_what_is_about_no_outgoing_message_is_none(self, form: dict[str, str]) -> None:
        assert parse_report(STATUS_PATH, form) is None

    @pytest.mark.parametrize("query", ["", "?notification=", "?notification=x", "?notification=-1", "?n=1"])
    def test_a_report_may_name_no_notification(self, query: str) -> None:
        report = parse_report(STATUS_PATH + query, {"SmsSid": "SM1", "SmsStatus": "sent", "ErrorCode": ""})
        assert report == StatusReport("SM1", "sent", None, None)

    def test_causes_are_told_in_words(self) -> None:
        for code, cause in DELIVERY_FAULTS.items():
            assert describe_delivery("undelivered", code) == f"undelivered: {cause} (Twilio error {code})"
        assert describe_delivery("failed", 39999) == "failed (Twilio error 39999)"
        assert describe_delivery("failed", None) == "failed"
