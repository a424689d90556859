"""Forward-only migrations: ``migrations/NNNN_name.sql``, each in a transaction of its own."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from foundation.database import Connection
from foundation.errors import SettingsError
from foundation.queries import load_queries

MIGRATIONS_FOLDER = Path(__file__).resolve().parent.parent / "migrations"
LOCK_WAIT_SECONDS = 60
MINIMUM_SERVER_VERSION = 150000


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """The SHA-256 of the text: an edited migration must not pass for the one that ran."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(folder: Path = MIGRATIONS_FOLDER) -> list[Migration]:
    """Return the migrations of a folder in order; numbers run from 1 without a gap."""
    migrations = []
    for path in sorted(folder.glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", path.name)
        if match is None:
            raise ValueError(f"{path.name}: a migration is named NNNN_what_it_does.sql")
        migrations.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    if [m.number for m in migrations] != list(range(1, len(migrations) + 1)):
        raise ValueError("migrations are not numbered from 0001 without a gap")
    return migrations


def migrate(url: str, folder: Path = MIGRATIONS_FOLDER) -> list[Migration]:
    """Bring the database up to date and return what ran now.

    Two processes may start at once: an advisory lock lets one of them work while the other waits.

    Raises:
        SettingsError: the server is too old, newer migrations ran there, or one that ran was edited since.
    """
    try:
        connection = psycopg2.connect(
            url, connection_factory=Connection, connect_timeout=5, options=f"-c lock_timeout={LOCK_WAIT_SECONDS}s"
        )
    except (psycopg2.OperationalError, psycopg2.ProgrammingError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise SettingsError(f"DATABASE_URL: the database cannot be reached ({reason})") from error
    try:
        if connection.server_version < MINIMUM_SERVER_VERSION:
            raise SettingsError(f"DATABASE_URL: PostgreSQL 15 or newer is needed, found {connection.server_version}")
        return _migrate(connection, read_migrations(folder))
    finally:
        connection.close()


def pending_migrations(connection: Connection, folder: Path = MIGRATIONS_FOLDER) -> int:
    """Return how many migrations have not run yet."""
    queries = load_queries("migrator")
    if not queries.has_migrations_table(connection):
        return len(read_migrations(folder))
    applied = dict(queries.list_applied(connection))
    return sum(1 for m in read_migrations(folder) if m.number not in applied)


def _migrate(connection: Connection, migrations: list[Migration]) -> list[Migration]:
    queries = load_queries("migrator")
    connection.autocommit = True
    try:
        queries.lock_migrations(connection)
    except psycopg2.errors.LockNotAvailable as error:
        raise SettingsError("DATABASE_URL: another process is migrating this database and does not end") from error
    queries.create_migrations_table(connection)
    applied = dict(queries.list_applied(connection))
    _check_applied(applied, migrations)
    fresh = [m for m in migrations if m.number not in applied]
    connection.autocommit = False
    for migration in fresh:
        with connection, connection.cursor() as cursor:
            cursor.execute(migration.sql)
            queries.record_applied(
                connection, number=migration.number, name=migration.name, checksum=migration.checksum
            )
    return fresh


def _check_applied(applied: dict[int, str], migrations: list[Migration]) -> None:
    known = {m.number: m for m in migrations}
    for number, checksum in applied.items():
        if number not in known:
            raise SettingsError(f"DATABASE_URL: the database is newer than this version (migration {number:04d})")
        if known[number].checksum != checksum:
            raise SettingsError(f"DATABASE_URL: migration {number:04d} was edited after it ran")
