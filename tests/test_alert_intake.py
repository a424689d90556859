"""Reports that gather while another one is recorded: none lost, none twice, each with its own answer or error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alert_intake import AlertIntake, _Report
from alert_store import AlertReport, AlertStore
from foundation.database import Connection, Database
from foundation.errors import Unavailable
from foundation.processes import await_condition

Sql = Callable[..., list[tuple[Any, ...]]]

HOT = AlertReport(str(uuid4()), "critical", "hot", {}, metric="temperature")


def fresh(**fields: Any) -> AlertReport:
    """Return a report of a device that nobody knows."""
    return replace(HOT, device_id=str(uuid4()), **fields)


@pytest.fixture
def intake(database: Database) -> AlertIntake:
    """An intake over the test's database."""
    return AlertIntake(database, AlertStore())


@contextmanager
def holding_key(database_url: str, report: AlertReport) -> Iterator[None]:
    """Keep everybody from recording alerts of a key, until the end of the block."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT raise_alert(%s, %s, 'held', '{}', %s)", [report.device_id, report.severity, report.metric]
        )
        yield
        connection.rollback()


class Crowd:
    """Reports on threads of their own, in the order in which they were sent."""

    def __init__(self, intake: AlertIntake, pool: ThreadPoolExecutor) -> None:
        self._intake = intake
        self._pool = pool
        self.sent: list[Future[Any]] = []

    def send(self, *reports: AlertReport) -> None:
        """Send reports, each once the one before it is on its way or waits."""
        for report in reports:
            before = len(self._intake._waiting)
            was_busy = self._intake._is_busy
            self.sent.append(self._pool.submit(self._intake.raise_alert, report, f"gateway {len(self.sent)}"))
            assert await_condition(
                lambda before=before, was_busy=was_busy: (
                    len(self._intake._waiting) > before if was_busy else self._intake._is_busy
                ),
                10,
            )


@pytest.fixture
def crowd(intake: AlertIntake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    """A crowd that is patient, so that a slow machine changes nothing."""
    monkeypatch.setattr("alert_intake.PATIENCE_SECONDS", 30.0)
    with ThreadPoolExecutor(20) as pool:
        yield Crowd(intake, pool)


def await_blocked(sql: Sql, number: int = 1) -> list[int]:
    """Wait until so many sessions wait for a lock, and return their processes."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
    )
    assert await_condition(lambda: len(sql(query)) >= number, 10)
    return [row[0] for row in sql(query)]


def test_what_gathers_is_recorded_in_one_transaction(crowd: Crowd, database_url: str, sql: Sql) -> None:
    gathered = [fresh() for _ in range(6)]
    with holding_key(database_url, HOT):
        crowd.send(HOT)
        await_blocked(sql)
        crowd.send(*gathered)
    rows = [future.result(timeout=10) for future in crowd.sent]
    stored = sql("SELECT id, device_id::text, reported_by FROM alerts ORDER BY id")
    assert sorted((row["alert_id"], report.device_id) for row, report in zip(rows, [HOT, *gathered], strict=True)) == [
        (alert_id, device_id) for alert_id, device_id, _ in stored
    ]
    senders = {device_id: sender for _, device_id, sender in stored}
    assert [senders[report.device_id] for report in gathered] == [f"gateway {n}" for n in range(1, 7)]
    transactions = Counter(row[0] for row in sql("SELECT xmin::text FROM alerts"))
    assert sorted(transactions.values()) == [1, 6]


def test_a_report_of_no_use_fails_alone(crowd: Crowd, database_url: str, sql: Sql) -> None:
    with holding_key(database_url, HOT):
        crowd.send(HOT)
        await_blocked(sql)
        crowd.send(fresh(), fresh(severity="deadly"), fresh())
    first, second, wrong, last = crowd.sent
    assert len({future.result(timeout=10)["alert_id"] for future in (first, second, last)}) == 3
    with pytest.raises(psycopg2.DataError, match="deadly"):
        wrong.result(timeout=10)
    assert sql("SELECT count(*) FROM alerts") == [(3,)]


def test_a_connection_that_breaks_is_told_to_all_and_nothing_is_sent_twice(
    crowd: Crowd, database_url: str, sql: Sql
) -> None:
    with holding_key(database_url, HOT):
        crowd.send(HOT)
        await_blocked(sql)
        crowd.send(HOT, fresh(), fresh())
        (leader,) = await_blocked(sql)
        sql("SELECT pg_terminate_backend(%s, 5000)", leader)
        with pytest.raises(Unavailable):
            crowd.sent[0].result(timeout=10)
        # The others are at work together now, and wait for the same key.
        (together,) = await_blocked(sql)
        assert together != leader
        sql("SELECT pg_terminate_backend(%s, 5000)", together)
        for future in crowd.sent[1:]:
            with pytest.raises(Unavailable):
                future.result(timeout=10)
    assert sql("SELECT count(*) FROM alerts") == [(0,)]


def test_nobody_waits_long_for_a_key_of_others(intake: AlertIntake, database_url: str, sql: Sql) -> None:
    with ThreadPoolExecutor(2) as pool:
        with holding_key(database_url, HOT):
            blocked = pool.submit(intake.raise_alert, HOT, "gateway")
            await_blocked(sql)
            other = pool.submit(intake.raise_alert, fresh(), "gateway")
            assert other.result(timeout=10)["state"] == "new"
            assert not blocked.done()
        assert blocked.result(timeout=10)["state"] == "new"
    assert intake.raise_alert(fresh(), "gateway")["state"] == "new"


def test_after_a_failure_the_next_report_finds_the_way_free(intake: AlertIntake) -> None:
    for _ in range(3):
        with pytest.raises(psycopg2.DataError):
            intake.raise_alert(fresh(severity="deadly"), "gateway")
    assert intake.raise_alert(fresh(), "gateway")["state"] == "new"


@given(senders=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=2, max_size=12))
@settings(max_examples=15)
def test_a_storm_loses_nothing(database: Database, sql: Sql, senders: list[list[int]]) -> None:
    intake = AlertIntake(database, AlertStore())
    known = [str(uuid4()) for _ in range(4)]

    def send(devices: list[int]) -> list[int]:
        reports = [replace(HOT, device_id=known[device]) for device in devices]
        return [intake.raise_alert(report, "gateway")["alert_id"] for report in reports]

    with ThreadPoolExecutor(len(senders)) as pool:
        answered = [alert_id for ids in pool.map(send, senders) for alert_id in ids]
    sent = Counter(known[device] for devices in senders for device in devices)
    stored = sql("SELECT id, duplicate_of IS NULL FROM alerts WHERE device_id = ANY (%s::uuid[]) ORDER BY id", known)
    assert sorted(answered) == [alert_id for alert_id, _ in stored]
    assert sum(is_original for _, is_original in stored) == len(sent)
    groups = sql(
        "SELECT device_id::text, occurrence_count, open_alerts FROM alert_groups WHERE device_id = ANY (%s::uuid[])",
        known,
    )
    assert sorted(groups) == sorted((device_id, number, number) for device_id, number in sent.items())


REPORTS = st.builds(
    AlertReport,
    device_id=st.sampled_from([str(UUID(int=1)), str(UUID(int=2))]),
    severity=st.sampled_from(["critical", "low"]),
    message=st.sampled_from(["hot", "cold"]),
    metadata=st.just({"value": 1.5}),
    metric=st.sampled_from(["", "temperature"]),
    key_class=st.sampled_from([None, "ml"]),
)


def describe(rows: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return what rows say, with the numbers of alerts and groups replaced by the first report that has them."""
    alerts = {row["alert_id"]: position for position, row in enumerate(rows)}
    groups: dict[int, int] = {}
    return [
        (groups.setdefault(row["group_id"], position), alerts.get(row["duplicate_of"]), row["state"], row["target_tta"])
        for position, row in enumerate(rows)
    ]


@given(reports=st.lists(REPORTS, min_size=2, max_size=10))
@settings(max_examples=60)
def test_together_and_one_by_one_are_the_same(database: Database, reports: list[AlertReport]) -> None:
    store = AlertStore()

    def play(record: Callable[[Connection], Sequence[Any]]) -> list[tuple[Any, ...]]:
        connection = database.lend()
        try:
            connection.autocommit = False
            return describe(record(connection))
        finally:
            connection.rollback()
            database.take_back(connection)

    together = play(lambda connection: store.raise_each(connection, [(report, "gateway") for report in reports]))
    singly = play(lambda connection: [store.raise_alert(connection, report, "gateway") for report in reports])
    assert together == singly


def test_a_report_on_its_way_is_itself_alone() -> None:
    assert _Report(HOT, "gateway") != _Report(HOT, "gateway")
