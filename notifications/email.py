"""E-mail: a page as text and HTML, over SMTP.

RFC 5322, 3.6.4: all e-mails of one alert refer to one Message-ID that stands for the alert, so that a mail program
threads them without anybody remembering what was sent before.
"""

from __future__ import annotations

import contextlib
import html
import re
import smtplib
import socket
import ssl
from dataclasses import dataclass
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, parseaddr
from urllib.parse import parse_qs, unquote, urlsplit

from foundation.clock import Clock
from foundation.settings import Settings
from notifications.channel import (
    SEND_TIMEOUT_SECONDS,
    Outcome,
    Page,
    PermanentFailure,
    Sent,
    TemporaryFailure,
    make_one_line,
)
from notifications.timed_sockets import Deadline, connect, make_tls_context

LONGEST_SUBJECT_MESSAGE = 120
LONGEST_REASON = 200
# Nothing that could be read as a second address or end a header.
ADDRESS = re.compile(r"[^@\s<>()\[\],;:\\\"\x00-\x1f\x7f]+@[^@\s<>()\[\],;:\\\"\x00-\x1f\x7f]+")
REFERENCE = re.compile(r"[!-;=?-~]+@[!-;=?-~]+", re.ASCII)
NO_ANSWER = "the mail server did not answer in time"
COLOURS = {"critical": "#b00020", "high": "#c75000", "medium": "#8a6d00", "low": "#1c5fa8", "info": "#555555"}


@dataclass(frozen=True)
class MailServer:
    """Where SMTP_URL points: ``security`` is none, starttls or tls."""

    host: str
    port: int
    security: str
    user: str
    password: str

    @classmethod
    def from_url(cls, url: str) -> MailServer:
        """Return what a checked SMTP_URL says; ports default to 25, 587 with ?starttls and 465 for smtps."""
        parts = urlsplit(url)
        if parts.scheme == "smtps":
            security, port = "tls", 465
        elif "starttls" in parse_qs(parts.query, keep_blank_values=True):
            security, port = "starttls", 587
        else:
            security, port = "none", 25
        return cls(
            parts.hostname or "",
            parts.port or port,
            security,
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )


class EmailChannel:
    """Sends pages by e-mail."""

    def __init__(self, settings: Settings, clock: Clock, timeout_seconds: float = SEND_TIMEOUT_SECONDS) -> None:
        if not settings.smtp_url or not settings.email_from:
            raise ValueError("SMTP_URL and EMAIL_FROM are not set")
        self._server = MailServer.from_url(settings.smtp_url)
        self._sender = settings.email_from
        self._clock = clock
        self._timeout_seconds = timeout_seconds

    def send(self, page: Page) -> Outcome:
        """Send one e-mail, all within 10 s; its Message-ID is the answer's ``provider_id``."""
        if ADDRESS.fullmatch(page.address) is None:
            return PermanentFailure(f"{make_one_line(page.address, LONGEST_REASON)} is no e-mail address")
        message = build_email(page, self._sender)
        message["Date"] = format_datetime(self._clock.now())
        deadline = Deadline(self._timeout_seconds)
        try:
            self._hand_over(message, page.address, deadline)
        except smtplib.SMTPException as error:
            return classify_refusal(error)
        except TimeoutError:
            return TemporaryFailure(NO_ANSWER, may_have_gone_out=True)
        except ssl.SSLCertVerificationError as error:
            return TemporaryFailure(f"the mail server's certificate is not trusted ({error.verify_message})")
        except OSError as error:
            return TemporaryFailure(f"the mail server cannot be reached ({error.strerror or error})")
        return Sent(provider_id=str(message["Message-ID"]))

    def _hand_over(self, message: EmailMessage, address: str, deadline: Deadline) -> None:
        server = self._server
        connection = _TimedSmtp(server, deadline, local_hostname=_domain_of(self._sender))
        try:
            if server.security == "starttls":
                connection.starttls(context=make_tls_context(deadline))
            if server.user:
                connection.login(server.user, server.password)
            connection.send_message(message, parseaddr(self._sender)[1], [address])
            # The server has taken the e-mail; a farewell that fails changes nothing.
            with contextlib.suppress(smtplib.SMTPException, OSError):
                connection.quit()
        finally:
            connection.close()


class _TimedSmtp(smtplib.SMTP):
    """An SMTP connection with one deadline, in place of a timeout for each of its steps."""

    def __init__(self, server: MailServer, deadline: Deadline, local_hostname: str) -> None:
        self._server = server
        self._deadline = deadline
        super().__init__(server.host, server.port, local_hostname=local_hostname)

    # Where smtplib.SMTP_SSL, too, puts its own connection in place.
    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = connect(host, port, self._deadline)
        if self._server.security != "tls":
            return connection
        try:
            return make_tls_context(self._deadline).wrap_socket(connection, server_hostname=host)
        except BaseException:
            connection.close()
            raise


def build_email(page: Page, sender: str) -> EmailMessage:
    """Return the e-mail of a page to a checked address, without its date.

    Everything that somebody else wrote comes into the headers as one printable line.
    """
    domain = _domain_of(sender)
    user, _, host = page.address.rpartition("@")
    name, address = parseaddr(sender)
    # Encoded words and a quoted-printable body: a server without 8BITMIME takes it as it is.
    message = EmailMessage(policy=SMTP_POLICY)
    message["From"] = Address(name, addr_spec=address)
    message["To"] = Address(username=user, domain=host)
    # EmailMessage's own folding doubles the space before an encoded word, and may begin with an empty line.
    message.set_raw("Subject", Header(_build_subject(page), header_name="Subject").encode())
    message["Message-ID"] = f"<notification-{page.notification_id}.alert-{page.alert_id}@{domain}>"
    thread = [f"alert-{page.alert_id}@{domain}", *filter(REFERENCE.fullmatch, page.references)]
    message["In-Reply-To"] = f"<{thread[-1]}>"
    message["References"] = " ".join(f"<{reference}>" for reference in thread)
    message["Auto-Submitted"] = "auto-generated"
    if page.severity in ("critical", "high"):
        message["Importance"] = "high"
    message.set_content(_build_text(page), cte="quoted-printable")
    message.add_alternative(_build_html(page), subtype="html", cte="quoted-printable")
    return message


def classify_refusal(error: smtplib.SMTPException) -> Outcome:
    """Return what an SMTP error means: 4xx and lost connections pass, 5xx stay."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, text = next(iter(error.recipients.values()))
        return _judge(code, text, "the mail server refuses the recipient")
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return _judge(
            error.smtp_code, error.smtp_error, "the mail server refuses the login of SMTP_URL", is_setting_fault=True
        )
    if isinstance(error, smtplib.SMTPResponseException):
        return _judge(error.smtp_code, error.smtp_error, "the mail server refuses the e-mail")
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return PermanentFailure(f"the mail server cannot do what is asked ({error})", is_setting_fault=True)
    # smtplib turns a timeout into this, too.
    is_late = isinstance(error.__context__, TimeoutError)
    reason = NO_ANSWER if is_late else "the connection to the mail server broke"
    return TemporaryFailure(reason, may_have_gone_out=True)


def _judge(code: int, text: bytes | str, reason: str, *, is_setting_fault: bool = False) -> Outcome:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    told = f"{reason}: {code} {make_one_line(said, LONGEST_REASON)}".rstrip()
    if 500 <= code < 600:
        return PermanentFailure(told, code=str(code), is_setting_fault=is_setting_fault)
    return TemporaryFailure(told)


def _domain_of(sender: str) -> str:
    return parseaddr(sender)[1].rpartition("@")[2]


def _build_subject(page: Page) -> str:
    # The same for every e-mail of the alert: some mail programs only thread what has one subject.
    device = make_one_line(page.device, 60)
    return f"[{page.severity.upper()}] {device}: {make_one_line(page.message, LONGEST_SUBJECT_MESSAGE)}"


def _facts(page: Page) -> list[tuple[str, str]]:
    facts = [
        ("Severity", page.severity),
        ("Device", f"{page.device_name} ({page.device_id})" if page.device_name else page.device_id),
        ("Metric", page.metric),
        ("Occurred", page.occurred_at.strftime("%Y-%m-%d %H:%M:%S UTC")),
        ("Alert", str(page.alert_id)),
    ]
    return [(name, value) for name, value in facts if value]


def _build_text(page: Page) -> str:
    facts = "\n".join(f"{name + ':':<10} {make_one_line(value, 300)}" for name, value in _facts(page))
    return f"{page.message}\n\n{facts}\n\nAcknowledge it here: {page.link}\n"


def _build_html(page: Page) -> str:
    colour = COLOURS.get(page.severity, COLOURS["info"])
    rows = "".join(
        f'<tr><th style="text-align:left;padding:2px 12px 2px 0">{name}</th><td>{html.escape(value)}</td></tr>'
        for name, value in _facts(page)
    )
    link = html.escape(page.link, quote=True)
    return (
        '<!DOCTYPE html><html><body style="font-family:sans-serif;color:#222222">'
        f'<p style="border-left:6px solid {colour};padding-left:12px;font-size:18px;white-space:pre-wrap">'
        f"{html.escape(page.message)}</p>"
        f'<table style="font-size:14px;border-collapse:collapse">{rows}</table>'
        f'<p><a href="{link}" style="display:inline-block;background:{colour};color:#ffffff;padding:10px 18px;'
        'text-decoration:none;border-radius:4px">See and acknowledge</a></p>'
        f'<p style="font-size:12px">{link}</p></body></html>\n'
    )
