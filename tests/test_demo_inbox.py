"""The demonstration's inbox: the real channels send to it over SMTP and HTTP, its page shows what came."""

from __future__ import annotations

import dataclasses
import smtplib
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Any

import pytest
import requests
from flask import Flask, Response, request
from werkzeug.serving import make_server

from demo.client import Pause, ServiceClient
from demo.crew import ENGINEER, NAMES, SHIFT_LEAD, engage_crew
from demo.inbox import MOST_KEPT
from demo.inbox_page import EMAIL_FROM, OpenInbox, open_inbox
from demo.mail_server import LARGEST_EMAIL_BYTES
from demo.own_site import make_environment
from foundation.clock import Clock
from foundation.processes import await_condition
from foundation.settings import Settings
from notifications.channel import Channel, Page, PermanentFailure, Sent
from notifications.email import EmailChannel
from notifications.twilio_status import is_signed_by_twilio
from tests.test_twilio_double import INSTANCE_PATH, LIST_PATH, check
from twilio_notifier import TwilioNotifier

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"><a href=javascript:alert(3)>oven</a>"
PAGE = Page(
    notification_id=41,
    alert_id=812,
    severity="critical",
    device_id="3a9ccfce-9773-4c72-b905-6a850e961587",
    device_name="press",
    metric="temperature",
    message="Temperature threshold exceeded: 85.5 °C",
    occurred_at=datetime(2026, 3, 2, 7, 59, 30, tzinfo=UTC),
    link="http://127.0.0.1:5002/alerts/812",
    address="",
)
TO_ENGINEER = {"email": ENGINEER["email"], "sms": ENGINEER["phone"]}
PATIENCE_SECONDS = 20.0


@pytest.fixture
def opened() -> Iterator[OpenInbox]:
    """An inbox that takes messages."""
    with open_inbox(Clock(), NAMES) as opened:
        yield opened


@dataclasses.dataclass
class Reports:
    """What came to the service's address for status callbacks: paths, forms and signatures."""

    url: str = ""
    taken: list[tuple[str, dict[str, str], str]] = dataclasses.field(default_factory=list)


@pytest.fixture
def reports() -> Iterator[Reports]:
    """A receiver of status callbacks."""
    app, reports = Flask("receiver"), Reports()

    @app.post("/<path:path>")
    def take(path: str) -> Response:
        raw_path = f"/{path}?{request.query_string.decode()}"
        reports.taken.append((raw_path, request.form.to_dict(), request.headers["X-Twilio-Signature"]))
        return Response(status=204)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    reports.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield reports
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def channel_settings(opened: OpenInbox, reports: Reports) -> Settings:
    """The settings of a service that pages to the inbox."""
    return Settings(_env_file=None, public_url=reports.url, **opened.channel_settings())


@pytest.fixture
def channels(channel_settings: Settings) -> dict[str, Channel]:
    """The real channels, pointed at the inbox."""
    clock = Clock()
    return {"email": EmailChannel(channel_settings, clock), "sms": TwilioNotifier(channel_settings, clock=clock)}


class Elements(HTMLParser):
    """The elements of a document, each with its attributes, and its text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of the elements of a kind."""
        return [attributes for name, attributes in self.found if name == tag]


def fetch(opened: OpenInbox, path: str = "/") -> requests.Response:
    """Return a good answer of the page."""
    answer = requests.get(opened.url + path, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200
    return answer


def write_email(subject: str, html: str) -> EmailMessage:
    """Return an e-mail as no channel of ours would write it."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "x@example.com", ENGINEER["email"], subject
    message.set_content("plain")
    message.add_alternative(html, subtype="html")
    return message


def send_email(opened: OpenInbox, message: EmailMessage) -> None:
    """Hand an e-mail to the inbox."""
    host, _, port = opened.smtp_url.removeprefix("smtp://").partition(":")
    with smtplib.SMTP(host, int(port), timeout=PATIENCE_SECONDS) as connection:
        connection.send_message(message)


def post_sms(opened: OpenInbox, **form: str) -> requests.Response:
    """Post a text as the SDK does."""
    account = opened.account
    address = f"{opened.url}/2010-04-01/Accounts/{account.sid}/Messages.json"
    fields = {"To": ENGINEER["phone"], "From": account.from_number, "Body": "hot", **form}
    return requests.post(address, fields, auth=(account.sid, account.auth_token), timeout=PATIENCE_SECONDS)


def test_email_arrives_as_it_was_written(opened: OpenInbox, channels: dict[str, Channel]) -> None:
    outcome = channels["email"].send(dataclasses.replace(PAGE, address=ENGINEER["email"]))
    assert isinstance(outcome, Sent)
    [email] = opened.inbox.list_emails()
    assert (email.arrival.number, email.arrival.to, email.arrival.name) == (1, ENGINEER["email"], "Engineer on call")
    assert email.subject == "[CRITICAL] press: Temperature threshold exceeded: 85.5 °C"
    assert "Acknowledge it here: http://127.0.0.1:5002/alerts/812" in email.text
    shown = Elements(fetch(opened).text)
    assert email.subject in shown.text
    assert "Engineer on call engineer@example.com" in " ".join(shown.text.split())
    assert [frame["src"] for frame in shown.of("iframe")] == ["/emails/1"]
    frame = fetch(opened, "/emails/1")
    assert PAGE.message in Elements(frame.text).text
    assert frame.headers["Content-Type"] == "text/html; charset=utf-8"


def test_text_arrives_and_is_delivered(opened: OpenInbox, channels: dict[str, Channel], reports: Reports) -> None:
    outcome = channels["sms"].send(dataclasses.replace(PAGE, address=ENGINEER["phone"]))
    assert isinstance(outcome, Sent)
    assert (outcome.provider_status, outcome.segments, outcome.price) == ("queued", 1, None)
    [sms] = opened.inbox.list_sms()
    assert (sms.sid, sms.arrival.to, sms.arrival.name) == (outcome.provider_id, ENGINEER["phone"], "Engineer on call")
    assert sms.body.startswith("CRITICAL press: Temperature threshold exceeded: 85.5 C Alert 812 http://127.0.0.1:5002")
    assert await_condition(lambda: len(reports.taken) == 2, PATIENCE_SECONDS)
    assert [form["MessageStatus"] for _, form, _ in reports.taken] == ["sent", "delivered"]
    for raw_path, form, signature in reports.taken:
        assert raw_path == "/api/v1/notifications/twilio/status?notification=41"
        assert (form["MessageSid"], form["To"]) == (sms.sid, ENGINEER["phone"])
        assert is_signed_by_twilio(opened.account.auth_token, reports.url, raw_path, form, signature)
    [shown] = [item for item in Elements(fetch(opened).text).of("li") if item["id"] == "sms-1"]
    assert shown["data-status"] == "delivered"


def test_service_can_ask_what_it_sent(opened: OpenInbox, channel_settings: Settings) -> None:
    notifier = TwilioNotifier(channel_settings)
    sent = notifier.send(dataclasses.replace(PAGE, address=ENGINEER["phone"]))
    assert isinstance(sent, Sent)
    found = notifier.find_sent(ENGINEER["phone"], 41)
    assert found is not None
    assert found.provider_id == sent.provider_id
    assert notifier.find_sent(ENGINEER["phone"], 4) is None
    assert notifier.find_sent(SHIFT_LEAD["phone"], 41) is None
    assert sent.provider_id is not None
    provider_id = sent.provider_id
    assert await_condition(lambda: notifier.fetch_sent(provider_id).price is not None, PATIENCE_SECONDS)
    assert notifier.fetch_sent(provider_id).price == 0


def test_gateway_answers_as_twilio_describes(opened: OpenInbox) -> None:
    account = opened.account
    created = post_sms(opened)
    assert created.status_code == 201
    check(created.json(), LIST_PATH, "post", 201)
    auth = (account.sid, account.auth_token)
    base = f"{opened.url}/2010-04-01/Accounts/{account.sid}/Messages"
    for path, address in ((INSTANCE_PATH, f"{base}/{created.json()['sid']}.json"), (LIST_PATH, f"{base}.json")):
        check(requests.get(address, auth=auth, timeout=PATIENCE_SECONDS).json(), path, "get", 200)
    unknown = requests.get(f"{base}/SM0.json", auth=auth, timeout=PATIENCE_SECONDS)
    assert (unknown.status_code, unknown.json()["code"]) == (404, 20404)


@pytest.mark.parametrize(
    ("form", "code"), [({"To": ""}, 21604), ({"From": ""}, 21603), ({"Body": ""}, 21602), ({"Body": "x" * 1601}, 21617)]
)
def test_what_is_no_text_is_refused(opened: OpenInbox, form: dict[str, str], code: int) -> None:
    refusal = post_sms(opened, **form)
    assert (refusal.status_code, refusal.json()["code"]) == (400, code)
    assert opened.inbox.list_sms() == []


def test_stranger_is_refused(opened: OpenInbox, channel_settings: Settings) -> None:
    stranger = channel_settings.model_copy(update={"twilio_auth_token": "wrong"})
    outcome = TwilioNotifier(stranger).send(dataclasses.replace(PAGE, address=ENGINEER["phone"]))
    assert isinstance(outcome, PermanentFailure)
    assert outcome.is_setting_fault
    assert (
        requests.get(f"{opened.url}/2010-04-01/Accounts/x/Messages.json", timeout=PATIENCE_SECONDS).status_code == 401
    )
    assert opened.inbox.list_sms() == []


@pytest.mark.parametrize("channel", ["email", "sms"])
def test_hostile_message_stays_text(opened: OpenInbox, channels: dict[str, Channel], channel: str) -> None:
    hostile = dataclasses.replace(PAGE, message=HOSTILE, device_name=HOSTILE, address=TO_ENGINEER[channel])
    assert isinstance(channels[channel].send(hostile), Sent)
    shown = Elements(fetch(opened).text)
    assert "<script>alert(1)</script>" in shown.text
    assert [script["src"] for script in shown.of("script")] == ["/static/inbox.js"]
    assert shown.of("img") == []
    assert not [name for _, attributes in shown.found for name in attributes if name.startswith("on")]
    addresses = [link["href"] or "" for link in shown.of("a")]
    assert all(address.startswith("http://127.0.0.1:5002/") for address in addresses)
    assert all(link["rel"] == "noopener noreferrer" for link in shown.of("a"))


def test_hostile_email_is_locked_in(opened: OpenInbox) -> None:
    html = f"<html><body onload=alert(0)>{HOSTILE}<form action=//x.example><script src=//x.example></script>"
    send_email(opened, write_email(HOSTILE, html))
    shown = Elements(fetch(opened).text)
    assert len(shown.of("script")) == 1
    [frame] = shown.of("iframe")
    # Neither scripts nor our origin: what the HTML holds is drawn and does nothing.
    assert frame["sandbox"] == "allow-popups allow-popups-to-escape-sandbox"
    answer = fetch(opened, "/emails/1")
    assert html in answer.text
    rules = [rule.strip() for rule in answer.headers["Content-Security-Policy"].split(";")]
    assert {"default-src 'none'", "form-action 'none'", "frame-ancestors 'self'"} <= set(rules)
    # Also where somebody opens it in a tab of its own.
    assert "sandbox allow-popups allow-popups-to-escape-sandbox" in rules
    assert not [rule for rule in rules if rule.startswith(("script-src", "img-src", "connect-src"))]


@pytest.mark.parametrize("path", ["/", "/messages", "/static/inbox.js", "/static/inbox.css"])
def test_page_may_load_nothing_from_elsewhere(opened: OpenInbox, path: str) -> None:
    answer = fetch(opened, path)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


def test_page_names_no_source_elsewhere(opened: OpenInbox, channels: dict[str, Channel]) -> None:
    for channel in ("email", "sms"):
        channels[channel].send(dataclasses.replace(PAGE, address=TO_ENGINEER[channel]))
    shown = Elements(fetch(opened).text)
    sources = [attributes["src"] for _, attributes in shown.found if "src" in attributes]
    sources += [link["href"] for link in shown.of("link")]
    assert sorted(map(str, sources)) == ["/emails/1", "/static/inbox.css", "/static/inbox.js", "data:,"]
    for path in ("/static/inbox.js", "/static/inbox.css"):
        assert "//" not in fetch(opened, path).text.replace("// ", "")


def test_inbox_keeps_the_newest_and_counts_all(opened: OpenInbox) -> None:
    for number in range(1, MOST_KEPT + 4):
        opened.inbox.take_email("x@example.com", f"subject {number}", "", "")
        opened.inbox.take_sms(f"SM{number}", "+12025550111", "+12025550199", f"text {number}", 1, None)
    emails, texts = opened.inbox.list_emails(), opened.inbox.list_sms()
    assert (len(emails), len(texts)) == (MOST_KEPT, MOST_KEPT)
    assert (emails[0].subject, emails[-1].subject) == (f"subject {MOST_KEPT + 3}", "subject 4")
    assert (texts[0].body, texts[-1].body) == (f"text {MOST_KEPT + 3}", "text 4")
    assert opened.inbox.count_arrived() == {"email": MOST_KEPT + 3, "sms": MOST_KEPT + 3}
    assert f"{MOST_KEPT + 3} e-mails, {MOST_KEPT + 3} texts" in fetch(opened).text
    assert requests.get(f"{opened.url}/emails/1", timeout=PATIENCE_SECONDS).status_code == 404


def test_what_is_too_large_is_refused(opened: OpenInbox) -> None:
    with pytest.raises(smtplib.SMTPSenderRefused) as refusal:
        send_email(opened, write_email("large", "x" * LARGEST_EMAIL_BYTES))
    assert refusal.value.smtp_code == 552
    assert post_sms(opened, More="x" * 100_000).status_code == 413
    assert opened.inbox.count_arrived().total() == 0


def test_email_without_html_shows_its_text(opened: OpenInbox) -> None:
    message = EmailMessage()
    message["To"], message["From"] = f"{ENGINEER['email']}, {SHIFT_LEAD['email']}", "x@example.com"
    message.set_content("one < two\n")
    send_email(opened, message)
    assert {email.arrival.name for email in opened.inbox.list_emails()} == {"Engineer on call", "Shift lead"}
    shown = Elements(fetch(opened).text)
    assert shown.of("iframe") == []
    assert "one < two" in shown.text
    assert all("open" in details for details in shown.of("details"))


def test_empty_inbox_says_what_to_wait_for(opened: OpenInbox) -> None:
    assert "Nothing yet." in Elements(fetch(opened).text).text


def test_crew_is_engaged_once(
    app: Flask, token_for: Callable[..., str], client: Any, headers: Callable[..., dict[str, str]]
) -> None:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    pause: Pause = lambda _: False  # noqa: E731
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        for _ in range(2):
            with closing(ServiceClient(url, token_for("admin"), pause)) as administrator:
                engage_crew(administrator)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    [schedule] = client.get("/api/v1/on-call/schedules", headers=headers()).json["data"]
    [policy] = client.get("/api/v1/escalation-policies", headers=headers()).json["data"]
    assert schedule["name"] == policy["name"] == "Demo"
    played = client.post(
        f"/api/v1/escalation-policies/{policy['policy_id']}/simulate", json={"severity": "high"}, headers=headers()
    ).json
    assert [
        (page["minutes"], target["channel"], target["address"])
        for page in played["timeline"]
        for target in page["targets"]
    ] == [
        (0.0, "email", ENGINEER["email"]),
        (0.0, "sms", ENGINEER["phone"]),
        (1.0, "email", SHIFT_LEAD["email"]),
        (1.0, "sms", SHIFT_LEAD["phone"]),
    ]


def test_nothing_of_the_environment_leads_elsewhere(opened: OpenInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://example.com/real")
    monkeypatch.setenv("smtp_url", "smtp://mail.example.com")
    monkeypatch.setenv("PUBLIC_URL", "https://alerts.example.com")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("LANG", "C")
    environment = make_environment(Settings.model_construct(port=1, **opened.channel_settings()))
    assert environment.keys().isdisjoint({"DATABASE_URL", "smtp_url", "PUBLIC_URL", "JWT_SECRET"})
    assert (environment["SMTP_URL"], environment["EMAIL_FROM"]) == (opened.smtp_url, EMAIL_FROM)
    assert (environment["PORT"], environment["LOG_LEVEL"], environment["LANG"]) == ("1", "DEBUG", "C")
