"""What Twilio reports of an SMS: who may say so, and what it changes, in any order and more than once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import permutations
from typing import Any

import psycopg2
import pytest
from twilio.request_validator import RequestValidator

from app_advanced import create_app
from foundation.settings import Settings
from tests.conftest import TEST_SECRET
from tests.factories import HOOK, MAIL, make_policy
from tests.twilio_double import ACCOUNT_SID, AUTH_TOKEN, FROM_NUMBER
from wiring import build_services

STATUS_PATH = "/api/v1/notifications/twilio/status"
PUBLIC_URL = "https://alerts.example.com/plant"
NUMBER = "+33612345678"
SID = "SM" + "1" * 32
OTHER_SID = "SM" + "2" * 32
SMS_NOW = {"delay_minutes": 0, "channels": ["sms"], "recipients": [NUMBER]}
LATER = {**MAIL, "delay_minutes": 5}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with a Twilio account and the address that Twilio was given."""
    return settings.model_copy(
        update={
            "public_url": PUBLIC_URL,
            "twilio_account_sid": ACCOUNT_SID,
            "twilio_auth_token": AUTH_TOKEN,
            "twilio_from_number": FROM_NUMBER,
        }
    )


def sign(path: str, form: dict[str, str], token: str = AUTH_TOKEN, base_url: str = PUBLIC_URL) -> dict[str, str]:
    return {"X-Twilio-Signature": RequestValidator(token).compute_signature(base_url + path, form)}


def make_form(status: str, sid: str = SID, **more: str) -> dict[str, str]:
    return {"AccountSid": ACCOUNT_SID, "MessageSid": sid, "MessageStatus": status, "To": NUMBER, **more}


@pytest.fixture
def report(client) -> Callable[..., None]:
    """Report a status as Twilio does, signed: ``report(41, "delivered", sid=SID)``."""

    def send(notification_id: object, status: str, **more: str) -> None:
        path = f"{STATUS_PATH}?notification={notification_id}"
        form = make_form(status, **more)
        response = client.post(path, data=form, headers=sign(path, form))
        assert (response.status_code, response.data) == (204, b"")

    return send


@pytest.fixture
def paged(client, headers, raise_alert, services, sql) -> int:
    """Return the id of an SMS that is being sent: that of a first tier, with more to follow after 5 and 15 minutes."""
    policy = make_policy(SMS_NOW, LATER, HOOK)
    assert client.post("/api/v1/escalation-policies", json=policy, headers=headers("admin")).status_code == 201
    raise_alert()
    services.escalations.run_once()
    ((notification_id,),) = sql(
        "UPDATE notifications SET status = 'sending', attempts = 1, due_at = app_now() + interval '30 s' RETURNING id"
    )
    return int(notification_id)


@pytest.fixture
def sent(paged, sql) -> int:
    """Return the id of an SMS that Twilio took in as SID."""
    sql(
        "UPDATE notifications SET status = 'sent', provider_id = %s, provider_status = 'queued', sent_at = %s,"
        " due_at = NULL",
        SID,
        "2026-03-02T08:00:01Z",
    )
    return paged


@pytest.fixture
def show(client, headers) -> Callable[[], dict[str, Any]]:
    """Return the notification as people see it."""

    def read() -> dict[str, Any]:
        (row,) = client.get("/api/v1/alerts/1/notifications", headers=headers("viewer")).json["data"]
        return dict(row)

    return read


@pytest.fixture
def next_tier_at(client, headers) -> Callable[[], str]:
    """Return when the next tier is due."""

    def read() -> str:
        escalation = client.get("/api/v1/alerts/1", headers=headers("viewer")).json["escalation"]
        return str(escalation["next_tier_at"])

    return read


# ---- who may report


def test_report_without_a_good_signature_is_refused(client, sent, show):
    path = f"{STATUS_PATH}?notification={sent}"
    form = make_form("failed")
    good = sign(path, form)
    refused = [
        ({}, path, form),
        ({"X-Twilio-Signature": ""}, path, form),
        ({"X-Twilio-Signature": "é"}, path, form),
        (sign(path, form, token=TEST_SECRET), path, form),
        (sign(path, form, base_url="http://127.0.0.1:5002"), path, form),
        (good, path, {**form, "MessageStatus": "delivered"}),
        (good, path, {**form, "ErrorCode": "30003"}),
        (good, f"{STATUS_PATH}?notification={sent + 1}", form),
        (good, STATUS_PATH, form),
        (sign(path, {}), path, form),
    ]
    for headers, address, body in refused:
        response = client.post(address, data=body, headers=headers)
        assert (response.status_code, response.json["code"]) == (403, "not_signed"), (headers, address)
    # JSON is no form: what it says is not what was signed.
    assert client.post(path, json=form, headers=good).status_code == 403
    assert (show()["status"], show()["provider_status"]) == ("sent", "queued")


def test_nobody_can_report_where_twilio_is_not_set_up(settings, clock):
    services = build_services(settings.model_copy(update={"twilio_auth_token": ""}), clock)
    form = make_form("delivered")
    for token in ("", AUTH_TOKEN):
        response = (
            create_app(services=services)
            .test_client()
            .post(STATUS_PATH, data=form, headers=sign(STATUS_PATH, form, token=token))
        )
        assert response.status_code == 403
    services.database.close()


def test_signature_covers_the_bytes_of_the_query(client, sent, show):
    assert sent == 1
    # Decoded it would be other bytes.
    path = f"{STATUS_PATH}?notification=%31"
    form = make_form("delivered", From="+1 500 é&=?", Body="")
    assert client.post(path, data=form, headers=sign(path, form)).status_code == 204
    assert show()["status"] == "delivered"


def test_report_may_be_large_and_no_more_than_that(client, sent):
    path = f"{STATUS_PATH}?notification={sent}"
    form = make_form("sent", Body="x" * 1048576)
    assert client.post(path, data=form, headers=sign(path, form)).status_code == 413


def test_report_about_nothing_we_know_is_taken_in(report, sent, show, client, sql):
    before = show()
    report(sent + 1, "delivered")
    report("", "delivered")
    report("x", "delivered")
    report("9" * 30, "delivered")
    report(sent, "received")
    form = make_form("delivered")
    assert client.post(STATUS_PATH, data=form, headers=sign(STATUS_PATH, form)).status_code == 204
    empty = sign(STATUS_PATH, {})
    assert client.post(STATUS_PATH, headers=empty).status_code == 204
    assert show() == before


def test_report_changes_no_other_channel(report, sent, sql, show):
    sql("UPDATE notifications SET channel = 'webhook'")
    report(sent, "failed")
    assert show()["status"] == "sent"


# ---- what it changes


def test_delivered(report, sent, show, clock):
    report(sent, "sent")
    assert (show()["status"], show()["provider_status"], show()["delivered_at"]) == ("sent", "sent", None)
    report(sent, "delivered", NumSegments="2", Price="-0.0150", PriceUnit="USD")
    shown = show()
    assert (shown["status"], shown["provider_status"], shown["error"]) == ("delivered", "delivered", None)
    assert (shown["segments"], shown["price"], shown["price_unit"]) == (2, -0.015, "USD")
    assert (shown["sent_at"], shown["delivered_at"]) == ("2026-03-02T08:00:01+00:00", "2026-03-02T08:00:00+00:00")


@pytest.mark.parametrize("status", ["undelivered", "failed", "canceled"])
def test_failure_brings_the_next_tier_at_once(report, sent, show, next_tier_at, services, status):
    assert next_tier_at() == "2026-03-02T08:05:00+00:00"
    report(sent, status, ErrorCode="30003")
    shown = show()
    assert (shown["status"], shown["provider_status"]) == ("failed", status)
    assert shown["error"] == f"{status}: the phone is switched off or out of reach (Twilio error 30003)"
    assert next_tier_at() == "2026-03-02T08:00:00+00:00"
    assert services.escalations.run_once().steps == 1


def test_failure_waits_for_what_can_still_arrive(report, sent, sql, next_tier_at):
    sql(
        "INSERT INTO notifications (escalation_id, alert_id, pass, tier, channel, address, recipient, status)"
        " SELECT escalation_id, alert_id, pass, tier, channel, '+33600000000', 'user:1', 'sent' FROM notifications"
    )
    report(sent, "undelivered")
    assert next_tier_at() == "2026-03-02T08:05:00+00:00"


def test_failure_after_the_next_tier_brings_nothing_forward(report, sent, services, clock, next_tier_at):
    clock.advance(timedelta(minutes=5))
    assert services.escalations.run_once().steps == 1
    report(sent, "undelivered")
    assert next_tier_at() == "2026-03-02T08:15:00+00:00"


def test_statuses_only_move_forward_in_whatever_order_they_come(report, sent, show, sql):
    steps = ["queued", "sending", "sent", "delivered"]
    for order in permutations(steps):
        sql("UPDATE notifications SET status = 'sent', provider_status = NULL, delivered_at = NULL")
        for status in order:
            report(sent, status)
            report(sent, status)
        assert (show()["status"], show()["provider_status"]) == ("delivered", "delivered"), order


def test_the_first_final_status_stands(report, sent, show):
    report(sent, "undelivered", ErrorCode="30005")
    report(sent, "delivered")
    report(sent, "sent")
    assert (show()["status"], show()["provider_status"]) == ("failed", "undelivered")


def test_report_that_comes_before_the_worker_has_recorded_anything(report, paged, show, sql):
    report(paged, "queued")
    shown = show()
    assert (shown["status"], shown["provider_id"], shown["provider_status"]) == ("sent", SID, "queued")
    assert shown["sent_at"] == "2026-03-02T08:00:00+00:00"
    # Its lease is over: nobody sends it again.
    assert sql("SELECT due_at FROM notifications") == [(None,)]


def test_report_ends_the_wait_for_another_attempt_after_a_lost_answer(report, paged, show, sql):
    sql("UPDATE notifications SET status = 'pending', may_have_gone_out = true, error = 'the connection broke'")
    report(paged, "delivered")
    assert (show()["status"], show()["error"]) == ("delivered", None)
    assert sql("SELECT due_at FROM notifications") == [(None,)]


def test_report_of_a_second_message_counts_only_when_it_arrived(report, sent, show, next_tier_at):
    report(sent, "failed", sid=OTHER_SID)
    assert (show()["status"], show()["provider_id"]) == ("sent", SID)
    assert next_tier_at() == "2026-03-02T08:05:00+00:00"
    report(sent, "failed")
    assert show()["status"] == "failed"
    report(sent, "delivered", sid=OTHER_SID)
    shown = show()
    assert (shown["status"], shown["provider_id"], shown["error"]) == ("delivered", OTHER_SID, None)


def test_opted_out_number_is_marked_and_its_owner_shown(report, sent, services, client, headers):
    services.accounts.create_user(
        email="ana@example.com", name="Ana", role="operator", password="a long enough one", phone=NUMBER
    )

    def opted_out_at() -> str | None:
        answer: dict[str, Any] = client.get("/api/v1/users/1", headers=headers("admin")).json
        return answer["opted_out_of_sms_at"]

    # That is about a message which is not the notification's own.
    report(sent, "failed", ErrorCode="21610", sid=OTHER_SID)
    assert opted_out_at() is None
    report(sent, "failed", ErrorCode="21610")
    assert opted_out_at() == "2026-03-02T08:00:00+00:00"


def test_other_failures_mark_nobody(report, sent, sql):
    report(sent, "undelivered", ErrorCode="30004")
    assert sql("SELECT * FROM sms_opt_outs") == []


def test_reports_that_fail_together_bring_the_next_tier(report, sent, sql, next_tier_at, client):
    sql(
        "INSERT INTO notifications (escalation_id, alert_id, pass, tier, channel, address, recipient, status)"
        " SELECT escalation_id, alert_id, pass, tier, channel, '+3360000000' || n, 'user:1', 'sent'"
        " FROM notifications, generate_series(1, 7) AS n"
    )
    ids = [row[0] for row in sql("SELECT id FROM notifications")]
    threads = [
        threading.Thread(target=report, args=(n, "undelivered"), kwargs={"sid": f"SM{n}"}) for n in ids if n != sent
    ]
    for thread in threads:
        thread.start()
    report(sent, "undelivered")
    for thread in threads:
        thread.join()
    assert sql("SELECT status, count(*) FROM notifications GROUP BY status") == [("failed", 8)]
    assert next_tier_at() == "2026-03-02T08:00:00+00:00"


def test_report_takes_the_escalation_before_the_notification(report, sent, sql, database_url, next_tier_at):
    # As an acknowledgement does: in another order the two could wait for each other.
    blocker = psycopg2.connect(database_url)
    reporting = threading.Thread(target=report, args=(sent, "undelivered"))
    with blocker.cursor() as cursor:
        cursor.execute("SELECT 1 FROM escalations FOR UPDATE")
        reporting.start()
        waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        for _ in range(1000):
            if sql(waiting):
                break
            time.sleep(0.02)
        assert sql(waiting)
        cursor.execute("SELECT 1 FROM notifications FOR UPDATE NOWAIT")
        blocker.commit()
    reporting.join()
    blocker.close()
    assert next_tier_at() == "2026-03-02T08:00:00+00:00"
