"""Fills a database with the history of a plant through the product's own functions.

Thirty days of simulated time pass in ticks. With each tick every half of the plant reports one batch in episodes of
chatter; people take some of the alerts of the tick before in hand; sources recover some ticks later, which resolves the
alerts and closes their groups. The last ticks stay open, and some alerts of devices of their own are set aside in
state new for the acknowledgements that the benchmark makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiosql
import psycopg2
import psycopg2.extras

HISTORY = timedelta(days=30)
BATCH_SIZE = 200
ALERTS_PER_DEVICE = 500
HALVES = 2
OPEN_ALERTS = 20_000
# A tick after the batch it is acknowledged, two after it investigated, three after it the source has recovered.
RESOLVED_AFTER_TICKS = 3

_queries = aiosql.from_path(Path(__file__).with_name("seed.sql"), "psycopg2", mandatory_parameters=False)


@dataclass(frozen=True)
class Half:
    """One half of the plant: its devices, and the ticks at which it reports."""

    url: str
    first_device: int
    devices: int
    ticks: tuple[datetime, ...]
    open_ticks: int


def seed_history(url: str, alerts: int, fresh_alerts: int) -> Mapping[str, int]:
    """Raise ``alerts`` alerts, of which at least ``fresh_alerts`` are set aside; return the counts of what there is."""
    now = datetime.now(UTC)
    with ThreadPoolExecutor(HALVES) as pool:
        # The work is the server's: two threads keep two of its processes busy.
        for done in [pool.submit(_play_half, half) for half in _plan_halves(url, alerts - fresh_alerts, now)]:
            done.result()
    with closing(connect(url)) as connection:
        _queries.set_clock(connection, at=(now - timedelta(minutes=1)).isoformat())
        missing = alerts - _queries.count_alerts(connection)
        _queries.raise_fresh(connection, size=missing)
        _queries.set_clock(connection, at="")
        _catch_up(connection)
        return dict(_queries.count_seeded(connection))


def sample_alert_ids(url: str, limit: int) -> list[int]:
    """Return the ids of some alerts from all over the table."""
    with closing(connect(url)) as connection:
        return [row["id"] for row in _queries.sample_alert_ids(connection, limit=limit)]


def sample_devices(url: str, limit: int) -> list[str]:
    """Return some of the devices of the plant."""
    with closing(connect(url)) as connection:
        return [row["device_id"] for row in _queries.sample_devices(connection, limit=limit)]


def list_fresh_ids(url: str) -> list[int]:
    """Return the ids of the alerts that were set aside and are still new."""
    with closing(connect(url)) as connection:
        return [row["id"] for row in _queries.list_fresh_ids(connection)]


def write_checkpoint(url: str) -> None:
    """Have the server write a checkpoint now rather than in the middle of a measurement."""
    with closing(connect(url)) as connection:
        _queries.checkpoint(connection)


def connect(url: str) -> psycopg2.extensions.connection:
    """Return a connection on which every statement is a transaction that does not wait for the disk."""
    connection = psycopg2.connect(
        url, options="-c synchronous_commit=off -c timezone=UTC", cursor_factory=psycopg2.extras.DictCursor
    )
    connection.autocommit = True
    return connection


def _plan_halves(url: str, alerts: int, now: datetime) -> list[Half]:
    batches = max(alerts // BATCH_SIZE // HALVES, 1)
    step = HISTORY / batches
    ticks = tuple(now - HISTORY + step * (number + 1) - timedelta(minutes=10) for number in range(batches))
    open_ticks = min(OPEN_ALERTS, alerts // 10) // BATCH_SIZE // HALVES
    # As many alerts a device at any size, or the page of a device would be shorter in a small database.
    devices = max(alerts // ALERTS_PER_DEVICE // HALVES, 1)
    return [Half(url, half * devices, devices, ticks, open_ticks) for half in range(HALVES)]


def _play_half(half: Half) -> None:
    span_seconds = (HISTORY / len(half.ticks)).total_seconds() - 120
    with closing(connect(half.url)) as connection:
        _queries.set_random_seed(connection, seed=half.first_device / (half.devices * HALVES))
        for number, tick in enumerate(half.ticks):
            if number.bit_count() == 1:
                # Plans that were made for nearly empty tables are made anew; autovacuum would come late for this pace.
                _queries.analyze(connection)
            _queries.set_clock(connection, at=tick.isoformat())
            _queries.raise_episodes(
                connection,
                first_device=half.first_device,
                devices=half.devices,
                size=BATCH_SIZE,
                span_seconds=max(span_seconds, 60),
            )
            _move_earlier(connection, half, number)


def _move_earlier(connection: Any, half: Half, number: int) -> None:
    steps = (_queries.acknowledge_some, _queries.investigate_some, _queries.resolve_batch)
    for ticks_ago, take_step in enumerate(steps, start=1):
        earlier = number - ticks_ago
        is_left_open = earlier >= len(half.ticks) - half.open_ticks and ticks_ago == RESOLVED_AFTER_TICKS
        if earlier >= 0 and not is_left_open:
            take_step(connection, raised_at=half.ticks[earlier], first_device=half.first_device)


def _catch_up(connection: Any) -> None:
    while _queries.flag_breaches(connection)["checked"]:
        pass
    while _queries.fold_tallies(connection):
        pass
    _queries.vacuum(connection)
    _queries.checkpoint(connection)
