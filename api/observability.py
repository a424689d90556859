"""What operators see of the web processes: request ids, one log line a request, and metrics.

With PROMETHEUS_MULTIPROC_DIR set (``serve`` does) the metrics of all web processes are added up by whichever of
them answers ``/metrics``.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import getrandbits
from typing import Any

from flask import Flask, Request, Response, g, request
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from foundation.database import Connection, Database
from foundation.errors import Unavailable
from readiness import Readiness

access_log = logging.getLogger("advanced_alerting.access")

ACCEPTED_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@functools.cache
def _identify_process() -> int:
    """Return this process's id; the metrics ask for it with every figure, and the system takes its time to answer."""
    return os.getpid()


if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    os.register_at_fork(after_in_child=_identify_process.cache_clear)
    values.ValueClass = values.MultiProcessValue(_identify_process)  # type: ignore[no-untyped-call]

REQUESTS = Counter("advanced_alerting_http_requests", "Requests", ["method", "route", "status"])
LATENCY = Histogram(
    "advanced_alerting_http_request_duration_seconds",
    "Time to answer",
    ["method", "route"],
    buckets=LATENCY_BUCKETS,
)
POOL_IN_USE = Gauge(
    "advanced_alerting_database_connections_in_use",
    "Connections lent to requests",
    multiprocess_mode="livesum",
)
POOL_SIZE = Gauge(
    "advanced_alerting_database_connections_limit",
    "Most connections that may be lent",
    multiprocess_mode="livesum",
)


def observe_requests(app: Flask) -> None:
    """Give every request an id, a log line and its place in the metrics."""

    @app.before_request
    def begin() -> None:
        given = request.environ.get("HTTP_X_REQUEST_ID")
        is_accepted = given is not None and ACCEPTED_REQUEST_ID.fullmatch(given)
        begun = g._get_current_object()
        # Random enough to be found again among log lines; nobody is let in by it.
        begun.request_id = given if is_accepted else f"{getrandbits(128):032x}"
        begun.started_at = time.perf_counter()

    @app.after_request
    def finish(response: Response) -> Response:
        begun, status = g._get_current_object(), response.status_code
        asked: Request = request._get_current_object()  # type: ignore[attr-defined]  # it is a proxy
        response.headers.add("X-Request-ID", begun.request_id)
        seconds = time.perf_counter() - begun.started_at
        rule = asked.url_rule
        # A made-up method would make a new time series with every request.
        method, route = (asked.method, rule.rule) if rule else ("other", "unmatched")
        requests, latency = _find_series(method, route, status)
        requests.inc()
        latency.observe(seconds)
        if access_log.isEnabledFor(logging.INFO):
            caller = begun.get("caller")
            access_log.info(
                "%s %s %d",
                asked.method,
                asked.path,
                status,
                extra={
                    "request_id": begun.request_id,
                    "method": asked.method,
                    "path": asked.path,
                    "route": route,
                    "status": status,
                    "duration_ms": round(seconds * 1000, 2),
                    "subject": None if caller is None else caller.subject,
                },
            )
        return response


@functools.cache
def _find_series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """Return the time series of a kind of request: there are a few hundred, and finding one anew costs 10 us."""
    return REQUESTS.labels(method, route, status), LATENCY.labels(method, route)


def observe_pool(database: Database) -> None:
    """Show the use of the connection pool."""
    POOL_SIZE.set(database.pool_size)
    database.on_use_changed = POOL_IN_USE.set


class AlertCollector(Collector):
    """Reads alerts, groups and breaches from the running tallies, and how pages get on, when Prometheus asks."""

    def __init__(
        self,
        database: Database,
        read_tallies: Callable[[Connection], Sequence[Mapping[str, Any]]],
        readiness: Readiness,
        count_false_positives: Callable[[Connection], Mapping[str, int]],
    ) -> None:
        self._database = database
        self._read_tallies = read_tallies
        self._readiness = readiness
        self._count_false_positives = count_false_positives

    def collect(self) -> Iterator[Metric]:
        """Yield the families; without the database only the word that it is away."""
        up = GaugeMetricFamily("advanced_alerting_database_up", "Whether the database answered this scrape")
        try:
            with self._database.autocommit() as connection:
                rows = self._read_tallies(connection)
                pages = list(_describe_pages(self._readiness, connection))
                false_positives = self._count_false_positives(connection)
        except Unavailable:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _describe_tallies(rows)
        yield from pages
        yield _describe_false_positives(false_positives)


def _describe_false_positives(counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(
        "advanced_alerting_ml_false_positives", "Alerts of models that somebody called false", labels=["algorithm"]
    )
    for algorithm, count in counts.items():
        family.add_metric([algorithm], count)
    return family


def _describe_tallies(rows: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    alerts = GaugeMetricFamily("advanced_alerting_alerts", "Alerts by severity and state", labels=["severity", "state"])
    breaches = CounterMetricFamily(
        "advanced_alerting_sla_breaches", "SLA breaches, duplicates left out", labels=["severity", "clock"]
    )
    groups = GaugeMetricFamily("advanced_alerting_active_groups", "Active alert groups")
    by_severity: dict[str, list[int]] = {}
    active = 0
    for row in rows:
        active += int(row["groups_opened"] or 0) - int(row["groups_closed"] or 0)
        severity, state = row["severity"], row["state"]
        if severity is None:
            continue
        counted = by_severity.setdefault(str(severity), [0, 0])
        counted[0] += int(row["tta_breaches"] or 0)
        counted[1] += int(row["ttr_breaches"] or 0)
        if state is not None:
            alerts.add_metric([str(severity), str(state)], float(row["alerts"] or 0))
    for severity, (tta, ttr) in by_severity.items():
        breaches.add_metric([severity, "tta"], tta)
        breaches.add_metric([severity, "ttr"], ttr)
    groups.add_metric([], active)
    yield from (alerts, groups, breaches)


def _describe_pages(readiness: Readiness, connection: Connection) -> Iterator[Metric]:
    figures = readiness.read_figures(connection)
    gauges = {
        "escalation_lag_seconds": (
            "Time the most overdue step of an escalation is due",
            figures.escalation_lag_seconds,
        ),
        "notifications_oldest_pending_seconds": (
            "Age of the oldest notification that waits to be sent",
            figures.oldest_pending_notification_seconds,
        ),
        "worker_beat_age_seconds": ("Time since a worker last beat", figures.worker_beat_age_seconds),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(name, text, value)
    # Gauges, whatever the name says: what is pending today is sent tomorrow.
    notifications = GaugeMetricFamily(
        "notifications_total", "Notifications by channel and status", labels=["channel", "status"]
    )
    for channel, status, number in readiness.count_notifications(connection):
        notifications.add_metric([channel, status], number)
    by_status = readiness.count_escalations(connection)
    escalations = GaugeMetricFamily("escalations_total", "Escalations by status", labels=["status"])
    for status, number in by_status.items():
        escalations.add_metric([status], number)
    unheard = CounterMetricFamily(
        "escalations_unheard", "Escalations that nobody answered", by_status.get("completed", 0)
    )
    yield from (notifications, escalations, unheard)


def render_metrics(collector: Collector) -> bytes:
    """Return all metrics in Prometheus' text format, those of every web process added up."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    own = CollectorRegistry()
    own.register(collector)
    if not folder:
        return generate_latest(REGISTRY) + generate_latest(own)
    _forget_dead_processes(Path(folder))
    multiprocess.MultiProcessCollector(own, path=folder)  # type: ignore[no-untyped-call]
    return generate_latest(own)


def _forget_dead_processes(folder: Path) -> None:
    """Drop the gauges of web processes that have died and been replaced; their counters stay counted."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rsplit("_", 1)[1])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            continue
