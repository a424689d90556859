"""Groups: one active group per device, metric and severity, so that noise becomes one thing to look at.

How an alert finds its group and its original is decided in the database (``migrations/0003`` and ``0004``), under
the group's lock; this module reads groups and their statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from foundation.database import Connection, Database
from foundation.errors import NotFound
from foundation.paging import Page, PageRequest, build_page, settle_total
from foundation.queries import load_queries

STATUSES = ("active", "closed")


@dataclass(frozen=True)
class GroupFilter:
    """Which groups to list: first occurrence in [start_at, end_at)."""

    status: str | None = None
    device_id: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None

    @property
    def is_by_status_alone(self) -> bool:
        """Whether the running tallies know the exact total."""
        return self.device_id is None and self.start_at is None and self.end_at is None


class AlertGrouping:
    """Reads groups."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load_queries(
            "alert_grouping",
            rows_are_dicts=True,
            prepared=("list_groups", "list_device_groups", "count_by_status", "count_groups", "get_statistics"),
        )

    def get_group(self, connection: Connection, group_id: int) -> Mapping[str, Any]:
        """Return one group.

        Raises:
            NotFound: there is no such group.
        """
        row: Mapping[str, Any] | None = self._queries.get_group(connection, group_id=group_id)
        if row is None:
            raise NotFound("group", group_id)
        return row

    def lock_group(self, connection: Connection, group_id: int) -> None:
        """Keep anything from joining or moving in a group until the transaction ends."""
        self._queries.lock_group(connection, group_id=group_id)

    def read_group(self, group_id: int) -> Mapping[str, Any]:
        """Return one group over a connection of its own."""
        with self._database.autocommit() as connection:
            return self.get_group(connection, group_id)

    def list_groups(self, wanted: GroupFilter, page: PageRequest) -> Page:
        """Return a page of groups, newest first occurrence first."""
        parameters = {
            "statuses": [wanted.status] if wanted.status else list(STATUSES),
            "device_id": wanted.device_id,
            "start_at": wanted.start_at,
            "end_at": wanted.end_at,
        }
        with self._database.autocommit() as connection:
            list_rows = self._queries.list_device_groups if wanted.device_id else self._queries.list_groups
            rows = list(list_rows(connection, **parameters, **page.parameters()))
            total, is_estimate = self._count(connection, wanted, parameters)
        return build_page(rows, page, total, "first_occurrence_at", "group_id", is_estimate=is_estimate)

    def read_statistics(self) -> Mapping[str, Any]:
        """Return the figures of all groups, from the running tallies."""
        with self._database.autocommit() as connection:
            row: Mapping[str, Any] = self._queries.get_statistics(connection)
        return row

    def _count(self, connection: Connection, wanted: GroupFilter, parameters: Mapping[str, Any]) -> tuple[int, bool]:
        if wanted.is_by_status_alone:
            return int(self._queries.count_by_status(connection, statuses=parameters["statuses"])), False
        counted = int(self._queries.count_groups(connection, **parameters))
        return settle_total(counted, partial(self._queries.estimate_groups, connection, **parameters))
