"""Pages of long lists: by number near the front, by cursor at any depth."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from foundation.errors import ValidationFailed


@dataclass(frozen=True)
class Cursor:
    """The last row of a page: the next page begins after it."""

    at: datetime
    identifier: int

    def encode(self) -> str:
        """Return the opaque text that clients hand back."""
        text = json.dumps([self.at.isoformat(), self.identifier])
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Return the cursor that ``text`` encodes.

        Raises:
            ValidationFailed: it is not one of ours.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            at, identifier = json.loads(raw)
            instant = datetime.fromisoformat(at)
            if instant.tzinfo is None or type(identifier) is not int or not 0 < identifier < 2**63:
                raise ValueError("not a cursor")
        except (ValueError, TypeError, binascii.Error, RecursionError) as error:
            raise ValidationFailed.of("cursor", "is not a cursor of this list") from error
        return cls(instant, identifier)


@dataclass(frozen=True)
class PageRequest:
    """Which page of a list; a cursor wins over a page number."""

    number: int = 1
    limit: int = 50
    cursor: Cursor | None = None

    EXACT_TOTAL_LIMIT: ClassVar[int] = 10_000
    DEEPEST_OFFSET: ClassVar[int] = 1_000_000

    @property
    def offset(self) -> int:
        """How many rows the page number skips.

        Raises:
            ValidationFailed: the page lies too deep to be counted off; a cursor reaches it.
        """
        if self.cursor is not None:
            return 0
        offset = (self.number - 1) * self.limit
        if offset > self.DEEPEST_OFFSET:
            raise ValidationFailed.of("page", f"lies beyond {self.DEEPEST_OFFSET} rows: follow next_cursor instead")
        return offset

    def parameters(self) -> dict[str, Any]:
        """Return what the list queries share; one row more than asked tells whether there is a next page."""
        return {
            "cursor_at": self.cursor.at if self.cursor else None,
            "cursor_id": self.cursor.identifier if self.cursor else None,
            "offset": self.offset,
            "limit": self.limit + 1,
            "depth": self.offset + self.limit + 1,
        }


def settle_total(counted: int, explain: Callable[[], Sequence[Any]]) -> tuple[int, bool]:
    """Return the total of a list and whether it is an estimate.

    ``counted`` goes no further than one beyond ``EXACT_TOTAL_LIMIT``; from there on the planner's guess is the better
    answer: ``explain`` returns the plan of the whole list as EXPLAIN (FORMAT JSON) writes it.
    """
    if counted <= PageRequest.EXACT_TOTAL_LIMIT:
        return counted, False
    return max(counted, int(explain()[0]["Plan"]["Plan Rows"])), True


@dataclass(frozen=True)
class Page:
    """One page of rows with what a client needs to go on."""

    rows: Sequence[Mapping[str, Any]]
    number: int
    limit: int
    total: int
    total_is_estimate: bool
    next_cursor: str | None


def build_page(
    rows: Sequence[Mapping[str, Any]],
    page: PageRequest,
    total: int,
    at_column: str,
    id_column: str,
    *,
    is_estimate: bool,
) -> Page:
    """Return the page for ``rows`` that were fetched with ``limit`` one higher than asked."""
    shown = rows[: page.limit]
    has_more = len(rows) > page.limit
    cursor = Cursor(shown[-1][at_column], shown[-1][id_column]).encode() if has_more else None
    return Page(shown, page.number, page.limit, total, is_estimate, cursor)
