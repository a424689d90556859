"""Connections: a bounded pool, no broken connection lent twice, conflicts tried again, errors told apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from alert_store import AlertFilter
from foundation.clock import FrozenClock
from foundation.database import TRANSACTION_ATTEMPTS, Connection, Database
from foundation.errors import Conflict, DomainError, IllegalTransition, NotFound, Unavailable, ValidationFailed
from foundation.paging import PageRequest
from foundation.queries import MOST_PREPARED, load_queries
from tests.conftest import START

Sql = Callable[..., list[tuple[Any, ...]]]

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


@pytest.fixture
def make_database(database_url: str) -> Iterator[Callable[..., Database]]:
    """Return a maker of pools over the test's database: ``make_database(pool_size=1)``."""
    with ExitStack() as stack:

        def make(url: str = database_url, **options: Any) -> Database:
            database = Database(url, application_name="tested pool", **options)
            stack.callback(database.close)
            return database

        yield make


def ask(connection: Connection, statement: str, parameters: Any = None) -> Any:
    """Run a statement and return the first column of its first row, if any."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def backend_of(connection: Connection) -> int:
    """Return the process that serves a connection."""
    return int(connection.info.backend_pid)


def end_backends(sql: Sql) -> int:
    """End every backend of the tested pools, wait until they are gone, and return how many there were."""
    found = "FROM pg_stat_activity WHERE application_name = 'tested pool' AND datname = current_database()"
    ended = sql(f"SELECT pg_terminate_backend(pid, 5000) {found}")
    assert sql(f"SELECT count(*) {found}") == [(0,)]
    return len(ended)


class TestPool:
    def test_it_waits_a_bounded_time_for_a_connection(self, make_database: Callable[..., Database]) -> None:
        database = make_database(pool_size=1, wait_seconds=0.05)
        with database.autocommit(), pytest.raises(Unavailable, match="busy") as caught, database.autocommit():
            pass
        assert caught.value.retry_after_seconds >= 1
        with database.autocommit() as connection:
            assert ask(connection, "SELECT 1") == 1

    def test_it_lends_a_connection_that_comes_free_meanwhile(self, make_database: Callable[..., Database]) -> None:
        database = make_database(pool_size=1, wait_seconds=60)
        is_lent = threading.Event()

        def wait_for_it() -> int:
            is_lent.wait()
            with database.autocommit() as connection:
                return backend_of(connection)

        with ThreadPoolExecutor(1) as pool:
            with database.autocommit() as connection:
                waiting = pool.submit(wait_for_it)
                is_lent.set()
                lent = backend_of(connection)
            assert waiting.result() == lent

    def test_it_never_opens_more_connections_than_its_size(
        self, make_database: Callable[..., Database], sql: Sql
    ) -> None:
        database = make_database(pool_size=3, wait_seconds=60)

        def work(_: int) -> int:
            with database.autocommit() as connection:
                return backend_of(connection)

        with ThreadPoolExecutor(9) as pool:
            backends = set(pool.map(work, range(60)))
        assert len(backends) <= 3
        assert end_backends(sql) <= 3

    def test_it_counts_what_is_lent(self, make_database: Callable[..., Database]) -> None:
        database = make_database(pool_size=2)
        told: list[int] = []
        database.on_use_changed = told.append
        with database.autocommit(), database.transaction():
            assert database.connections_in_use == 2
        with suppress(ZeroDivisionError), database.transaction():
            raise ZeroDivisionError
        assert database.connections_in_use == 0
        assert told == [1, 2, 1, 0, 1, 0]

    def test_it_needs_no_server_before_the_first_use(self, make_database: Callable[..., Database]) -> None:
        database = make_database(NOWHERE, pool_size=1, wait_seconds=0.05)
        for _ in range(3):
            # Not "busy": the slot of a connection that could not be made is free again.
            with pytest.raises(Unavailable, match="cannot be reached"), database.autocommit():
                pass
        assert database.connections_in_use == 0

    def test_its_connections_carry_the_settings_of_the_service(self, make_database: Callable[..., Database]) -> None:
        database = make_database(window_seconds=77, statement_timeout_seconds=9)
        with database.autocommit() as connection:
            settings = ("app.window_seconds", "statement_timeout", "TimeZone", "application_name")
            found = [ask(connection, "SELECT current_setting(%s)", (name,)) for name in settings]
        assert found == ["77", "9s", "UTC", "tested pool"]


class TestBrokenConnections:
    def test_one_that_breaks_in_use_is_not_lent_again(self, make_database: Callable[..., Database], sql: Sql) -> None:
        database = make_database(pool_size=1)
        broken: list[int] = []

        def break_in_use(lend: Callable[[], AbstractContextManager[Connection]]) -> None:
            with lend() as connection:
                broken.append(backend_of(connection))
                assert end_backends(sql) == 1
                ask(connection, "SELECT 1")

        for lend in (database.autocommit, database.transaction):
            with pytest.raises(Unavailable, match="cannot be reached"):
                break_in_use(lend)
            with database.autocommit() as connection:
                assert backend_of(connection) not in broken
                assert ask(connection, "SELECT 1") == 1

    def test_a_restart_of_the_server_costs_no_request_afterwards(
        self, make_database: Callable[..., Database], sql: Sql
    ) -> None:
        database = make_database(pool_size=5)
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(database.autocommit())
        assert end_backends(sql) == 5
        with ExitStack() as stack:
            for _ in range(5):
                connection = stack.enter_context(database.transaction())
                assert ask(connection, "SELECT 1") == 1

    def test_a_restart_costs_a_frozen_clock_nothing_either(
        self, make_database: Callable[..., Database], sql: Sql
    ) -> None:
        database = make_database(pool_size=1, clock=FrozenClock(START))
        with database.autocommit():
            pass
        assert end_backends(sql) == 1
        with database.autocommit() as connection:
            assert ask(connection, "SELECT app_now()") == START

    def test_one_that_hangs_in_a_transaction_is_closed(self, make_database: Callable[..., Database], sql: Sql) -> None:
        database = make_database(pool_size=1)
        with database.autocommit() as connection:
            ask(connection, "BEGIN")
            hanging = backend_of(connection)
        with database.autocommit() as connection:
            assert backend_of(connection) != hanging

    def test_a_sound_one_is_lent_again(self, make_database: Callable[..., Database]) -> None:
        database = make_database(pool_size=1)
        with database.autocommit() as connection:
            first = backend_of(connection)
        with suppress(psycopg2.Error), database.autocommit() as connection:
            ask(connection, "SELECT 1 / 0")
        with suppress(psycopg2.Error), database.transaction() as connection:
            ask(connection, "SELECT 1 / 0")
        with database.transaction() as connection:
            assert backend_of(connection) == first


class TestTransactions:
    @pytest.fixture(autouse=True)
    def _things(self, sql: Sql) -> None:
        sql("CREATE TABLE things (id integer PRIMARY KEY, number integer NOT NULL DEFAULT 0)")
        sql("INSERT INTO things SELECT generate_series(1, 2)")

    def test_the_end_of_the_block_commits(self, database: Database, sql: Sql) -> None:
        with database.transaction() as connection:
            ask(connection, "UPDATE things SET number = 5")
            assert sql("SELECT sum(number) FROM things") == [(0,)]
        assert sql("SELECT sum(number) FROM things") == [(10,)]

    @pytest.mark.parametrize("error", [ValueError("no"), NotFound("thing", 3), KeyboardInterrupt()])
    def test_an_error_rolls_back_and_comes_through(self, database: Database, sql: Sql, error: BaseException) -> None:
        def fail() -> None:
            with database.transaction() as connection:
                ask(connection, "UPDATE things SET number = 5")
                raise error

        with pytest.raises(type(error)) as caught:
            fail()
        assert caught.value is error
        assert sql("SELECT sum(number) FROM things") == [(0,)]

    def test_an_error_of_the_database_rolls_back(self, database: Database, sql: Sql) -> None:
        with pytest.raises(psycopg2.errors.DivisionByZero), database.transaction() as connection:
            ask(connection, "UPDATE things SET number = 5; SELECT 1 / 0")
        assert sql("SELECT sum(number) FROM things") == [(0,)]

    def test_each_statement_commits_in_autocommit(self, database: Database, sql: Sql) -> None:
        with suppress(ValueError), database.autocommit() as connection:
            ask(connection, "UPDATE things SET number = 5")
            raise ValueError
        assert sql("SELECT sum(number) FROM things") == [(10,)]

    def test_a_transaction_after_an_autocommit_is_one(self, make_database: Callable[..., Database], sql: Sql) -> None:
        database = make_database(pool_size=1)
        with database.autocommit() as connection:
            ask(connection, "SELECT 1")
        with suppress(ValueError), database.transaction() as connection:
            ask(connection, "UPDATE things SET number = 5")
            raise ValueError
        assert sql("SELECT sum(number) FROM things") == [(0,)]

    def test_a_deadlock_is_tried_again(self, database: Database, sql: Sql) -> None:
        both_hold_one = threading.Barrier(2)
        attempts: list[int] = []

        def update(order: tuple[int, int]) -> None:
            is_first = True

            def work(connection: Connection) -> None:
                nonlocal is_first
                attempts.append(order[0])
                ask(connection, "SET LOCAL deadlock_timeout = '20ms'")
                ask(connection, "UPDATE things SET number = number + 1 WHERE id = %s", (order[0],))
                if is_first:
                    is_first = False
                    both_hold_one.wait()
                ask(connection, "UPDATE things SET number = number + 1 WHERE id = %s", (order[1],))

            database.run(work)

        with ThreadPoolExecutor(2) as pool:
            for running in [pool.submit(update, order) for order in ((1, 2), (2, 1))]:
                running.result()
        assert len(attempts) > 2
        assert sql("SELECT number FROM things") == [(2,), (2,)]

    def test_a_serialisation_failure_is_tried_again(self, database: Database, sql: Sql) -> None:
        attempts: list[int] = []

        def work(connection: Connection) -> str:
            ask(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            number = ask(connection, "SELECT number FROM things WHERE id = 1")
            if not attempts:
                sql("UPDATE things SET number = 40 WHERE id = 1")
            attempts.append(number)
            ask(connection, "UPDATE things SET number = %s WHERE id = 1", (number + 2,))
            return "done"

        assert database.run(work) == "done"
        assert attempts == [0, 40]
        assert sql("SELECT number FROM things WHERE id = 1") == [(42,)]

    def test_a_conflict_that_stays_ends_as_unavailable(self, database: Database, sql: Sql) -> None:
        attempts: list[int] = []

        def work(connection: Connection) -> None:
            attempts.append(ask(connection, "UPDATE things SET number = number + 1 WHERE id = 1 RETURNING number"))
            raise_in_database(connection, "40001")

        with pytest.raises(Unavailable):
            database.run(work)
        assert attempts == [1] * TRANSACTION_ATTEMPTS
        assert sql("SELECT number FROM things WHERE id = 1") == [(0,)]

    def test_other_errors_are_not_tried_again(self, database: Database) -> None:
        attempts: list[str] = []
        for error in ("23505", "57014", "22012"):

            def work(connection: Connection, code: str = error) -> None:
                attempts.append(code)
                raise_in_database(connection, code)

            with pytest.raises((DomainError, psycopg2.Error)):
                database.run(work)
        assert attempts == ["23505", "57014", "22012"]


class TestClock:
    def test_a_frozen_clock_is_carried_over(self, database: Database, clock: FrozenClock) -> None:
        for step in (timedelta(0), timedelta(days=400), timedelta(microseconds=1)):
            clock.advance(step)
            with database.autocommit() as connection:
                assert ask(connection, "SELECT app_now()") == clock.now()
            with database.transaction() as connection:
                assert ask(connection, "SELECT app_now()") == clock.now()

    def test_a_frozen_clock_survives_a_rollback(self, make_database: Callable[..., Database]) -> None:
        database = make_database(pool_size=1, clock=FrozenClock(START))
        with suppress(ValueError), database.transaction():
            raise ValueError
        with database.transaction() as connection:
            assert ask(connection, "SELECT app_now()") == START

    def test_a_running_clock_leaves_the_time_to_the_database(self, make_database: Callable[..., Database]) -> None:
        database = make_database()
        with database.transaction() as connection:
            assert ask(connection, "SELECT app_now() = now()")
            assert abs(ask(connection, "SELECT app_now()") - datetime.now(UTC)) < timedelta(minutes=5)

    def test_one_transaction_carries_one_instant(self, make_database: Callable[..., Database]) -> None:
        with make_database().transaction() as connection:
            first = ask(connection, "SELECT app_now()")
            ask(connection, "SELECT pg_sleep(0.002)")
            assert ask(connection, "SELECT app_now()") == first


def raise_in_database(connection: Connection, code: str, message: str = "m", detail: str = "") -> None:
    """Have the database raise an error with a SQLSTATE."""
    body = "BEGIN RAISE EXCEPTION USING ERRCODE = {}, MESSAGE = {}, DETAIL = {}; END"
    with connection.cursor() as cursor:
        quoted = [cursor.mogrify("%s", (word,)).decode() for word in (code, message, detail)]
        cursor.execute("DO " + cursor.mogrify("%s", (body.format(*quoted),)).decode())


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("40P01", Unavailable),
            ("40001", Unavailable),
            ("57014", Unavailable),
            ("55P03", Unavailable),
            ("53300", Unavailable),
            ("53200", Unavailable),
            ("57P01", Unavailable),
            ("57P03", Unavailable),
            ("08006", Unavailable),
            ("AA002", ValidationFailed),
            ("23505", Conflict),
        ],
    )
    def test_the_product_s_errors_by_sqlstate(self, database: Database, code: str, expected: type[DomainError]) -> None:
        with pytest.raises(expected) as caught, database.transaction() as connection:
            raise_in_database(connection, code)
        assert isinstance(caught.value.__cause__, psycopg2.Error)
        assert caught.value.message != "m", "the database's own words stay inside"

    @pytest.mark.parametrize("code", ["22012", "42P01", "23514", "23502", "XX000", "AA004"])
    def test_what_is_a_fault_of_ours_stays_one(self, database: Database, code: str) -> None:
        with pytest.raises(psycopg2.Error) as caught, database.transaction() as connection:
            raise_in_database(connection, code)
        assert caught.value.pgcode == code

    def test_an_illegal_step_tells_state_and_ways_out(self, database: Database, sql: Sql) -> None:
        sql("INSERT INTO alerts (device_id, severity, message) VALUES (gen_random_uuid(), 'low', 'm')")
        with pytest.raises(IllegalTransition) as caught, database.transaction() as connection:
            ask(connection, "INSERT INTO alert_states (alert_id, state) SELECT id, 'investigating' FROM alerts")
        assert (caught.value.current_state, caught.value.allowed) == ("new", ("acknowledged",))
        assert caught.value.message == "an alert in state new cannot become investigating"

    def test_a_step_of_an_alert_that_does_not_exist(self, database: Database) -> None:
        with pytest.raises(NotFound, match="alert 4711 does not exist"), database.transaction() as connection:
            ask(connection, "INSERT INTO alert_states (alert_id, state) VALUES (4711, 'acknowledged')")

    def test_a_time_too_far_ahead_names_its_field(self, database: Database) -> None:
        with pytest.raises(ValidationFailed) as caught, database.transaction() as connection:
            ask(
                connection,
                "INSERT INTO alerts (device_id, severity, message, occurred_at)"
                " VALUES (gen_random_uuid(), 'low', 'm', app_now() + interval '1 hour')",
            )
        assert [fault.field for fault in caught.value.faults] == ["occurred_at"]

    def test_a_user_who_exists_already(self, database: Database) -> None:
        insert = "INSERT INTO users (email, name, role) VALUES ('a@example.com', 'A', 'viewer')"
        with pytest.raises(Conflict, match="a user with this e-mail exists"), database.transaction() as connection:
            ask(connection, f"{insert}; {insert}")

    def test_a_statement_that_takes_too_long(self, database: Database) -> None:
        with pytest.raises(Unavailable, match="busy"), database.transaction() as connection:
            ask(connection, "SET LOCAL statement_timeout = '10ms'; SELECT pg_sleep(60)")

    def test_a_lock_that_is_waited_for_too_long(self, database: Database, database_url: str, sql: Sql) -> None:
        sql("INSERT INTO alerts (device_id, severity, message) VALUES (gen_random_uuid(), 'low', 'm')")
        with closing(psycopg2.connect(database_url)) as other:
            ask(other, "SELECT id FROM alert_groups FOR UPDATE")
            with pytest.raises(Unavailable, match="busy"), database.transaction() as connection:
                ask(connection, "SET LOCAL lock_timeout = '10ms'; SELECT id FROM alert_groups FOR UPDATE")


def test_a_prepared_query_is_parsed_once_per_connection_and_outlives_a_rollback(
    make_database: Callable[..., Database],
) -> None:
    queries = load_queries("alert_store", prepared=("count_by_class",))
    wanted = {"severities": ["low", "high"], "states": ["new"]}
    database = make_database()
    with database.transaction() as connection:
        assert queries.count_by_class(connection, **wanted) == 0
        connection.rollback()
    with database.autocommit() as connection:
        for _ in range(2):
            assert queries.count_by_class(connection, **wanted) == 0
        assert ask(connection, "SELECT array_agg(name) FROM pg_prepared_statements") == ["alert_store_count_by_class_1"]
        calls = "SELECT generic_plans + custom_plans FROM pg_prepared_statements"
        assert ask(connection, calls) == 3


def test_a_prepared_query_has_a_plan_for_every_shape_of_its_parameters(make_database: Callable[..., Database]) -> None:
    queries = load_queries("alert_store", prepared=("list_alerts",))
    nothing = {**AlertFilter().parameters(), **PageRequest().parameters()}
    device = {**nothing, "device_id": "3a9ccfce-9773-4c72-b905-6a850e961587"}
    with make_database().autocommit() as connection:
        for parameters in (nothing, device, nothing, {**device, "device_id": str(uuid4())}, {**nothing, "limit": 7}):
            assert list(queries.list_alerts(connection, **parameters)) == []
        texts = ask(connection, "SELECT array_agg(statement ORDER BY prepare_time) FROM pg_prepared_statements")
        assert len(texts) == 3
        assert [("LIMIT 51" in text, "LIMIT 7" in text, "device_id = $" in text) for text in texts] == [
            (True, False, False),
            (True, False, True),
            (False, True, False),
        ]


def test_a_connection_keeps_so_many_prepared_queries_and_forgets_the_one_that_rested_longest(
    make_database: Callable[..., Database],
) -> None:
    queries = load_queries("alert_store", prepared=("list_alerts",))
    nothing = {**AlertFilter().parameters(), **PageRequest().parameters()}
    with make_database().autocommit() as connection:
        for limit in range(1, MOST_PREPARED + 6):
            for asked in (limit, 1):
                assert list(queries.list_alerts(connection, **{**nothing, "limit": asked})) == []
        names = ask(connection, "SELECT array_agg(name) FROM pg_prepared_statements")
        assert len(names) == MOST_PREPARED == len(connection.prepared)
        assert "alert_store_list_alerts_1" in names
        assert "alert_store_list_alerts_2" not in names
