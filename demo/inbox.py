"""The messages that a demonstration's service sent: what would have reached a mailbox and a phone."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from foundation.clock import Clock

MOST_KEPT = 200
"""Of each channel; older ones make room, and count on."""


@dataclass(frozen=True)
class Arrival:
    """What every message has: its number within its channel, the address, who that is, and when it came."""

    number: int
    to: str
    name: str
    arrived_at: datetime


@dataclass(frozen=True)
class Email:
    """An e-mail, as its sender wrote it: nothing in it can be trusted."""

    arrival: Arrival
    subject: str
    text: str
    html: str


@dataclass(frozen=True)
class Sms:
    """A text message. ``status`` is a word of Twilio's; ``callback`` is where the sender wants to hear of it."""

    arrival: Arrival
    sid: str
    sender: str
    body: str
    segments: int
    callback: str | None
    status: str = "queued"


class Inbox:
    """Keeps the newest messages of each channel; ``names`` says whose addresses are whose."""

    def __init__(self, clock: Clock, names: Mapping[str, str]) -> None:
        self._clock = clock
        self._names = names
        self._lock = threading.Lock()
        self._emails: deque[Email] = deque(maxlen=MOST_KEPT)
        self._sms: deque[Sms] = deque(maxlen=MOST_KEPT)
        self._arrived: Counter[str] = Counter()

    def take_email(self, to: str, subject: str, text: str, html: str) -> None:
        """Keep an e-mail."""
        with self._lock:
            self._emails.appendleft(Email(self._note("email", to), subject, text, html))

    def take_sms(self, sid: str, to: str, sender: str, body: str, segments: int, callback: str | None) -> Sms:
        """Keep a text message and return it."""
        with self._lock:
            sms = Sms(self._note("sms", to), sid, sender, body, segments, callback)
            self._sms.appendleft(sms)
        return sms

    def change_status(self, sid: str, status: str) -> None:
        """Note how far a text message has come."""
        with self._lock:
            for place, sms in enumerate(self._sms):
                if sms.sid == sid:
                    self._sms[place] = replace(sms, status=status)

    def list_emails(self) -> list[Email]:
        """Return the e-mails that are kept, newest first."""
        with self._lock:
            return list(self._emails)

    def list_sms(self) -> list[Sms]:
        """Return the text messages that are kept, newest first."""
        with self._lock:
            return list(self._sms)

    def count_arrived(self) -> Counter[str]:
        """Return how many came through each channel (email, sms)."""
        with self._lock:
            return Counter(self._arrived)

    def _note(self, channel: str, to: str) -> Arrival:
        self._arrived[channel] += 1
        return Arrival(self._arrived[channel], to, self._names.get(to, ""), self._clock.now())
