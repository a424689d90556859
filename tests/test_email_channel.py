"""The e-mail channel against a real SMTP server on loopback: TLS, login, refusals, threads, slow servers."""

from __future__ import annotations

import asyncio
import dataclasses
import email
import email.policy
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from foundation.clock import FrozenClock
from foundation.settings import Settings
from notifications.channel import Page, PermanentFailure, Sent, TemporaryFailure
from notifications.email import EmailChannel, MailServer, build_email
from tests.certificates import Certificate, make_certificate

CLOCK = FrozenClock(datetime(2026, 3, 2, 8, 0, tzinfo=UTC))
PAGE = Page(
    notification_id=41,
    alert_id=812,
    severity="critical",
    device_id="3a9ccfce-9773-4c72-b905-6a850e961587",
    device_name="Press 4",
    metric="temperature",
    message="Temperature threshold exceeded: 85.5 °C",
    occurred_at=datetime(2026, 3, 2, 7, 59, 30, tzinfo=UTC),
    link="https://alerts.example.com/alerts/812",
    address="engineer@example.com",
)


# Long enough that only the channel's own deadline ends it, short enough that a test without one fails soon.
LONGEST_TRICKLE = 300


class Mailbox:
    """Keeps what arrives; ``replies`` answer RCPT and DATA otherwise, ``gate`` holds DATA until it is set."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.sessions: list[Session] = []
        self.recipient_reply: str | None = None
        self.data_reply: str | None = None
        self.gate: threading.Event | None = None

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient."""
        if self.recipient_reply is not None:
            return self.recipient_reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take an e-mail."""
        while self.gate is not None and not self.gate.is_set():
            await asyncio.sleep(0.01)
        if self.data_reply is not None:
            return self.data_reply
        self.envelopes.append(envelope)
        self.sessions.append(session)
        return "250 OK"

    @property
    def emails(self) -> list[EmailMessage]:
        """The e-mails that arrived, parsed."""
        return [email.message_from_bytes(cast("bytes", e.content), policy=email.policy.default) for e in self.envelopes]


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def serve(mailbox: Mailbox) -> Iterator[Callable[..., int]]:
    """Start the server and return its port."""
    controllers: list[Controller] = []

    def start(**options: Any) -> int:
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            port = int(probe.getsockname()[1])
        controller = Controller(mailbox, "127.0.0.1", port, server_hostname="localhost", **options)
        controllers.append(controller)
        controller.start()
        return port

    yield start
    for controller in controllers:
        if mailbox.gate is not None:
            mailbox.gate.set()
        controller.stop()


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    """A certificate of localhost that the process trusts."""
    made = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.path))
    return made


def make_channel(url: str, timeout_seconds: float = 10.0, sender: str = "Alerts <alerts@example.com>") -> EmailChannel:
    settings = Settings(_env_file=None, smtp_url=url, email_from=sender)
    return EmailChannel(settings, CLOCK, timeout_seconds)


def check_password(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    is_right = (data.login, data.password) == (b"alerts@corp", b"p:a/s s?")
    return AuthResult(success=is_right, handled=False)


class TestContent:
    @pytest.fixture
    def received(self, serve: Callable[..., int], mailbox: Mailbox) -> EmailMessage:
        assert isinstance(make_channel(f"smtp://127.0.0.1:{serve()}").send(PAGE), Sent)
        [received] = mailbox.emails
        return received

    def test_headers(self, received: EmailMessage, mailbox: Mailbox) -> None:
        assert received["From"] == "Alerts <alerts@example.com>"
        assert received["To"] == "engineer@example.com"
        assert received["Subject"] == "[CRITICAL] Press 4: Temperature threshold exceeded: 85.5 °C"
        assert received["Date"].datetime == CLOCK.now()
        assert received["Auto-Submitted"] == "auto-generated"
        [envelope] = mailbox.envelopes
        assert (envelope.mail_from, envelope.rcpt_tos) == ("alerts@example.com", ["engineer@example.com"])

    @pytest.mark.parametrize(
        "message", ["Druck zu hoch – 12 °C über Soll " * 3, "pressure is too high " * 5, "压力过高" * 25]
    )
    def test_a_long_subject_arrives_as_it_was(self, serve: Callable[..., int], mailbox: Mailbox, message: str) -> None:
        make_channel(f"smtp://127.0.0.1:{serve()}").send(dataclasses.replace(PAGE, message=message))
        assert mailbox.emails[0]["Subject"] == f"[CRITICAL] Press 4: {message.strip()}"

    def test_the_text_says_everything(self, received: EmailMessage) -> None:
        part = received.get_body(("plain",))
        assert part is not None
        assert part.get_content().replace("\r\n", "\n") == (
            "Temperature threshold exceeded: 85.5 °C\n\n"
            "Severity:  critical\n"
            "Device:    Press 4 (3a9ccfce-9773-4c72-b905-6a850e961587)\n"
            "Metric:    temperature\n"
            "Occurred:  2026-03-02 07:59:30 UTC\n"
            "Alert:     812\n\n"
            "Acknowledge it here: https://alerts.example.com/alerts/812\n"
        )

    def test_the_html_says_the_same_and_links(self, received: EmailMessage) -> None:
        part = received.get_body(("html",))
        assert part is not None
        content = part.get_content()
        for text in ("Temperature threshold exceeded: 85.5 °C", "Press 4", "temperature", "07:59:30", "812"):
            assert text in content
        assert 'href="https://alerts.example.com/alerts/812"' in content
        assert received.get_content_type() == "multipart/alternative"

    def test_only_seven_bits_travel(self, received: EmailMessage, mailbox: Mailbox) -> None:
        assert max(cast("bytes", mailbox.envelopes[0].content)) < 128

    def test_markup_of_a_message_stays_text(self, serve: Callable[..., int], mailbox: Mailbox) -> None:
        channel = make_channel(f"smtp://127.0.0.1:{serve()}")
        channel.send(dataclasses.replace(PAGE, message="<script>x</script>&", device_name='"><img src=x>'))
        part = mailbox.emails[0].get_body(("html",))
        assert part is not None
        assert "<script>" not in part.get_content()
        assert "<img" not in part.get_content()
        assert "&lt;script&gt;x&lt;/script&gt;&amp;" in part.get_content()


class TestThreads:
    def test_pages_of_one_alert_share_a_thread_and_a_subject(self, serve: Callable[..., int], mailbox: Mailbox) -> None:
        channel = make_channel(f"smtp://127.0.0.1:{serve()}")
        outcomes = [channel.send(dataclasses.replace(PAGE, notification_id=number)) for number in (41, 42)]
        first, second = mailbox.emails
        assert first["References"] == second["References"] == "<alert-812@example.com>"
        assert first["In-Reply-To"] == "<alert-812@example.com>"
        assert first["Subject"] == second["Subject"]
        assert first["Message-ID"] == "<notification-41.alert-812@example.com>" != second["Message-ID"]
        assert outcomes[0] == Sent(provider_id=first["Message-ID"])

    def test_another_alert_has_another_thread(self, serve: Callable[..., int], mailbox: Mailbox) -> None:
        channel = make_channel(f"smtp://127.0.0.1:{serve()}")
        for number in (812, 813):
            channel.send(dataclasses.replace(PAGE, alert_id=number))
        assert [e["References"] for e in mailbox.emails] == ["<alert-812@example.com>", "<alert-813@example.com>"]

    def test_a_page_sent_again_has_the_same_id(self, serve: Callable[..., int], mailbox: Mailbox) -> None:
        channel = make_channel(f"smtp://127.0.0.1:{serve()}")
        for _ in range(2):
            channel.send(PAGE)
        assert len({e["Message-ID"] for e in mailbox.emails}) == 1

    def test_further_references_come_last(self, serve: Callable[..., int], mailbox: Mailbox) -> None:
        page = dataclasses.replace(PAGE, references=("group-77@example.com",))
        make_channel(f"smtp://127.0.0.1:{serve()}").send(page)
        assert mailbox.emails[0]["References"] == "<alert-812@example.com> <group-77@example.com>"


class TestInjection:
    @pytest.mark.parametrize("line", ["\r\n", "\n", "\r", "\x0b", "\x85", "\u2028", "\r\n\r\n", "\x00"])
    def test_no_header_comes_from_outside(self, serve: Callable[..., int], mailbox: Mailbox, line: str) -> None:
        attack = f"hot{line}Bcc: thief@example.com{line}{line}body"
        page = dataclasses.replace(PAGE, message=attack, device_name=attack, metric=attack, references=(attack,))
        outcome = make_channel(f"smtp://127.0.0.1:{serve()}").send(page)
        assert isinstance(outcome, Sent)
        [received] = mailbox.emails
        assert received["Bcc"] is None
        assert mailbox.envelopes[0].rcpt_tos == ["engineer@example.com"]
        assert received["Subject"].startswith("[CRITICAL] hot Bcc: thief@example.com body: hot Bcc:")

    @pytest.mark.parametrize(
        "address",
        ["a@example.com\r\nBcc: b@example.com", "a@example.com, b@example.com", "nobody", "", "<a@example.com>", "a@"],
    )
    def test_what_is_no_address_is_refused(self, serve: Callable[..., int], mailbox: Mailbox, address: str) -> None:
        outcome = make_channel(f"smtp://127.0.0.1:{serve()}").send(dataclasses.replace(PAGE, address=address))
        assert isinstance(outcome, PermanentFailure)
        assert "is no e-mail address" in outcome.reason
        assert mailbox.envelopes == []

    @given(message=st.text(min_size=1), device=st.text())
    @hypothesis_settings(max_examples=50)
    def test_any_message_becomes_the_same_headers(self, message: str, device: str) -> None:
        page = dataclasses.replace(PAGE, message=message, device_name=device)
        built = build_email(page, "alerts@example.com")
        parsed = email.message_from_bytes(built.as_bytes(), policy=email.policy.default)
        assert sorted(parsed.keys()) == sorted(built.keys())


class TestTls:
    def test_starttls(self, serve: Callable[..., int], mailbox: Mailbox, certificate: Certificate) -> None:
        port = serve(tls_context=certificate.make_server_context(), require_starttls=True)
        assert isinstance(make_channel(f"smtp://localhost:{port}?starttls").send(PAGE), Sent)
        assert mailbox.sessions[0].ssl is not None

    def test_tls_from_the_first_byte(
        self, serve: Callable[..., int], mailbox: Mailbox, certificate: Certificate
    ) -> None:
        port = serve(ssl_context=certificate.make_server_context())
        assert isinstance(make_channel(f"smtps://127.0.0.1:{port}").send(PAGE), Sent)
        assert len(mailbox.envelopes) == 1

    @pytest.mark.parametrize("scheme", ["smtps", "smtp"])
    def test_a_certificate_that_nobody_vouches_for_gets_nothing(
        self, serve: Callable[..., int], mailbox: Mailbox, tmp_path: Path, scheme: str
    ) -> None:
        context = make_certificate(tmp_path).make_server_context()
        port = serve(ssl_context=context) if scheme == "smtps" else serve(tls_context=context)
        outcome = make_channel(f"{scheme}://localhost:{port}{'?starttls' if scheme == 'smtp' else ''}").send(PAGE)
        assert isinstance(outcome, TemporaryFailure)
        assert "certificate is not trusted" in outcome.reason
        assert mailbox.envelopes == []

    def test_a_server_without_starttls_gets_nothing_in_clear(self, serve: Callable[..., int], mailbox: Mailbox) -> None:
        outcome = make_channel(f"smtp://localhost:{serve()}?starttls").send(PAGE)
        assert isinstance(outcome, PermanentFailure)
        assert outcome.is_setting_fault
        assert mailbox.envelopes == []

    @pytest.mark.parametrize(("password", "expected"), [("p%3Aa%2Fs%20s%3F", Sent), ("wrong", PermanentFailure)])
    def test_login(
        self,
        serve: Callable[..., int],
        mailbox: Mailbox,
        certificate: Certificate,
        password: str,
        expected: type,
    ) -> None:
        context = certificate.make_server_context()
        port = serve(tls_context=context, auth_required=True, auth_callback=None, authenticator=check_password)
        outcome = make_channel(f"smtp://alerts%40corp:{password}@localhost:{port}?starttls").send(PAGE)
        assert isinstance(outcome, expected)
        assert len(mailbox.envelopes) == (expected is Sent)
        if isinstance(outcome, PermanentFailure):
            assert outcome.is_setting_fault
            assert "SMTP_URL" in outcome.reason


class TestRefusals:
    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            ("450 mailbox busy", TemporaryFailure),
            ("421 going down", TemporaryFailure),
            ("550 no such user", PermanentFailure),
            ("552 over quota", PermanentFailure),
        ],
    )
    def test_of_the_recipient(self, serve: Callable[..., int], mailbox: Mailbox, reply: str, expected: type) -> None:
        mailbox.recipient_reply = reply
        outcome = make_channel(f"smtp://127.0.0.1:{serve()}").send(PAGE)
        assert isinstance(outcome, expected)
        assert reply in outcome.reason

    @pytest.mark.parametrize(
        ("reply", "expected"), [("451 try later", TemporaryFailure), ("554 looks like spam", PermanentFailure)]
    )
    def test_of_the_content(self, serve: Callable[..., int], mailbox: Mailbox, reply: str, expected: type) -> None:
        mailbox.data_reply = reply
        outcome = make_channel(f"smtp://127.0.0.1:{serve()}").send(PAGE)
        assert isinstance(outcome, expected)
        assert reply in outcome.reason

    def test_an_address_that_the_server_cannot_write_is_permanent(self, serve: Callable[..., int]) -> None:
        port = serve(enable_SMTPUTF8=False)
        outcome = make_channel(f"smtp://127.0.0.1:{port}").send(dataclasses.replace(PAGE, address="café@example.com"))
        assert isinstance(outcome, PermanentFailure)

    def test_an_address_beyond_ascii_arrives_where_the_server_can_write_it(
        self, serve: Callable[..., int], mailbox: Mailbox
    ) -> None:
        channel = make_channel(f"smtp://127.0.0.1:{serve(enable_SMTPUTF8=True)}")
        assert isinstance(channel.send(dataclasses.replace(PAGE, address="café@example.com")), Sent)
        assert mailbox.envelopes[0].rcpt_tos == ["café@example.com"]


class TestBrokenConnections:
    def test_a_closed_door_is_temporary(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            port = listener.getsockname()[1]
        outcome = make_channel(f"smtp://127.0.0.1:{port}").send(PAGE)
        assert outcome == TemporaryFailure("the mail server cannot be reached (Connection refused)")

    def test_an_unknown_host_is_temporary(self) -> None:
        outcome = make_channel("smtp://no-such-host.invalid:25").send(PAGE)
        assert isinstance(outcome, TemporaryFailure)
        assert "cannot be reached" in outcome.reason

    def test_a_server_that_says_nothing_is_bounded(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            outcome = make_channel(f"smtp://127.0.0.1:{listener.getsockname()[1]}", 0.2).send(PAGE)
        assert outcome == TemporaryFailure("the mail server did not answer in time", may_have_gone_out=True)

    def test_a_server_that_trickles_is_bounded(self) -> None:
        ended = threading.Event()

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    for _ in range(LONGEST_TRICKLE):
                        connection.sendall(b"220-still here\r\n")
                        if ended.wait(0.02):
                            return
                except OSError:
                    return

        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            thread = threading.Thread(target=trickle)
            thread.start()
            try:
                outcome = make_channel(f"smtp://127.0.0.1:{listener.getsockname()[1]}", 0.3).send(PAGE)
                # It was the channel that ended it, not the server.
                assert not ended.is_set()
            finally:
                ended.set()
                thread.join()
        assert outcome == TemporaryFailure("the mail server did not answer in time", may_have_gone_out=True)

    def test_a_server_that_takes_the_e_mail_but_never_says_so_may_have_it(
        self, serve: Callable[..., int], mailbox: Mailbox
    ) -> None:
        mailbox.gate = threading.Event()
        outcome = make_channel(f"smtp://127.0.0.1:{serve()}", 0.5).send(PAGE)
        assert outcome == TemporaryFailure("the mail server did not answer in time", may_have_gone_out=True)

    @pytest.mark.parametrize("farewell", [b"", b"500 what?\r\n"])
    def test_a_farewell_that_fails_changes_nothing(self, farewell: bytes) -> None:
        def serve_once() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(b"220 hello\r\n")
                for line in lines:
                    command = line.split()[0].upper()
                    if command == b"QUIT":
                        connection.sendall(farewell)
                        return
                    connection.sendall(b"354 go on\r\n" if command == b"DATA" else b"250 OK\r\n")
                    if command == b"DATA":
                        while next(lines) != b".\r\n":
                            pass
                        connection.sendall(b"250 OK\r\n")

        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            thread = threading.Thread(target=serve_once)
            thread.start()
            outcome = make_channel(f"smtp://127.0.0.1:{listener.getsockname()[1]}").send(PAGE)
            thread.join()
        assert isinstance(outcome, Sent)


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("smtp://mail.example.com", MailServer("mail.example.com", 25, "none", "", "")),
            ("smtp://mail.example.com?starttls", MailServer("mail.example.com", 587, "starttls", "", "")),
            ("smtps://u%40x:p%23@mail.example.com", MailServer("mail.example.com", 465, "tls", "u@x", "p#")),
            ("smtp://u:p@[::1]:2525?starttls", MailServer("::1", 2525, "starttls", "u", "p")),
        ],
    )
    def test_the_address_of_the_server(self, url: str, expected: MailServer) -> None:
        assert MailServer.from_url(url) == expected

    def test_without_a_server_there_is_no_channel(self) -> None:
        with pytest.raises(ValueError, match="SMTP_URL"):
            EmailChannel(Settings(_env_file=None), CLOCK)
