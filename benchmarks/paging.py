"""Paging: from an alert's commit to the handover of its page, due timers, and the shifts of a year."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import quantiles
from typing import Any
from zoneinfo import ZoneInfo

import aiosql

from benchmarks.plan import Plan
from benchmarks.report import Row
from benchmarks.seed import connect
from benchmarks.server import BenchmarkError, plain_environment
from foundation.processes import await_condition, start_child, stop_children
from on_call_rotation import OnCallUser, Override, Schedule, shifts_between

HANDOVER, TIMERS, SHIFTS = "handover", "timers", "shifts"
NAMES = (HANDOVER, TIMERS, SHIFTS)
RATES = (1, 50)
ARRIVAL_SECONDS = 30.0
WEBHOOK_SECRET = "whsec_" + "YmVuY2htYXJr" * 3

_queries = aiosql.from_path(Path(__file__).with_suffix(".sql"), "psycopg2", mandatory_parameters=False)


def make_rules(channel: str, recipient: str, delay_minutes: int = 0) -> str:
    """Return the rules of a policy for critical alerts with two tiers, as JSON."""
    tiers = [
        {"delay_minutes": delay_minutes + 15 * number, "channels": [channel], "recipients": [recipient]}
        for number in range(2)
    ]
    return json.dumps({"severity_match": ["critical"], "repeat": 0, "tiers": tiers})


@contextmanager
def matching_policy(url: str, delay_minutes: int) -> Iterator[None]:
    """Keep a policy that matches the benchmark's alerts for the length of a block, then end what it began."""
    with closing(connect(url)) as connection:
        _queries.write_policy(connection, name="bench", rules=make_rules("email", "bench@example.com", delay_minutes))
        try:
            yield
        finally:
            _queries.disable_policy(connection, name="bench")
            _queries.end_escalations(connection)
            _queries.withdraw_notifications(connection)


def measure_paging(plan: Plan, url: str, folder: Path) -> list[Row]:
    """Return the rows of the paging, measured on a migrated database without alerts."""
    rows: list[Row] = []
    if plan.includes(HANDOVER):
        rows += _measure_handover(plan, url, folder)
    if plan.includes(TIMERS):
        rows += _measure_timers(plan, url)
    if plan.includes(SHIFTS):
        rows.append(Row("shifts of a year: daily rotation, 52 overrides", "ms", _time_shifts(plan.repetitions)))
    return rows


def _measure_handover(plan: Plan, url: str, folder: Path) -> list[Row]:
    rows = []
    with _run_receiver() as (address, arrivals), _run_worker(url, folder), closing(connect(url)) as connection:
        _queries.write_policy(connection, name="handover", rules=make_rules("webhook", address))
        for rate in RATES:
            waits = [_time_handovers(url, rate, plan.paging_seconds, arrivals) for _ in range(plan.repetitions)]
            label = f"from commit to handover, {rate} alert{'s' if rate > 1 else ''} a second"
            rows.append(Row(f"{label}: p50", "ms", [quantiles(wait, n=100)[49] for wait in waits]))
            rows.append(
                Row(f"{label}: p99 (150 ms is the aim)", "ms", [quantiles(w, n=100)[98] for w in waits], below=1000)
            )
        _queries.disable_policy(connection, name="handover")
        _queries.end_escalations(connection)
    return rows


def _time_handovers(url: str, rate: int, seconds: int, arrivals: dict[str, float]) -> list[float]:
    """Raise alerts at a steady rate; return the milliseconds from each commit to the arrival of its page."""
    committed: dict[str, float] = {}
    with closing(connect(url)) as connection:
        begun_at = time.perf_counter()
        for number in range(max(rate * seconds, 2)):
            time.sleep(max(0.0, begun_at + number / rate - time.perf_counter()))
            alert_id = str(_queries.raise_alert(connection)[0])
            committed[alert_id] = time.perf_counter()
    if not await_condition(lambda: committed.keys() <= arrivals.keys(), ARRIVAL_SECONDS):
        raise BenchmarkError(f"{len(committed.keys() - arrivals.keys())} pages did not arrive")
    return [1000 * max(0.0, arrivals[alert_id] - at) for alert_id, at in committed.items()]


@contextmanager
def _run_receiver() -> Iterator[tuple[str, dict[str, float]]]:
    """Run a webhook receiver; yield its address and when the page of each alert came in first."""
    arrivals: dict[str, float] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            arrivals.setdefault(str(body["data"]["alert_id"]), time.perf_counter())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{receiver.server_port}/page", arrivals
    finally:
        receiver.shutdown()
        receiver.server_close()


@contextmanager
def _run_worker(url: str, folder: Path) -> Iterator[None]:
    environment = {
        **plain_environment(),
        "DATABASE_URL": url,
        "DATA_DIR": str(folder),
        "JWT_SECRET": "b" * 40,
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "WEBHOOK_ALLOW_PRIVATE": "true",
    }
    with (folder / "paging.log").open("ab") as log:
        worker = start_child([sys.executable, "-P", "-m", "commands", "worker"], environment=environment, output=log)
    try:
        # The first seconds of a process are not what is measured.
        time.sleep(2.0)
        yield
    finally:
        stop_children([worker], grace_seconds=10)


def _measure_timers(plan: Plan, url: str) -> list[Row]:
    one, two = [], []
    for _ in range(plan.repetitions):
        one.append(plan.due_timers / _time_timers(plan.due_timers, url, workers=1))
        two.append(plan.due_timers / _time_timers(plan.due_timers, url, workers=2))
    label = f"due timers worked off, {plan.due_timers:,} waiting"
    return [Row(f"{label}: one worker", "steps/s", one), Row(f"{label}: two workers", "steps/s", two)]


def _time_timers(count: int, url: str, workers: int) -> float:
    """Return the seconds that engines in processes of their own take for timers that are all due."""
    with closing(connect(url)) as connection:
        _queries.forget_escalations(connection)
        _queries.insert_due_escalations(connection, count=count, rules=make_rules("email", "bench@example.com"))
    command = [sys.executable, "-P", "-m", "benchmarks.take_steps", url]
    environment = {**os.environ, **plain_environment()}
    running = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(workers)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    begun_at = time.perf_counter()
    steps = sum(int(process.communicate("go\n")[0]) for process in running)
    took = time.perf_counter() - begun_at
    if steps != count:
        raise BenchmarkError(f"{steps} steps were taken for {count} timers")
    return took


def _time_shifts(repetitions: int) -> Sequence[float]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    overrides = [
        Override(start + timedelta(days=7 * week), start + timedelta(days=7 * week + 2), 1 + week % 5)
        for week in range(52)
    ]
    users = tuple(OnCallUser(number) for number in range(1, 6))
    eight = datetime(2026, 1, 1, 8)  # noqa: DTZ001  # local time of the zone
    schedule = Schedule("bench", "daily", eight, 1, ZoneInfo("Europe/Paris"), users, tuple(overrides))
    times = []
    for _ in range(repetitions):
        begun_at = time.perf_counter()
        shifts = sum(1 for _ in shifts_between(schedule, start, start + timedelta(days=365)))
        times.append(1000 * (time.perf_counter() - begun_at))
        if shifts < 365:
            raise BenchmarkError(f"{shifts} shifts in a year of daily ones")
    return times
