"""Escalation rules: what a policy says, checked on writing, and the timeline that follows from it.

Pure: no database, no clock. The engine and ``simulate`` plan with the same functions.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from foundation.errors import Fault
from phone_numbers import normalise_phone

SEVERITIES = ("critical", "high", "medium", "low", "info")
CHANNELS = ("email", "sms", "webhook")
MOST_TIERS = 10
MOST_RECIPIENTS = 50
MOST_REPEATS = 100
LONGEST_DELAY_MINUTES = 7 * 24 * 60

_REFERENCE = re.compile(r"(user|oncall):([1-9][0-9]{0,18})")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")

# What a recipient of each kind can be reached through.
CHANNELS_BY_KIND = {
    "email": frozenset({"email"}),
    "phone": frozenset({"sms"}),
    "url": frozenset({"webhook"}),
    "user": frozenset({"email", "sms"}),
    "oncall": frozenset({"email", "sms"}),
}


@dataclass(frozen=True)
class Recipient:
    """Somebody or something that a tier pages: ``kind`` is email, phone, url, user or oncall."""

    kind: str
    value: str

    @property
    def identifier(self) -> int:
        """The id of the user or schedule that a reference names."""
        return int(self.value)


@dataclass(frozen=True)
class Tier:
    """One step: whom to page, through what, how many minutes after the pass began."""

    delay_minutes: int
    channels: tuple[str, ...]
    recipients: tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """What a policy does for which severities; ``repeat`` more passes follow the first."""

    severity_match: tuple[str, ...]
    tiers: tuple[Tier, ...]
    repeat: int = 0

    def to_document(self) -> dict[str, Any]:
        """Return the rules as JSON keeps them."""
        return {
            "severity_match": list(self.severity_match),
            "repeat": self.repeat,
            "tiers": [
                {"delay_minutes": t.delay_minutes, "channels": list(t.channels), "recipients": list(t.recipients)}
                for t in self.tiers
            ],
        }

    def tier_of(self, step: Step) -> Tier:
        """Return what a step does."""
        return self.tiers[step.tier - 1]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Rules:
        """Return the rules that a checked document holds."""
        tiers = tuple(Tier(t["delay_minutes"], tuple(t["channels"]), tuple(t["recipients"])) for t in document["tiers"])
        return cls(tuple(document["severity_match"]), tiers, document.get("repeat", 0))


@dataclass(frozen=True)
class Step:
    """One tier of one pass and when it is due; passes and tiers are counted from 1."""

    number: int
    tier: int
    due_at: datetime


def pass_length(rules: Rules) -> timedelta:
    """Return the time from the beginning of a pass to that of the next: D + max(D, 1) minutes, D the last delay."""
    last = rules.tiers[-1].delay_minutes
    return timedelta(minutes=last + max(last, 1))


def plan_steps(rules: Rules, started_at: datetime) -> Iterator[Step]:
    """Yield every step of every pass in order."""
    for number in range(1, rules.repeat + 2):
        begins_at = started_at + (number - 1) * pass_length(rules)
        for tier, content in enumerate(rules.tiers, start=1):
            yield Step(number, tier, begins_at + timedelta(minutes=content.delay_minutes))


def step_after(rules: Rules, started_at: datetime, step: Step) -> Step | None:
    """Return the step that follows one, or None after the last tier of the last pass."""
    place = (step.number, step.tier)
    return next((s for s in plan_steps(rules, started_at) if (s.number, s.tier) > place), None)


def step_to_take(rules: Rules, started_at: datetime, number: int, tier: int, now: datetime) -> Step:
    """Return the step to take at ``now``, where (number, tier) is the next one and somebody is to be paged now.

    After an outage it is the last one that is due, or the first of those due at its minute: those it passes over were
    due before it, and nobody is helped by a burst of old pages. It is the next one where that was brought forward.
    """
    coming = [s for s in plan_steps(rules, started_at) if (s.number, s.tier) >= (number, tier)]
    due = [s for s in coming if s.due_at <= now]
    return next((s for s in due if s.due_at == due[-1].due_at), coming[0])


def ends_unheard_at(rules: Rules, started_at: datetime, last_taken_at: datetime) -> datetime:
    """Return when an escalation whose last tier was taken is over: people get the length of a pass to answer.

    Where that time had passed when the tier was taken, after an outage, they get a minute.
    """
    planned_at = started_at + (rules.repeat + 1) * pass_length(rules)
    return max(planned_at, last_taken_at + timedelta(minutes=1))


def parse_recipient(text: str) -> Recipient | None:
    """Return what a recipient's text names, or None where it is nothing that can be paged."""
    reference = _REFERENCE.fullmatch(text)
    if reference is not None:
        return Recipient(reference[1], reference[2]) if int(reference[2]) < 2**63 else None
    if text.startswith("+"):
        return Recipient("phone", text) if _is_phone(text) else None
    if "://" in text:
        return Recipient("url", text) if _is_url(text) else None
    if _EMAIL.fullmatch(text) and len(text) <= 254:
        return Recipient("email", text)
    return None


def check_tiers(tiers: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Yield what is wrong with tiers of the right types, each by its place within the list (``[1].delay_minutes``)."""
    previous = 0
    for index, tier in enumerate(tiers):
        place = f"[{index}]"
        if tier["delay_minutes"] < previous:
            yield Fault(f"{place}.delay_minutes", "must not be less than that of the tier before")
        previous = max(previous, tier["delay_minutes"])
        yield from _check_fit(place, tier["channels"], tier["recipients"])


def _check_fit(place: str, channels: Sequence[str], recipients: Sequence[str]) -> Iterator[Fault]:
    reached: set[str] = set()
    has_unknown = False
    for number, text in enumerate(recipients):
        recipient = parse_recipient(text)
        if recipient is None:
            has_unknown = True
            yield Fault(
                f"{place}.recipients[{number}]",
                "must be an e-mail address, a number such as +33612345678, user:ID, oncall:ID or an http(s) address",
            )
            continue
        fitting = CHANNELS_BY_KIND[recipient.kind].intersection(channels)
        if not fitting:
            yield Fault(f"{place}.recipients[{number}]", f"cannot be reached through {', '.join(channels)}")
        reached |= fitting
    for number, channel in enumerate(channels):
        # A recipient that could not be read may have been meant for this channel.
        if channel not in reached and not has_unknown:
            yield Fault(f"{place}.channels[{number}]", "has no recipient that it reaches")


def _is_phone(text: str) -> bool:
    try:
        return normalise_phone(text) == text
    except ValueError:
        return False


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return False
    if (
        parts.scheme not in ("http", "https")
        or not host
        or len(text) > 2000
        or parts.username
        or re.search(r"\s", text)
    ):
        return False
    if ":" in host:
        return _is_ip(host)
    return re.fullmatch(r"[A-Za-z0-9_.-]+", host) is not None


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
