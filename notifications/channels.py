"""Which channels there are, as the settings have them."""

from __future__ import annotations

from collections.abc import Callable

from foundation.clock import Clock
from foundation.database import Database
from foundation.settings import Settings
from notifications.channel import Channel, OffChannel
from notifications.email import EmailChannel
from notifications.webhook import WebhookChannel
from twilio_notifier import TwilioNotifier


def build_channels(settings: Settings, database: Database, clock: Clock) -> dict[str, Channel]:
    """Return every channel by its name; one that is not set up fails each page with the reason."""
    makers: dict[str, Callable[[], Channel]] = {
        "email": lambda: EmailChannel(settings, clock),
        "sms": lambda: TwilioNotifier(settings, database, clock),
        "webhook": lambda: WebhookChannel(settings, clock),
    }
    return {name: _build(name, make) for name, make in makers.items()}


def _build(name: str, make: Callable[[], Channel]) -> Channel:
    try:
        return make()
    except ValueError as error:
        return OffChannel(f"the {name} channel is off: {error}")
