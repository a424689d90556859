"""Alerts on disk: raising, reading, listing, notes and history."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Any

from foundation.database import Connection
from foundation.errors import NotFound
from foundation.paging import Page, PageRequest, build_page, settle_total
from foundation.queries import load_queries

SEVERITIES = ("critical", "high", "medium", "low", "info")
STATES = ("new", "acknowledged", "investigating", "resolved")


@dataclass(frozen=True)
class AlertReport:
    """What a machine or a person reports; ``occurred_at`` None means now, ``key_class`` None the severity."""

    device_id: str
    severity: str
    message: str
    metadata: Mapping[str, Any]
    metric: str = ""
    source: str = ""
    occurred_at: datetime | None = None
    escalate: bool = True
    key_class: str | None = None


@dataclass(frozen=True)
class AlertFilter:
    """Which alerts to list: created in [start_at, end_at); an empty tuple means any."""

    severities: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    device_id: str | None = None
    metric: str | None = None
    group_id: int | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    text: str | None = None

    @property
    def is_by_class_alone(self) -> bool:
        """Whether only severity and state are asked for: the running tallies know the exact total."""
        return self == AlertFilter(severities=self.severities, states=self.states)

    @property
    def is_merged_by_class(self) -> bool:
        """Whether the page is best merged from the stretches of severities and states in their index."""
        names_class = bool(self.severities or self.states)
        return names_class and self.device_id is None and self.group_id is None and self.metric is None

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that the list queries share."""
        return {
            "severities": list(self.severities or SEVERITIES),
            "states": list(self.states or STATES),
            "is_any_class": not (self.severities or self.states),
            "device_id": self.device_id,
            "metric": self.metric,
            "group_id": self.group_id,
            "start_at": self.start_at,
            "end_at": self.end_at,
            "text": self.text,
        }


class AlertStore:
    """Reads and writes alerts on the caller's connection; never commits."""

    def __init__(self) -> None:
        self._queries = load_queries(
            "alert_store",
            rows_are_dicts=True,
            prepared=(
                "raise_alert",
                "raise_each",
                "raise_alerts",
                "get_alert",
                "list_alerts",
                "list_alerts_by_class",
                "count_by_class",
                "count_alerts",
            ),
        )

    def raise_alert(self, connection: Connection, report: AlertReport, reported_by: str) -> Mapping[str, Any]:
        """Record one alert and return its id, state, group, original, time and SLA targets."""
        row: Mapping[str, Any] = self._queries.raise_alert(
            connection,
            device_id=report.device_id,
            severity=report.severity,
            message=report.message,
            metadata=json.dumps(report.metadata),
            metric=report.metric,
            source=report.source,
            occurred_at=report.occurred_at,
            escalate=report.escalate,
            reported_by=reported_by,
            key_class=report.key_class,
        )
        return row

    def raise_alerts(
        self, connection: Connection, reports: Sequence[AlertReport], reported_by: str
    ) -> Sequence[Mapping[str, Any]]:
        """Record a batch and return one row per report, in order."""
        document = json.dumps([_describe_report(report) for report in reports])
        return list(self._queries.raise_alerts(connection, reports=document, reported_by=reported_by))

    def raise_each(
        self, connection: Connection, reports: Sequence[tuple[AlertReport, str]]
    ) -> Sequence[Mapping[str, Any]]:
        """Record reports, each with who sent it, as ``raise_alert`` does, all or none; return one row per report."""
        document = json.dumps(
            [
                {**_describe_report(report), "reported_by": reported_by, "position": position}
                for position, (report, reported_by) in enumerate(reports)
            ]
        )
        return sorted(self._queries.raise_each(connection, reports=document), key=itemgetter("position"))

    def get_alert(self, connection: Connection, alert_id: int) -> Mapping[str, Any]:
        """Return one alert with the state of its SLA clocks and its group.

        Raises:
            NotFound: there is no such alert.
        """
        row: Mapping[str, Any] | None = self._queries.get_alert(connection, alert_id=alert_id)
        if row is None:
            raise NotFound("alert", alert_id)
        return row

    def list_alerts(self, connection: Connection, wanted: AlertFilter, page: PageRequest) -> Page:
        """Return a page of alerts, newest first.

        A row has ``shown``, the JSON of an alert as ``row_to_json`` writes it, and ``has_long_number``: whether its
        metadata may hold a number beyond 64 bits.
        """
        parameters = wanted.parameters()
        list_rows = self._queries.list_alerts_by_class if wanted.is_merged_by_class else self._queries.list_alerts
        rows = list(list_rows(connection, **parameters, **page.parameters()))
        total, is_estimate = self._count(connection, wanted, parameters)
        return build_page(rows, page, total, "created_at", "alert_id", is_estimate=is_estimate)

    def add_note(self, connection: Connection, alert_id: int, notes: str, written_by: str) -> Mapping[str, Any]:
        """Keep a note with an alert.

        Raises:
            NotFound: there is no such alert.
        """
        row: Mapping[str, Any] | None = self._queries.add_note(
            connection, alert_id=alert_id, notes=notes, written_by=written_by
        )
        if row is None:
            raise NotFound("alert", alert_id)
        return row

    def list_history(self, connection: Connection, alert_id: int) -> Sequence[Mapping[str, Any]]:
        """Return everything that happened to an alert, oldest first.

        Raises:
            NotFound: there is no such alert.
        """
        rows = list(self._queries.list_history(connection, alert_id=alert_id))
        if not rows:
            raise NotFound("alert", alert_id)
        return rows

    def list_open_in_group(self, connection: Connection, group_id: int) -> Mapping[int, str]:
        """Return the state of every open alert of a group, duplicates too, by id."""
        return {row["id"]: row["state"] for row in self._queries.list_open_in_group(connection, group_id=group_id)}

    def list_states(self, connection: Connection, alert_ids: Sequence[int]) -> Mapping[int, str]:
        """Return the states of alerts by id."""
        return {row["id"]: row["state"] for row in self._queries.list_states(connection, alert_ids=list(alert_ids))}

    def count_by_class(self, connection: Connection) -> Sequence[Mapping[str, Any]]:
        """Return the running tallies: alerts and breaches per severity and state."""
        return list(self._queries.list_tallies(connection))

    def _count(self, connection: Connection, wanted: AlertFilter, parameters: Mapping[str, Any]) -> tuple[int, bool]:
        if wanted.is_by_class_alone:
            return int(self._queries.count_by_class(connection, **parameters)), False
        counted = int(self._queries.count_alerts(connection, **parameters))
        return settle_total(counted, partial(self._queries.estimate_alerts, connection, **parameters))


def _describe_report(report: AlertReport) -> dict[str, Any]:
    """Return a report as the batch statements take it in JSON."""
    return {
        "device_id": report.device_id,
        "severity": report.severity,
        "message": report.message,
        "metadata": report.metadata,
        "metric": report.metric,
        "source": report.source,
        "occurred_at": report.occurred_at and report.occurred_at.isoformat(),
        "escalate": report.escalate,
        "key_class": report.key_class,
    }
