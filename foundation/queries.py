"""Named SQL from ``sql/*.sql``: Python holds none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import aiosql
import psycopg2.extensions

SQL_FOLDER = Path(__file__).resolve().parent.parent / "sql"


@cache
def load_queries(stem: str, *, rows_are_dicts: bool = False) -> Any:  # aiosql makes the methods at run time
    """Return the queries of ``sql/{stem}.sql`` as methods that take a connection and named parameters.

    ``rows_are_dicts`` makes plain dicts of the rows, for the stores that read many or often.
    """
    cursor = {"cursor_factory": RowCursor} if rows_are_dicts else {}
    return aiosql.from_path(SQL_FOLDER / f"{stem}.sql", "psycopg2", mandatory_parameters=False, kwargs=cursor)


class RowCursor(psycopg2.extensions.cursor):
    """Rows as plain dicts, made in one go: psycopg2's own DictCursor calls Python for every value, twice."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        row = super().fetchone()
        return None if row is None else dict(zip(self._names(), row, strict=True))

    def fetchall(self) -> Any:
        """Return the rows that are left."""
        names = self._names()
        return [dict(zip(names, row, strict=True)) for row in super().fetchall()]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the stubs know tuples only
        return iter(self.fetchall())

    def _names(self) -> list[str]:
        return [column.name for column in self.description or ()]
