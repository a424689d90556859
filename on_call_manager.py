"""On-call schedules: kept as people write them; who is on call is computed at the moment somebody asks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from foundation.clock import Clock
from foundation.database import Connection, Database
from foundation.errors import NotFound
from foundation.paging import Page, PageRequest, build_page
from foundation.queries import load_queries
from on_call_document import describe_override, describe_schedule, parse_schedule
from on_call_rotation import CurrentShift, Override, Schedule, Shift, current_shift, shifts_between


@dataclass(frozen=True)
class StoredSchedule:
    """A schedule with its identifier."""

    schedule_id: int
    schedule: Schedule
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class CurrentOnCall:
    """Who is on call on one schedule at one instant."""

    schedule_id: int
    schedule_name: str
    shift: CurrentShift


class OnCallManager:
    """Reads and writes schedules and answers who is on call."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._queries = load_queries("on_call_manager")

    def get_current_on_call(self, schedule_id: int | None = None, at: datetime | None = None) -> CurrentOnCall | None:
        """Return who is on call now, or at an instant; without an id, on the first enabled schedule.

        None where no schedule is enabled, or the one asked for is not: a schedule that is switched off pages nobody.

        Raises:
            NotFound: there is no schedule with this id.
        """
        with self._database.autocommit() as connection:
            return self.find_on_call(connection, schedule_id, at or self._clock.now())

    def find_on_call(self, connection: Connection, schedule_id: int | None, at: datetime) -> CurrentOnCall | None:
        """Return who is on call at an instant, on the caller's connection."""
        if schedule_id is None:
            row = self._queries.get_first_enabled(connection)
            return None if row is None else _compute_current(read_schedule(row), at)
        stored = self._get(connection, schedule_id)
        return _compute_current(stored, at) if stored.schedule.enabled else None

    def list_current(self, at: datetime | None = None) -> list[CurrentOnCall]:
        """Return who is on call on every enabled schedule, oldest schedule first."""
        with self._database.autocommit() as connection:
            rows = list(self._queries.list_enabled(connection))
        instant = at or self._clock.now()
        return [_compute_current(read_schedule(row), instant) for row in rows]

    def list_schedules(self, enabled: bool | None, rotation_type: str | None, page: PageRequest) -> Page:
        """Return a page of schedules, newest first."""
        wanted = {"enabled": enabled, "rotation_type": rotation_type}
        with self._database.autocommit() as connection:
            rows = list(self._queries.list_schedules(connection, **wanted, **page.parameters()))
            total = int(self._queries.count_schedules(connection, **wanted))
        return build_page(rows, page, total, "created_at", "schedule_id", is_estimate=False)

    def get_schedule(self, schedule_id: int) -> StoredSchedule:
        """Return one schedule.

        Raises:
            NotFound: there is no such schedule.
        """
        with self._database.autocommit() as connection:
            return self._get(connection, schedule_id)

    def create_schedule(self, schedule: Schedule) -> StoredSchedule:
        """Keep a new schedule.

        Raises:
            Conflict: the name is taken.
        """
        with self._database.autocommit() as connection:
            return read_schedule(self._queries.insert_schedule(connection, **_columns(schedule)))

    def replace_schedule(self, schedule_id: int, schedule: Schedule) -> StoredSchedule:
        """Put another schedule in the place of one; it takes effect at once."""
        with self._database.autocommit() as connection:
            row = self._queries.update_schedule(connection, schedule_id=schedule_id, **_columns(schedule))
        if row is None:
            raise NotFound("schedule", schedule_id)
        return read_schedule(row)

    def delete_schedule(self, schedule_id: int) -> StoredSchedule:
        """Forget a schedule and return it as it was; a tier that names it reaches nobody from then on.

        Raises:
            NotFound: there is no such schedule.
        """
        with self._database.autocommit() as connection:
            row = self._queries.delete_schedule(connection, schedule_id=schedule_id)
        if row is None:
            raise NotFound("schedule", schedule_id)
        return read_schedule(row)

    def add_override(self, schedule_id: int, override: Override) -> StoredSchedule:
        """Write an override; it wins over those written before."""
        return self._change_overrides(schedule_id, lambda overrides: [*overrides, override])

    def remove_override(self, schedule_id: int, start_at: datetime, end_at: datetime, user_id: int) -> StoredSchedule:
        """Take an override back.

        Raises:
            NotFound: there is no such schedule, or it has no such override.
        """

        def remove(overrides: Sequence[Override]) -> list[Override]:
            kept = [o for o in overrides if (o.start_at, o.end_at, o.user_id) != (start_at, end_at, user_id)]
            if len(kept) == len(overrides):
                raise NotFound("override", f"of user {user_id} from {start_at.isoformat()}")
            return kept

        return self._change_overrides(schedule_id, remove)

    def list_shifts(self, schedule_id: int, start_at: datetime, end_at: datetime) -> list[Shift]:
        """Return the shifts that touch [start_at, end_at), overrides laid over the rotation, in order."""
        stored = self.get_schedule(schedule_id)
        return list(shifts_between(stored.schedule, start_at, end_at))

    def _change_overrides(self, schedule_id: int, change: Any) -> StoredSchedule:
        def rewrite(connection: Connection) -> StoredSchedule:
            row = self._queries.lock_schedule(connection, schedule_id=schedule_id)
            if row is None:
                raise NotFound("schedule", schedule_id)
            stored = read_schedule(row)
            users = {**row["users"], "overrides": [describe_override(o) for o in change(stored.schedule.overrides)]}
            return read_schedule(
                self._queries.update_users(connection, schedule_id=schedule_id, users=json.dumps(users))
            )

        return self._database.run(rewrite)

    def _get(self, connection: Connection, schedule_id: int) -> StoredSchedule:
        row = self._queries.get_schedule(connection, schedule_id=schedule_id)
        if row is None:
            raise NotFound("schedule", schedule_id)
        return read_schedule(row)


def read_schedule(row: Mapping[str, Any]) -> StoredSchedule:
    """Return the schedule that a row holds."""
    document = {
        "name": row["name"],
        "rotation_type": row["rotation_type"],
        "rotation_start": row["rotation_start"],
        "rotation_interval_days": row["rotation_interval_days"],
        "timezone": row["timezone"],
        "enabled": row["enabled"],
        "users": row["users"],
    }
    return StoredSchedule(row["schedule_id"], parse_schedule(document), row["created_at"], row["updated_at"])


def _columns(schedule: Schedule) -> dict[str, Any]:
    document = describe_schedule(schedule)
    return {**document, "rotation_start": schedule.rotation_start, "users": json.dumps(document["users"])}


def _compute_current(stored: StoredSchedule, at: datetime) -> CurrentOnCall:
    return CurrentOnCall(stored.schedule_id, stored.schedule.name, current_shift(stored.schedule, at))
