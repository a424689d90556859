"""What every channel is given and what it answers.

A channel sends one page once: no retries, no sleeping, no record of its own. Who asks it decides by the outcome
whether and when to ask again. A new channel is one file with one class that satisfies ``Channel``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Protocol, runtime_checkable

SEND_TIMEOUT_SECONDS = 10.0
SHORT_ID_LENGTH = 8


@dataclass(frozen=True)
class Page:
    """One notification: everything that a channel needs to write and address it.

    ``address`` is an e-mail address, an E.164 number or a URL. ``references`` are Message-IDs, without angle
    brackets, of e-mails that this one belongs to beyond its own alert's thread.
    """

    notification_id: int
    alert_id: int
    severity: str
    device_id: str
    message: str
    occurred_at: datetime
    link: str
    address: str
    device_name: str | None = None
    metric: str = ""
    references: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        """The device's name, or the beginning of its id where it has none."""
        return (self.device_name or "").strip() or self.device_id[:SHORT_ID_LENGTH]


@dataclass(frozen=True)
class Sent:
    """The other side took the page in.

    ``provider_id`` and ``provider_status`` are what the provider calls it and its state; ``price`` is what it cost in
    ``price_unit``. All are None where the provider says nothing of it, or not yet.
    """

    provider_id: str | None = None
    provider_status: str | None = None
    segments: int | None = None
    price: Decimal | None = None
    price_unit: str | None = None
    reason: str = "sent"


@dataclass(frozen=True)
class TemporaryFailure:
    """The same page may get through later.

    ``may_have_gone_out`` says that the answer was lost, not the page for certain: before it is sent again, whoever
    can be asked about it should be.
    """

    reason: str
    retry_after_seconds: float | None = None
    may_have_gone_out: bool = False


@dataclass(frozen=True)
class PermanentFailure:
    """The same page will never get through.

    ``code`` is the other side's own word for it. ``is_setting_fault`` says that no page can get through until
    somebody corrects a setting.
    """

    reason: str
    code: str | None = None
    is_setting_fault: bool = False


@dataclass(frozen=True)
class RateLimited:
    """The recipient has had as many pages through this channel as the settings allow."""

    reason: str
    retry_after_seconds: float | None = None


Outcome = Sent | TemporaryFailure | PermanentFailure | RateLimited


class Channel(Protocol):
    """One way to reach somebody."""

    def send(self, page: Page) -> Outcome:
        """Send a page, within a bounded time; what goes wrong outside is an outcome, never an exception."""


@runtime_checkable
class TraceableChannel(Channel, Protocol):
    """A channel whose provider can be asked what it took in."""

    def find_sent(self, address: str, notification_id: int) -> Sent | None:
        """Return the message that carried a notification, None where the provider has taken in none.

        Raises:
            Unavailable: the provider cannot be asked now.
        """


class OffChannel:
    """Stands in for a channel that is not set up: every page fails with the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def send(self, page: Page) -> Outcome:
        """Fail with the reason."""
        return PermanentFailure(self.reason, is_setting_fault=True)


def build_alert_link(base_url: str, alert_id: int) -> str:
    """Return the address at which people see an alert; ``base_url`` has no trailing slash."""
    return f"{base_url}/alerts/{alert_id}"


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, None where it says nothing that can be read.

    RFC 9110, 10.2.3: a number of seconds or a date.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds())


def make_one_line(text: str, longest: int) -> str:
    """Return what somebody else wrote as one printable line of at most ``longest`` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
