"""What an account may hold: pure rules, the same for the API and the command line."""

from __future__ import annotations

import re
import unicodedata
import zoneinfo
from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal, get_args

from foundation.errors import Fault, ValidationFailed
from phone_numbers import normalise_phone as normalise_e164

Role = Literal["viewer", "device", "operator", "engineer", "admin"]
ROLE_NAMES: tuple[str, ...] = get_args(Role)
ADMINISTRATOR = "admin"

LONGEST_EMAIL = 254
LONGEST_NAME = 200
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 1000

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@(?:{_LABEL}\.)+(?!\d+$){_LABEL}", re.ASCII)
_LONGEST_LOCAL_PART = 64
_SEPARATORS = re.compile(r"[ .()-]")

# Names that the time zone database lists for machines, not for people.
_NO_PLACES = frozenset({"localtime", "Factory", "posixrules"})


def normalise_email(value: str) -> str:
    """Return the address in lower case; ASCII only, with a dot in its domain (RFC 5321 without quoted parts).

    Raises:
        ValueError: it is no such address.
    """
    match = _EMAIL.fullmatch(value) if len(value) <= LONGEST_EMAIL else None
    if match is None or len(match["local"]) > _LONGEST_LOCAL_PART:
        raise ValueError("must be an e-mail address, such as ana@example.com")
    return value.lower()


def check_name(value: str) -> str:
    """Return the name without spaces around it.

    Raises:
        ValueError: it is empty, too long, or has control characters, which would break a mail's header.
    """
    name = value.strip()
    if not 1 <= len(name) <= LONGEST_NAME:
        raise ValueError(f"must have 1 to {LONGEST_NAME} characters")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise ValueError("must not contain control characters")
    return name


def check_role(value: str) -> str:
    """Return the role.

    Raises:
        ValueError: there is no such role.
    """
    if value not in ROLE_NAMES:
        raise ValueError(f"must be one of {', '.join(ROLE_NAMES)}")
    return value


def normalise_phone(value: str) -> str:
    """Return the number in E.164 form; people write spaces, dots, dashes and brackets into it, which are dropped.

    Raises:
        ValueError: it has no country code or cannot be a number.
    """
    return normalise_e164(_SEPARATORS.sub("", value))


def check_time_zone(value: str) -> str:
    """Return the name of the time zone.

    Raises:
        ValueError: the IANA database has no such name.
    """
    if value not in _list_time_zones():
        raise ValueError("must be the name of a time zone, such as Europe/Paris")
    return value


def check_password(value: str) -> str:
    """Return the password.

    Raises:
        ValueError: it is too short or too long.
    """
    if not SHORTEST_PASSWORD <= len(value) <= LONGEST_PASSWORD:
        raise ValueError(f"must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return value


_RULES: dict[str, Callable[[str], str]] = {
    "email": normalise_email,
    "name": check_name,
    "role": check_role,
    "phone": normalise_phone,
    "time_zone": check_time_zone,
    "password": check_password,
}


def check_account(fields: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the fields of an account in the form they are kept in; only ``phone`` may be None.

    Raises:
        ValidationFailed: naming every wrong field.
    """
    checked: dict[str, str | None] = {}
    faults = []
    for field, value in fields.items():
        try:
            checked[field] = None if value is None and field == "phone" else _RULES[field](value or "")
        except ValueError as error:
            faults.append(Fault(field, str(error)))
    if faults:
        raise ValidationFailed(faults)
    return checked


@cache
def _list_time_zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones() - _NO_PLACES)
