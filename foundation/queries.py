"""Named SQL from ``sql/*.sql``: Python holds none."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import aiosql

SQL_FOLDER = Path(__file__).resolve().parent.parent / "sql"


@cache
def load_queries(stem: str) -> Any:  # aiosql makes the methods at run time
    """Return the queries of ``sql/{stem}.sql`` as methods that take a connection and named parameters."""
    return aiosql.from_path(SQL_FOLDER / f"{stem}.sql", "psycopg2", mandatory_parameters=False)
