"""Types that the schemas of all blueprints share."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints, WithJsonSchema

from api.parsing import INT64_MAX, Schema, check_text, parse_identifier

Severity = Literal["critical", "high", "medium", "low", "info"]
AlertState = Literal["new", "acknowledged", "investigating", "resolved"]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DIGITS = re.compile(r"-?[0-9]+")
_OFFSET_LOST_ITS_PLUS = re.compile(r" (\d{2}:?\d{2})$")


def parse_instant(value: object) -> datetime:
    """Return the UTC instant of an ISO 8601 text with an offset; a date alone is its midnight in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    # The standard library reads only as far as a NUL character.
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("must be an ISO 8601 time with an offset, such as 2026-11-23T08:00:00+00:00")
    if _DATE.fullmatch(value):
        value += "T00:00:00+00:00"
    # An unescaped plus in a query string arrives as a space.
    if " " in value:
        value = _OFFSET_LOST_ITS_PLUS.sub(r"+\1", value)
    try:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is None:
            raise ValueError("needs an offset")
        return instant.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("must be an ISO 8601 time with an offset, such as 2026-11-23T08:00:00+00:00") from error


def _parse_identifier(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= INT64_MAX:
        return value
    identifier = parse_identifier(value) if isinstance(value, str) else None
    if identifier is None:
        raise ValueError('must be an identifier, such as 42 or "42"')
    return identifier


def _check_text(value: Any) -> Any:
    if isinstance(value, str) and (fault := check_text(value)):
        raise ValueError(fault)
    return value


def _check_digits(value: object) -> object:
    if isinstance(value, str) and _DIGITS.fullmatch(value) is None:
        raise ValueError("must be a whole number")
    return value


def split_words(value: object) -> object:
    """Split a comma list of a query parameter."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Flag = Annotated[bool, Field(strict=False)]
"""true or false in a query."""

DIGITS = BeforeValidator(_check_digits)
"""Refuses what Python takes for a number in a query and nobody else does: 1_0, 10.0, a space before it."""

SAFE_TEXT = BeforeValidator(_check_text)
"""Refuses what PostgreSQL cannot hold. It stands behind the constraints of a text, or they would apply to any value."""
Text = Annotated[str, SAFE_TEXT]
Notes = Annotated[str, StringConstraints(max_length=4000), SAFE_TEXT]
Instant = Annotated[datetime, BeforeValidator(parse_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
Identifier = Annotated[
    int,
    BeforeValidator(_parse_identifier),
    PlainSerializer(str),
    WithJsonSchema({"oneOf": [{"type": "string", "pattern": "^[1-9][0-9]*$"}, {"type": "integer", "minimum": 1}]}),
]
"""An identifier in a request: a string or an integer."""

IdentifierText = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*$")]
"""An identifier in an answer: always a string."""

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""An instant in an answer: ISO 8601 in UTC with its offset."""


class FieldFault(Schema):
    """One wrong field of a request."""

    field: str
    message: str


class ErrorAnswer(Schema):
    """The envelope of every error."""

    data: None = None
    error: str
    code: str
    details: list[FieldFault]
    request_id: str | None
    current_state: AlertState | None = None
    allowed: list[AlertState] | None = None


class PageOf(Schema):
    """What every page carries beside its rows."""

    page: int
    limit: int
    total: int
    total_is_estimate: bool = Field(description="totals are exact up to 10,000")
    next_cursor: str | None = Field(description="go on with ?cursor=; null at the end")


class PageQuery(Schema):
    """Which page of a list."""

    page: Annotated[int, Field(ge=1, le=2**31, strict=False), DIGITS] = 1
    limit: Annotated[int, Field(ge=1, le=200, strict=False), DIGITS] = 50
    cursor: Annotated[str, StringConstraints(max_length=200)] | None = None


class RangeQuery(PageQuery):
    """A page of a list within a range of time, its start included and its end excluded."""

    start_date: Instant | None = None
    end_date: Instant | None = None


class SlaTargets(Schema):
    """Minutes to acknowledge and to resolve."""

    tta: int
    ttr: int
