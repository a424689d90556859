"""What people see of escalations: which run and which ended unheard, what was sent to whom, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from foundation.database import Connection, Database
from foundation.errors import NotFound
from foundation.paging import Page, PageRequest, build_page, settle_total
from foundation.queries import load_queries

STATUSES = ("pending", "in_progress", "completed", "cancelled")


@dataclass(frozen=True)
class EscalationFilter:
    """Which escalations to list; an empty tuple means any status."""

    statuses: tuple[str, ...] = ()
    severity: str | None = None
    device_id: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that the list queries share."""
        return {
            "statuses": list(self.statuses or STATUSES),
            "severity": self.severity,
            "device_id": self.device_id,
        }


class EscalationLog:
    """Reads escalations, their steps and their notifications."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load_queries("escalation_log", rows_are_dicts=True)

    def list_escalations(self, wanted: EscalationFilter, page: PageRequest) -> Page:
        """Return a page of escalations, newest first."""
        parameters = wanted.parameters()
        with self._database.autocommit() as connection:
            list_rows = self._queries.list_device_escalations if wanted.device_id else self._queries.list_escalations
            rows = list(list_rows(connection, **parameters, **page.parameters()))
            total, is_estimate = self._count(connection, parameters)
        return build_page(rows, page, total, "started_at", "escalation_id", is_estimate=is_estimate)

    def get_escalation(self, escalation_id: int) -> Mapping[str, Any]:
        """Return one escalation with the ``steps`` that it has taken.

        Raises:
            NotFound: there is no such escalation.
        """
        with self._database.autocommit() as connection:
            row: Mapping[str, Any] | None = self._queries.get_escalation(connection, escalation_id=escalation_id)
            if row is None:
                raise NotFound("escalation", escalation_id)
            return {**row, "steps": list(self._queries.list_steps(connection, escalation_id=escalation_id))}

    def list_notifications(self, alert_id: int, page: PageRequest) -> Page:
        """Return a page of the notifications that concern an alert, oldest first.

        Raises:
            NotFound: there is no such alert.
        """
        with self._database.autocommit() as connection:
            if not self._queries.has_alert(connection, alert_id=alert_id):
                raise NotFound("alert", alert_id)
            rows = list(self._queries.list_notifications(connection, alert_id=alert_id, **page.parameters()))
            total = int(self._queries.count_notifications(connection, alert_id=alert_id))
        return build_page(rows, page, total, "created_at", "notification_id", is_estimate=False)

    def list_history(self, connection: Connection, alert_id: int) -> Sequence[Mapping[str, Any]]:
        """Return what escalations did for an alert, oldest first."""
        return list(self._queries.list_history(connection, alert_id=alert_id))

    def count_in_flight(self, connection: Connection, group_id: int) -> int:
        """Return how many notifications of a group's key are on their way at this moment.

        After a step in the same transaction these are all that can still arrive: the step has taken back what was
        pending, and has waited for whoever was about to send.
        """
        return int(self._queries.count_in_flight(connection, group_id=group_id))

    def _count(self, connection: Connection, parameters: Mapping[str, Any]) -> tuple[int, bool]:
        counted = int(self._queries.count_escalations(connection, **parameters))
        return settle_total(counted, partial(self._queries.estimate_escalations, connection, **parameters))
