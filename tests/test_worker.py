"""The worker: its loop on a clock that the test moves, its jobs on the real database, and the real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.clock import FrozenClock
from foundation.embedded_postgres import EmbeddedPostgres
from foundation.errors import Unavailable
from foundation.migrator import migrate
from foundation.processes import await_condition
from tests.clusters import make_folder
from wiring import Services
from worker import LONGEST_RETRY_SECONDS, Heartbeat, Job, JobLoop, plan_chores, retry_delay

SOURCE_FOLDER = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 90.0


class Hand:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Recorder:
    """Work that notes when it was done, takes time, and fails as told."""

    def __init__(self, hand: Hand, takes_seconds: float = 0.0) -> None:
        self.hand = hand
        self.takes_seconds = takes_seconds
        self.error: Exception | None = None
        self.done_at: list[float] = []

    def run_once(self) -> int:
        self.done_at.append(self.hand.at)
        self.hand.at += self.takes_seconds
        if self.error is not None:
            raise self.error
        return 1


def drive(loop: JobLoop, hand: Hand, until: float) -> None:
    """Run the loop as its process would, with time passing instead of sleep."""
    while hand.at < until:
        hand.at += max(loop.run_due(), 0.001)


def test_each_job_keeps_its_own_period() -> None:
    hand = Hand()
    quick, slow = Recorder(hand), Recorder(hand)
    drive(JobLoop([Job("quick", quick, 1.0), Job("slow", slow, 60.0)], hand), hand, until=1120.5)
    assert len(quick.done_at) == 121
    assert slow.done_at == pytest.approx([1000, 1060, 1120])


def test_job_that_takes_longer_than_its_period_leaves_a_pause() -> None:
    hand = Hand()
    work = Recorder(hand, takes_seconds=3.0)
    loop = JobLoop([Job("long", work, 1.0)], hand)
    assert loop.run_due() == pytest.approx(1.0)
    assert hand.at == 1003.0


def test_absent_database_is_told_once_and_tried_again_ever_later(caplog: pytest.LogCaptureFixture) -> None:
    hand = Hand()
    work = Recorder(hand)
    work.error = Unavailable("the database cannot be reached")
    loop = JobLoop([Job("SLA sweep", work, 1.0)], hand)
    with caplog.at_level("INFO", logger="worker"):
        drive(loop, hand, until=1030.0)
        assert [r.getMessage() for r in caplog.records] == ["SLA sweep waits: the database cannot be reached"]
        pauses = [b - a for a, b in zip(work.done_at, work.done_at[1:], strict=False)]
        assert pauses == sorted(pauses)
        assert max(pauses) == pytest.approx(LONGEST_RETRY_SECONDS)

        work.error = None
        drive(loop, hand, until=1040.0)
        assert caplog.records[-1].getMessage().startswith("SLA sweep works again after ")
    assert work.done_at[-1] - work.done_at[-2] == pytest.approx(1.0)


def test_fault_in_one_job_is_logged_with_its_cause_and_hinders_no_other(caplog: pytest.LogCaptureFixture) -> None:
    hand = Hand()
    broken, healthy = Recorder(hand), Recorder(hand)
    broken.error = ZeroDivisionError("a fault")
    drive(JobLoop([Job("broken", broken, 1.0), Job("healthy", healthy, 1.0)], hand), hand, until=1010.5)
    assert len(healthy.done_at) == 11
    assert len(broken.done_at) > 2
    assert all(r.exc_info is not None and r.exc_info[1] is broken.error for r in caplog.records)


@given(st.floats(0.01, 3600), st.integers(1, 10_000))
def test_retries_never_come_faster_than_the_period_nor_slower_than_the_bound(period: float, failures: int) -> None:
    delay = retry_delay(period, failures)
    assert delay >= period
    assert delay <= max(period, LONGEST_RETRY_SECONDS)


def test_jobs_flag_a_breach_without_anyone_acting(
    services: Services, clock: FrozenClock, raise_alert: Callable[..., dict[str, Any]]
) -> None:
    raise_alert(severity="critical")
    hand = Hand()
    loop = JobLoop(plan_chores(services), hand)
    loop.run_due()
    with services.database.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tta_breached FROM alert_slas")
        assert [tuple(row) for row in cursor.fetchall()] == [(False,)]

    clock.advance(timedelta(minutes=5, seconds=1))
    hand.at += loop.run_due()
    hand.at += 2.0
    loop.run_due()
    with services.database.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tta_breached, ttr_breached FROM alert_slas")
        assert [tuple(row) for row in cursor.fetchall()] == [(True, False)]
        cursor.execute("SELECT count(*) FROM tally_entries")
        assert [tuple(row) for row in cursor.fetchall()] == [(0,)]


def test_heartbeat_is_one_row_a_worker_and_forgets_the_gone(services: Services) -> None:
    with services.database.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO worker_heartbeats VALUES ('gone:1', clock_timestamp() - interval '25 hours'),
               ('silent:1', clock_timestamp() - interval '23 hours')"""
        )
    assert [Heartbeat(services.database, "here:1").run_once() for _ in range(3)] == [1, 0, 0]
    with services.database.autocommit() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT worker FROM worker_heartbeats ORDER BY worker")
        assert [row[0] for row in cursor.fetchall()] == ["here:1", "silent:1"]
    # Real time, although the services' clock stands.
    figures = services.readiness.check().figures
    assert figures is not None
    age = figures.worker_beat_age_seconds
    assert age is not None
    assert 0 <= age < PATIENCE_SECONDS


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that a test may stop and start."""
    with make_folder() as folder:
        server = EmbeddedPostgres(folder)
        migrate(server.start())
        yield server
        server.stop()


def count_beats_since(url: str, age_seconds: float) -> int:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM worker_heartbeats WHERE beat_at > clock_timestamp() - make_interval(secs => %s)",
                (age_seconds,),
            )
            row = cursor.fetchone()
            assert row is not None
            return int(row[0])
    finally:
        connection.close()


def test_process_survives_a_restart_of_the_database_and_ends_at_sigterm(
    own_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    log_path = tmp_path / "log"
    environment = {**os.environ, "DATABASE_URL": own_server.url, "JWT_SECRET": "s" * 40, "LOG_FORMAT": "text"}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(SOURCE_FOLDER / "app_advanced.py"), "worker"],
            cwd=tmp_path,
            env=environment,
            stderr=log,
        )
    try:
        assert await_condition(lambda: count_beats_since(own_server.url, 3600) == 1, PATIENCE_SECONDS)
        own_server.stop()
        assert await_condition(lambda: "waits: the database" in log_path.read_text(), PATIENCE_SECONDS)
        own_server.start()
        returned_at = time.monotonic()
        assert await_condition(
            lambda: count_beats_since(own_server.url, time.monotonic() - returned_at) == 1, PATIENCE_SECONDS
        )
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert "Traceback" not in log_path.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
