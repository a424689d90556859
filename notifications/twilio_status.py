"""Twilio's status callbacks: who sent one, and what it changes.

Callbacks come more than once and in any order; a status only moves forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from urllib.parse import parse_qs, urlsplit

STATUS_PATH = "/api/v1/notifications/twilio/status"
NOTIFICATION_PARAMETER = "notification"

# Twilio's statuses of an outgoing message by how far along it is; those of the last rank are final.
RANKS = {
    "accepted": 0,
    "scheduled": 0,
    "queued": 1,
    "sending": 2,
    "sent": 3,
    "partially_delivered": 3,
    "delivered": 4,
    "read": 4,
    "undelivered": 4,
    "failed": 4,
    "canceled": 4,
}
DELIVERED = frozenset({"delivered", "read"})
FAILED = frozenset({"undelivered", "failed", "canceled"})


@dataclass(frozen=True)
class StatusReport:
    """What a callback says; ``notification_id`` is None where its address names none that can be one.

    ``segments``, and ``price`` in ``price_unit``, are None where it says nothing of them.
    """

    provider_id: str
    status: str
    error_code: int | None
    notification_id: int | None
    segments: int | None = None
    price: Decimal | None = None
    price_unit: str | None = None


def build_callback_url(base_url: str, notification_id: int | None) -> str:
    """Return the address that Twilio is asked to report to."""
    address = f"{base_url}{STATUS_PATH}"
    return address if notification_id is None else f"{address}?{NOTIFICATION_PARAMETER}={notification_id}"


def parse_report(raw_path: str, form: Mapping[str, str]) -> StatusReport | None:
    """Return what a callback says, None where it is about no outgoing message.

    ``raw_path`` is the request's path with its query, ``form`` its body.
    """
    provider_id = form.get("MessageSid") or form.get("SmsSid")
    status = form.get("MessageStatus") or form.get("SmsStatus")
    if not provider_id or status not in RANKS:
        return None
    values = parse_qs(urlsplit(raw_path).query).get(NOTIFICATION_PARAMETER, [""])
    return StatusReport(
        provider_id,
        status,
        error_code=_read_number(form.get("ErrorCode", "")),
        notification_id=_read_number(values[0]),
        segments=_read_number(form.get("NumSegments", "")),
        price=_read_price(form.get("Price", "")),
        price_unit=form.get("PriceUnit") or None,
    )


def advance_status(current: str | None, reported: str) -> str | None:
    """Return the status after a report, None where the report is late, repeated or unknown and changes nothing."""
    if reported not in RANKS:
        return None
    if current is None or RANKS[reported] > RANKS.get(current, -1):
        return reported
    return None


def to_notification_status(status: str) -> str:
    """Return the notification's status (sent, delivered, failed) for one of Twilio's."""
    if status in DELIVERED:
        return "delivered"
    return "failed" if status in FAILED else "sent"


def is_signed_by_twilio(
    auth_token: str, base_url: str, raw_path: str, form: Mapping[str, str], signature: str | None
) -> bool:
    """Whether a callback carries a good X-Twilio-Signature.

    ``raw_path`` is the path with its query as it came over the wire: a decoded one makes other bytes than those that
    Twilio signed. ``form`` may be a MultiDict. ``base_url`` is PUBLIC_URL without a trailing slash.
    """
    # The validator raises TypeError where there is no signature, and an empty token would let anybody sign.
    if not auth_token or not signature:
        return False
    from twilio.request_validator import RequestValidator

    return bool(RequestValidator(auth_token).validate(base_url + raw_path, form, signature))


def _read_number(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= 18
    return int(text) if is_number else None


def _read_price(text: str) -> Decimal | None:
    try:
        price = Decimal(text)
    except InvalidOperation:
        return None
    return price if price.is_finite() else None
