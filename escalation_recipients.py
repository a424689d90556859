"""From the recipients that a tier names to the addresses that its channels use, at one instant.

Pure but for the two lookups it is given: who a user is, and who is on call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from escalation_rules import Recipient, Tier, parse_recipient


@dataclass(frozen=True)
class Contact:
    """How somebody can be reached; None where they have no such address."""

    name: str | None
    email: str | None
    phone: str | None
    user_id: int | None = None


class Directory(Protocol):
    """Who somebody is, at the instant it was made for."""

    def find_user(self, user_id: int) -> Contact | None:
        """Return the contact of a user, None for one who does not exist."""

    def find_on_call(self, schedule_id: int) -> Contact | None:
        """Return the contact of who is on call, None where nobody is."""


@dataclass(frozen=True)
class Target:
    """One page to send: through which channel, to which address, for which recipient of the tier."""

    channel: str
    address: str
    recipient: str
    name: str | None = None
    user_id: int | None = None


@dataclass(frozen=True)
class Unreachable:
    """A recipient that a tier cannot reach, and why."""

    recipient: str
    reason: str


@dataclass(frozen=True)
class ResolvedTier:
    """Whom a tier reaches; an address listed twice is paged once per channel."""

    targets: tuple[Target, ...]
    unreachable: tuple[Unreachable, ...]


def resolve_tier(tier: Tier, directory: Directory) -> ResolvedTier:
    """Return the pages of a tier, in the order of its recipients and channels."""
    targets: dict[tuple[str, str], Target] = {}
    unreachable: list[Unreachable] = []
    for text in tier.recipients:
        recipient = parse_recipient(text)
        found = None if recipient is None else _find_contact(recipient, directory)
        if isinstance(found, Contact):
            reached = [
                Target(channel, address, text, found.name, found.user_id)
                for channel, address in _addresses(tier, recipient, found)
            ]
            if not reached:
                unreachable.append(Unreachable(text, f"{found.name or 'the user'} has no address for these channels"))
            for target in reached:
                targets.setdefault((target.channel, target.address), target)
        else:
            unreachable.append(Unreachable(text, found or "is no recipient"))
    return ResolvedTier(tuple(targets.values()), tuple(unreachable))


def _find_contact(recipient: Recipient, directory: Directory) -> Contact | str:
    """Return the contact behind a recipient, or why there is none."""
    lookups: dict[str, tuple[Callable[[int], Contact | None], str]] = {
        "user": (directory.find_user, "there is no such user"),
        "oncall": (directory.find_on_call, "nobody is on call"),
    }
    if recipient.kind in lookups:
        find, reason = lookups[recipient.kind]
        return find(recipient.identifier) or reason
    email = recipient.value if recipient.kind == "email" else None
    phone = recipient.value if recipient.kind == "phone" else None
    return Contact(None, email, phone)


def _addresses(tier: Tier, recipient: Recipient | None, contact: Contact) -> list[tuple[str, str]]:
    webhook = recipient.value if recipient is not None and recipient.kind == "url" else None
    by_channel = {"email": contact.email, "sms": contact.phone, "webhook": webhook}
    return [(channel, address) for channel in tier.channels if (address := by_channel[channel]) is not None]
