"""Named SQL from ``sql/*.sql``: Python holds none."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import aiosql
import psycopg2.extensions
from aiosql.adapters.pyformat import PyFormatAdapter

SQL_FOLDER = Path(__file__).resolve().parent.parent / "sql"
# It warns of every prepared query that is to return rows: such a one begins with EXECUTE.
logging.getLogger("aiosql").setLevel(logging.ERROR)

TYPED_PARAMETER = re.compile(r"%\((\w+)\)s::(\w+(?:\[\])?)")


@cache
def load_queries(stem: str, *, rows_are_dicts: bool = False, prepared: tuple[str, ...] = ()) -> Any:
    """Return the queries of ``sql/{stem}.sql`` as methods that take a connection and named parameters.

    ``rows_are_dicts`` makes plain dicts of the rows, for the stores that read many or often. The queries that
    ``prepared`` names are parsed and planned once per connection: for those that run often, that one plan suits
    whatever is asked, and whose every parameter is cast to its type.
    """
    cursor = {"cursor_factory": RowCursor} if rows_are_dicts else {}
    adapter = partial(_PreparingAdapter, stem, prepared)
    return aiosql.from_path(SQL_FOLDER / f"{stem}.sql", adapter, mandatory_parameters=False, kwargs=cursor)


class _PreparingAdapter(PyFormatAdapter):
    """Runs prepared queries by EXECUTE, and prepares them on connections that do not know them yet."""

    def __init__(self, stem: str, prepared: tuple[str, ...], **cursor: Any) -> None:
        super().__init__(**cursor)  # type: ignore[no-untyped-call]  # aiosql types only its outside
        self._stem = stem
        self._prepared = prepared
        self._preparations: dict[str, str] = {}

    def process_sql(self, query_name: str, op_type: Any, sql: str) -> str:
        """Return what is sent when the query is called."""
        sql = super().process_sql(query_name, op_type, sql)  # type: ignore[no-untyped-call]
        if query_name not in self._prepared:
            return sql
        types = dict(TYPED_PARAMETER.findall(sql))
        numbers = {name: number for number, name in enumerate(types, start=1)}
        statement = f"{self._stem}_{query_name}"
        numbered = TYPED_PARAMETER.sub(lambda match: f"${numbers[match[1]]}", sql)
        self._preparations[query_name] = f"PREPARE {statement} {_enclose(types.values())} AS {numbered}"
        return f"EXECUTE {statement} {_enclose(f'%({name})s::{kind}' for name, kind in types.items())}"

    def select(self, conn: Any, query_name: str, *arguments: Any) -> Any:
        """Return the rows of a query."""
        self._prepare(conn, query_name)
        return super().select(conn, query_name, *arguments)

    def select_one(self, conn: Any, query_name: str, *arguments: Any) -> Any:
        """Return the first row of a query, or None."""
        self._prepare(conn, query_name)
        return super().select_one(conn, query_name, *arguments)  # type: ignore[no-untyped-call]

    def select_value(self, conn: Any, query_name: str, *arguments: Any) -> Any:
        """Return the first value of the first row of a query."""
        self._prepare(conn, query_name)
        return super().select_value(conn, query_name, *arguments)  # type: ignore[no-untyped-call]

    def _prepare(self, connection: Any, query_name: str) -> None:
        preparation = self._preparations.get(query_name)
        if preparation is not None and preparation not in connection.prepared:
            with connection.cursor() as cursor:
                cursor.execute(preparation)
            connection.prepared.add(preparation)


def _enclose(words: Iterable[str]) -> str:
    text = ", ".join(words)
    return f"({text})" if text else ""


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
