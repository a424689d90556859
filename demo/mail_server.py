"""A mail server on loopback that takes every e-mail into the inbox."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from demo.inbox import Inbox

LARGEST_EMAIL_BYTES = 256 * 1024


class Mailbox:
    """What the server asks about each e-mail."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  # its name
        """Take an e-mail, once for each of its recipients."""
        message = email.message_from_bytes(cast("bytes", envelope.content), policy=email.policy.default)
        for address in envelope.rcpt_tos:
            self._inbox.take_email(
                address, str(message["Subject"] or ""), read_part(message, "plain"), read_part(message, "html")
            )
        return "250 OK"


def read_part(message: EmailMessage, subtype: str) -> str:
    """Return the body of a kind (plain, html); empty where the e-mail has none."""
    part = message.get_body((subtype,))
    return str(part.get_content()) if part is not None else ""


@contextmanager
def serve_mail(inbox: Inbox, port: int) -> Iterator[str]:
    """Take e-mails on loopback for the length of the block; yield the address of the server as SMTP_URL has it."""
    controller = Controller(
        Mailbox(inbox), "127.0.0.1", port, server_hostname="localhost", data_size_limit=LARGEST_EMAIL_BYTES
    )
    controller.start()
    try:
        yield f"smtp://127.0.0.1:{port}"
    finally:
        controller.stop()
