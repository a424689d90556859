"""Whether the service can do its work: database, migrations, and a worker that beats."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.database import Database
from foundation.errors import Unavailable
from foundation.migrator import pending_migrations
from foundation.queries import load_queries

OLDEST_BEAT_SECONDS = 15.0


@dataclass(frozen=True)
class ReadinessState:
    """One look at the neighbours; None where the database could not say."""

    is_database_up: bool
    pending_migrations: int | None = None
    worker_beat_age_seconds: float | None = None

    @property
    def is_ready(self) -> bool:
        """Whether requests can be served and clocks are watched."""
        return (
            self.is_database_up
            and self.pending_migrations == 0
            and self.worker_beat_age_seconds is not None
            and self.worker_beat_age_seconds <= OLDEST_BEAT_SECONDS
        )


class Readiness:
    """Looks at the neighbours."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load_queries("readiness")

    def check(self) -> ReadinessState:
        """Return the state at this moment; never raises for a database that is away."""
        try:
            with self._database.autocommit() as connection:
                pending = pending_migrations(connection)
                age = self._queries.get_beat_age(connection) if pending == 0 else None
        except Unavailable:
            return ReadinessState(is_database_up=False)
        return ReadinessState(True, pending, None if age is None else round(float(age), 3))
