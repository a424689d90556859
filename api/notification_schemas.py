"""Answers of notifications, and what Twilio reports of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from api.escalation_log_schemas import Pass, Tier
from api.parsing import Schema
from api.schemas import IdentifierText, PageOf, Text, Timestamp

NotificationStatus = Literal["pending", "sending", "sent", "delivered", "failed", "rate_limited", "cancelled"]


class ShownNotification(Schema):
    """What was sent, or is to be, to one address through one channel."""

    notification_id: IdentifierText
    escalation_id: IdentifierText
    pass_: Pass
    tier: Tier
    channel: str
    recipient: str = Field(description="the address: e-mail, number or URL")
    named_as: str = Field(description="the recipient as the policy names it: an address, user:ID or oncall:SCHEDULE")
    user_id: IdentifierText | None
    status: NotificationStatus
    attempts: int
    provider_id: str | None
    provider_status: str | None = Field(description="the status in the provider's own words")
    segments: int | None
    price: float | None = Field(description="as the provider reports it: Twilio's are negative")
    price_unit: str | None
    error: str | None
    created_at: Timestamp
    sent_at: Timestamp | None
    delivered_at: Timestamp | None


class NotificationPage(PageOf):
    """A page of notifications, oldest first."""

    data: list[ShownNotification]


class StatusQuery(Schema):
    """Which notification a callback is about."""

    notification: Text | None = None


class StatusForm(Schema):
    """What Twilio reports of a message; it sends more fields than these."""

    model_config = {"extra": "ignore"}

    MessageSid: str
    MessageStatus: str
    ErrorCode: str | None = None
    NumSegments: str | None = None
    Price: str | None = None
    PriceUnit: str | None = None
