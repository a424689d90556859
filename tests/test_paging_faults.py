"""What goes wrong at night, with real processes: workers side by side, killed, and a database that goes away."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from foundation.embedded_postgres import EmbeddedPostgres
from foundation.migrator import migrate
from foundation.processes import await_condition
from tests.clusters import make_folder
from tests.test_webhook_channel import Receiver, run_receiver
from tests.twilio_double import ACCOUNT_SID, AUTH_TOKEN, FROM_NUMBER, TwilioDouble, dawdle, run_double

SOURCE_FOLDER = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 120.0
LEASE_SECONDS = 2
WEBHOOK_SECRET = "whsec_" + "c2VjcmV0" * 4
PHONES = ["+33612345601", "+33612345602", "+33612345603"]
UNFINISHED = "SELECT count(*) FROM notifications WHERE status IN ('pending', 'sending')"
NOT_PAGED = "SELECT count(*) FROM escalations WHERE status = 'pending'"

Query = Callable[..., list[tuple[Any, ...]]]


class Night:
    """A database, a provider of SMS, a webhook, and workers that page through both."""

    def __init__(self, url: str, double: TwilioDouble, receiver: Receiver, folder: Path) -> None:
        self.url = url
        self.double = double
        self.receiver = receiver
        self._folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run plain SQL on a connection of its own: the server may have restarted."""
        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def write_policy(self) -> None:
        """Page three phones and a webhook at once."""
        tier = {
            "delay_minutes": 0,
            "channels": ["sms", "webhook"],
            "recipients": [*PHONES, f"{self.receiver.url}/hook"],
        }
        rules = {"severity_match": ["critical"], "repeat": 0, "tiers": [tier]}
        self.query("INSERT INTO escalation_policies (name, rules) VALUES ('night', %s)", json.dumps(rules))

    def raise_alerts(self, count: int) -> None:
        """Raise alerts of a device each."""
        for _ in range(count):
            self.query("SELECT raise_alert(%s::uuid, 'critical', 'Pump stopped')", str(uuid.uuid4()))

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker process."""
        environment = {
            **os.environ,
            "DATABASE_URL": self.url,
            "JWT_SECRET": "s" * 40,
            "LOG_FORMAT": "text",
            "NOTIFICATION_LEASE_SECONDS": str(LEASE_SECONDS),
            "SMS_MAX_PER_HOUR": "1000",
            "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
            "TWILIO_FROM_NUMBER": FROM_NUMBER,
            "TWILIO_API_BASE_URL": self.double.url,
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "WEBHOOK_ALLOW_PRIVATE": "true",
        }
        with (self._folder / f"worker-{len(self._workers)}").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, str(SOURCE_FOLDER / "app_advanced.py"), "worker"],
                cwd=self._folder,
                env=environment,
                stderr=log,
            )
        self._workers.append(worker)
        return worker

    def stop_workers(self) -> None:
        """Kill what is left of them."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()

    def await_all_paged(self) -> None:
        """Wait until every escalation has paged and every notification has ended."""
        assert await_condition(
            lambda: self.query(NOT_PAGED) == [(0,)] and self.query(UNFINISHED) == [(0,)], PATIENCE_SECONDS
        ), self.read_logs()

    def count_sms(self) -> Counter[tuple[str, str]]:
        """Return how many SMS the provider took in for each notification and phone."""
        return Counter((message["to"], message["body"].rsplit("#", 1)[1]) for message in self.double.messages)

    def count_posts(self) -> Counter[str]:
        """Return how often each notification was posted."""
        return Counter(headers["webhook-id"] for _, _, headers, _ in self.receiver.requests)

    def expect_sent(self, alerts: int) -> None:
        """Check that every alert paged each address, as one notification that was sent."""
        assert self.query(
            "SELECT channel, address, count(*), count(DISTINCT alert_id) FROM notifications WHERE status = 'sent'"
            " GROUP BY 1, 2 ORDER BY 1, 2"
        ) == [
            *(("sms", phone, alerts, alerts) for phone in PHONES),
            ("webhook", f"{self.receiver.url}/hook", alerts, alerts),
        ]
        assert self.query("SELECT count(*) FROM notifications") == [(alerts * (len(PHONES) + 1),)]

    def read_logs(self) -> str:
        """Return what the workers said."""
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("worker-*")))


@contextmanager
def make_night(url: str, folder: Path) -> Iterator[Night]:
    """Yield a night with its policy written and no worker yet."""
    with ExitStack() as stack:
        night = Night(url, stack.enter_context(run_double()), stack.enter_context(run_receiver()), folder)
        stack.callback(night.stop_workers)
        night.write_policy()
        yield night


@pytest.fixture
def night(database_url: str, tmp_path: Path) -> Iterator[Night]:
    with make_night(database_url, tmp_path) as made:
        yield made


def test_two_workers_send_each_of_200_alerts_pages_exactly_once(night: Night) -> None:
    night.raise_alerts(100)
    night.start_worker()
    night.start_worker()
    night.raise_alerts(100)
    night.await_all_paged()
    night.expect_sent(200)
    sms, posts = night.count_sms(), night.count_posts()
    assert (len(sms), set(sms.values())) == (600, {1})
    assert (len(posts), set(posts.values())) == (200, {1})
    assert night.query("SELECT DISTINCT attempts FROM notifications") == [(1,)]


def test_worker_killed_30_times_while_it_sends_loses_no_page_and_repeats_no_sms(night: Night) -> None:
    chance = random.Random(20260302)
    for _ in range(30):
        night.double.misbehave(*(dawdle(chance.uniform(0, 0.2), chance.uniform(0, 0.2)) for _ in range(6)))
        night.raise_alerts(2)
        worker = night.start_worker()
        sent = len(night.double.requests)
        # From its first request on, anywhere within the next ones.
        assert await_condition(lambda sent=sent: len(night.double.requests) > sent, PATIENCE_SECONDS), night.read_logs()
        time.sleep(chance.uniform(0, 0.4))
        worker.kill()
        worker.wait()
    night.double.behaviours.clear()
    night.start_worker()
    night.await_all_paged()
    night.expect_sent(60)
    sms, posts = night.count_sms(), night.count_posts()
    assert (len(sms), set(sms.values())) == (180, {1}), "an SMS that went out is found, not repeated"
    assert len(posts) == 60
    interrupted = night.query("SELECT count(*) FROM notifications WHERE attempts > 1")[0][0]
    assert interrupted > 0, "nothing was ever interrupted: the test shows nothing"


def test_database_that_restarts_in_the_middle_loses_no_page(tmp_path: Path) -> None:
    with make_folder() as folder:
        server = EmbeddedPostgres(folder)
        migrate(server.start())
        try:
            with make_night(server.url, tmp_path) as night:
                worker = night.start_worker()
                for _ in range(3):
                    night.double.misbehave(*(dawdle(0.02, 0.05) for _ in range(40)))
                    night.raise_alerts(20)
                    server.stop()
                    server.start()
                night.await_all_paged()
                night.expect_sent(60)
                sms = night.count_sms()
                assert (len(sms), set(sms.values())) == (180, {1})
                assert worker.poll() is None
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(PATIENCE_SECONDS) == 0
        finally:
            server.stop()
