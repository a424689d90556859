"""Named SQL from ``sql/*.sql``: Python holds none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import aiosql
import psycopg2.extensions
from aiosql.adapters.pyformat import PyFormatAdapter

SQL_FOLDER = Path(__file__).resolve().parent.parent / "sql"
PARAMETER = re.compile(r"%\((\w+)\)s")
TYPED_PARAMETER = re.compile(r"%\((\w+)\)s::(\w+(?:\[\])?)")
ABSENCE = re.compile(rf"{TYPED_PARAMETER.pattern} IS NULL")
# Each takes some 50 kB of the server's memory. A list has a dozen shapes that are usual, and hundreds that are not.
MOST_PREPARED = 64

Shape = tuple[Any, ...]


@cache
def load_queries(stem: str, *, rows_are_dicts: bool = False, prepared: tuple[str, ...] = ()) -> Any:
    """Return the queries of ``sql/{stem}.sql`` as methods that take a connection and named parameters.

    ``rows_are_dicts`` makes plain dicts of the rows, for the stores that read many or often. The queries that
    ``prepared`` names are parsed and planned once per connection and shape: for those that run often. Which
    parameters are None belongs to the shape, so that ``:x::type IS NULL OR ...`` costs nothing and hides no index;
    so do the values of those without a cast, such as a LIMIT. The others are handed to the plan.
    """
    cursor = {"cursor_factory": RowCursor} if rows_are_dicts else {}
    adapter = partial(_PreparingAdapter, stem, prepared)
    return aiosql.from_path(SQL_FOLDER / f"{stem}.sql", adapter, mandatory_parameters=False, kwargs=cursor)


class _PreparingAdapter(PyFormatAdapter):
    """Runs prepared queries by EXECUTE, and prepares them on connections that do not know them yet."""

    def __init__(self, stem: str, prepared: tuple[str, ...], **cursor: Any) -> None:
        super().__init__(**cursor)  # type: ignore[no-untyped-call]  # aiosql types only its outside
        self._stem = stem
        self._names = prepared
        self._prepared: dict[str, _PreparedQuery] = {}

    def process_sql(self, query_name: str, op_type: Any, sql: str) -> str:
        """Return the text of a query as the driver takes it."""
        sql = super().process_sql(query_name, op_type, sql)  # type: ignore[no-untyped-call]
        if query_name in self._names:
            self._prepared[query_name] = _PreparedQuery(f"{self._stem}_{query_name}", sql)
        return sql

    def select(self, conn: Any, query_name: str, sql: str, parameters: Any, *more: Any) -> Any:
        """Return the rows of a query."""
        return super().select(conn, query_name, self._prepare(conn, query_name, sql, parameters), parameters, *more)

    def select_one(self, conn: Any, query_name: str, sql: str, parameters: Any, *more: Any) -> Any:
        """Return the first row of a query, or None."""
        sql = self._prepare(conn, query_name, sql, parameters)
        return super().select_one(conn, query_name, sql, parameters, *more)  # type: ignore[no-untyped-call]

    def select_value(self, conn: Any, query_name: str, sql: str, parameters: Any) -> Any:
        """Return the first value of the first row of a query."""
        sql = self._prepare(conn, query_name, sql, parameters)
        return super().select_value(conn, query_name, sql, parameters)  # type: ignore[no-untyped-call]

    def _prepare(self, connection: Any, query_name: str, sql: str, parameters: Any) -> str:
        query = self._prepared.get(query_name)
        return sql if query is None else query.prepare(connection, parameters)


class _PreparedQuery:
    """A query with a statement of its own for every shape of its parameters."""

    def __init__(self, name: str, sql: str) -> None:
        self._name = name
        self._sql = sql
        self._types = dict(TYPED_PARAMETER.findall(sql))
        self._written = sorted({*PARAMETER.findall(sql)} - {*self._types})

    def prepare(self, connection: Any, parameters: Mapping[str, Any]) -> str:
        """Return the EXECUTE of the statement for these parameters, which ``connection`` knows from now on."""
        absent = [parameters[name] is None for name in self._types]
        written = [str(parameters[name]) for name in self._written]
        shape: Shape = (self._name, *absent, *written)
        statements: dict[Shape, str] = connection.prepared
        # Taken out and put back, so that the first is the one that was used the longest time ago.
        execution = statements.pop(shape, None) or self._add(connection, parameters)
        statements[shape] = execution
        return execution

    def _add(self, connection: Any, parameters: Mapping[str, Any]) -> str:
        types = {name: kind for name, kind in self._types.items() if parameters[name] is not None}
        places = {**dict.fromkeys(self._types, "NULL"), **{name: f"${n}" for n, name in enumerate(types, start=1)}}
        # A plan for any value would keep asking whether there is one.
        text = ABSENCE.sub(lambda match: "FALSE" if match[1] in types else "TRUE", self._sql)
        text = PARAMETER.sub(lambda match: places.get(match[1], match[0]), text)
        statement = f"{self._name}_{next(connection.statement_numbers)}"
        with connection.cursor() as cursor:
            if len(connection.prepared) >= MOST_PREPARED:
                oldest = connection.prepared.pop(next(iter(connection.prepared)))
                cursor.execute(f"DEALLOCATE {oldest.split()[1]}")
            cursor.execute(f"PREPARE {statement} {_enclose(types.values())} AS {text}", parameters)
        return f"EXECUTE {statement} {_enclose(f'%({name})s::{kind}' for name, kind in types.items())}"


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
