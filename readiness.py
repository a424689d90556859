"""Whether the service can do its work: database, migrations, a worker that beats, and pages that leave in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from foundation.database import Connection, Database
from foundation.errors import Unavailable
from foundation.migrator import pending_migrations
from foundation.queries import load_queries

OLDEST_BEAT_SECONDS = 15.0


@dataclass(frozen=True)
class WorkFigures:
    """How the worker keeps up.

    ``escalation_lag_seconds`` is how long the most overdue step of an escalation has been due, 0 where none is;
    ``oldest_pending_notification_seconds`` the age of the oldest that waits to be sent, 0 where none does.
    ``worker_beat_age_seconds`` is None where no worker has ever run.
    """

    worker_beat_age_seconds: float | None
    escalation_lag_seconds: float
    oldest_pending_notification_seconds: float


@dataclass(frozen=True)
class ReadinessState:
    """One look at the neighbours; None where the database could not say.

    ``channel_faults`` has the channels that a wrong setting stops, and what is wrong. They do not make the service
    unready: the others still page.
    """

    is_database_up: bool
    pending_migrations: int | None = None
    figures: WorkFigures | None = None
    channel_faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """Whether requests can be served, clocks are watched and pages go out."""
        beat_age = None if self.figures is None else self.figures.worker_beat_age_seconds
        return (
            self.is_database_up
            and self.pending_migrations == 0
            and beat_age is not None
            and beat_age <= OLDEST_BEAT_SECONDS
        )


class Readiness:
    """Looks at the neighbours, and at how the work gets on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load_queries("readiness", rows_are_dicts=True)

    def check(self) -> ReadinessState:
        """Return the state at this moment; never raises for a database that is away."""
        try:
            with self._database.autocommit() as connection:
                pending = pending_migrations(connection)
                if pending:
                    return ReadinessState(True, pending)
                faults = {row["channel"]: row["error"] for row in self._queries.list_channel_faults(connection)}
                return ReadinessState(True, pending, self.read_figures(connection), faults)
        except Unavailable:
            return ReadinessState(is_database_up=False)

    def read_figures(self, connection: Connection) -> WorkFigures:
        """Return how the worker keeps up, in seconds with three places."""
        row = self._queries.get_figures(connection)
        age = row["worker_beat_age_seconds"]
        return WorkFigures(
            worker_beat_age_seconds=None if age is None else round(age, 3),
            escalation_lag_seconds=round(row["escalation_lag_seconds"] or 0.0, 3),
            oldest_pending_notification_seconds=round(row["oldest_pending_notification_seconds"] or 0.0, 3),
        )

    def count_notifications(self, connection: Connection) -> Sequence[tuple[str, str, int]]:
        """Return (channel, status, number) of the notifications there are."""
        rows = self._queries.count_notifications(connection)
        return [(row["channel"], row["status"], row["notifications"]) for row in rows]

    def count_escalations(self, connection: Connection) -> Mapping[str, int]:
        """Return the number of escalations by status."""
        return {row["status"]: row["escalations"] for row in self._queries.count_escalations(connection)}
