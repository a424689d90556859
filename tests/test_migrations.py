"""Migrations: numbered, run once, by one process at a time, whole or not at all."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from pytest_postgresql.executors.noop import NoopExecutor

import foundation.migrator
from foundation.errors import SettingsError
from foundation.migrator import MIGRATIONS_FOLDER, migrate, pending_migrations, read_migrations
from foundation.queries import load_queries
from tests.golden_schema import GOLDEN_SCHEMA, RENEWAL, dump_schema

Sql = Callable[..., list[tuple[Any, ...]]]

ROOT = Path(__file__).resolve().parent.parent
FIRST = "CREATE TABLE first_things (id integer);"
SECOND = "CREATE TABLE second_things (id integer);"


@pytest.fixture
def empty_url(alerting_server: NoopExecutor) -> Iterator[str]:
    """The address of an empty database of this test's own."""
    address = f"postgresql://{alerting_server.user}@/{{}}?host={alerting_server.host}"
    name = f"empty_{uuid.uuid4().hex}"
    with closing(psycopg2.connect(address.format("postgres"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
            yield address.format(name)
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two migrations."""
    write_migrations(tmp_path, {"0001_first.sql": FIRST, "0002_second.sql": SECOND})
    return tmp_path


def write_migrations(folder: Path, files: dict[str, str]) -> None:
    """Write files into a folder."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def list_tables(url: str) -> set[str]:
    """Return the tables of a database."""
    return {name for (name,) in query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


class TestNumbering:
    def test_the_product_s_own_are_numbered_without_a_gap(self) -> None:
        numbers = [migration.number for migration in read_migrations()]
        assert numbers == list(range(1, len(list(MIGRATIONS_FOLDER.glob("*"))) + 1))

    @pytest.mark.parametrize(
        "names",
        [
            ["0001_first.sql", "0003_third.sql"],
            ["0002_second.sql"],
            ["0001_first.sql", "0001_again.sql"],
            ["0000_nothing.sql"],
        ],
        ids=["gap", "late start", "twice", "zero"],
    )
    def test_a_gap_or_a_number_used_twice_is_refused(self, tmp_path: Path, names: list[str]) -> None:
        write_migrations(tmp_path, dict.fromkeys(names, "SELECT 1;"))
        with pytest.raises(ValueError, match="without a gap"):
            read_migrations(tmp_path)

    @pytest.mark.parametrize("name", ["1_first.sql", "first.sql", "0001-first.sql", "0001_.sql"])
    def test_a_file_that_is_named_otherwise_is_refused(self, tmp_path: Path, name: str) -> None:
        write_migrations(tmp_path, {name: "SELECT 1;"})
        with pytest.raises(ValueError, match=name):
            read_migrations(tmp_path)


class TestRunning:
    def test_each_runs_once_in_order(self, empty_url: str, folder: Path) -> None:
        assert [(m.number, m.name) for m in migrate(empty_url, folder)] == [(1, "first"), (2, "second")]
        assert migrate(empty_url, folder) == []
        assert query(empty_url, "SELECT number, name FROM schema_migrations ORDER BY number") == [
            (1, "first"),
            (2, "second"),
        ]

    def test_only_new_ones_run_on_an_older_database(self, empty_url: str, folder: Path) -> None:
        migrate(empty_url, folder)
        write_migrations(folder, {"0003_third.sql": "ALTER TABLE second_things ADD COLUMN name text;"})
        assert [m.number for m in migrate(empty_url, folder)] == [3]

    def test_pending_ones_are_counted(self, empty_url: str, folder: Path) -> None:
        with closing(psycopg2.connect(empty_url)) as connection:
            connection.autocommit = True
            assert pending_migrations(connection, folder) == 2
            migrate(empty_url, folder)
            assert pending_migrations(connection, folder) == 0
            write_migrations(folder, {"0003_third.sql": "SELECT 1;"})
            assert pending_migrations(connection, folder) == 1

    def test_a_percent_sign_is_no_parameter(self, empty_url: str, tmp_path: Path) -> None:
        write_migrations(
            tmp_path, {"0001_first.sql": "CREATE VIEW shares AS SELECT '100 %s'::text AS share, 7 % 4 AS rest;"}
        )
        migrate(empty_url, tmp_path)
        assert query(empty_url, "SELECT * FROM shares") == [("100 %s", 3)]


class TestRefusals:
    @pytest.mark.parametrize("number", ["0001_first.sql", "0002_second.sql"])
    def test_an_edited_migration(self, empty_url: str, folder: Path, number: str) -> None:
        migrate(empty_url, folder)
        with (folder / number).open("a", encoding="utf-8") as file:
            file.write("-- a harmless remark\n")
        write_migrations(folder, {"0003_third.sql": "CREATE TABLE third_things (id integer);"})
        with pytest.raises(SettingsError, match=f"migration {number[:4]} was edited after it ran"):
            migrate(empty_url, folder)
        assert "third_things" not in list_tables(empty_url)

    def test_a_newer_database(self, empty_url: str, folder: Path) -> None:
        migrate(empty_url, folder)
        (folder / "0002_second.sql").unlink()
        with pytest.raises(SettingsError, match=r"newer than this version \(migration 0002\)"):
            migrate(empty_url, folder)

    @pytest.mark.parametrize(
        "url",
        ["postgresql://nobody@127.0.0.1:1/nowhere", "postgresql:///nowhere?host=/nonexistent"],
        ids=["closed port", "missing socket"],
    )
    def test_a_server_that_is_not_there(self, url: str) -> None:
        with pytest.raises(SettingsError, match=r"^DATABASE_URL: the database cannot be reached \(.+\)$"):
            migrate(url)

    def test_one_that_fails_leaves_nothing_behind(self, empty_url: str, folder: Path) -> None:
        broken = f"{SECOND} INSERT INTO first_things VALUES (1); SELECT 1 / 0;"
        write_migrations(folder, {"0002_second.sql": broken, "0003_third.sql": "SELECT 1;"})
        with pytest.raises(psycopg2.errors.DivisionByZero):
            migrate(empty_url, folder)
        assert list_tables(empty_url) == {"first_things", "schema_migrations"}
        assert query(empty_url, "SELECT count(*) FROM first_things") == [(0,)]
        assert query(empty_url, "SELECT number FROM schema_migrations") == [(1,)]

    def test_one_that_failed_runs_once_it_is_mended(self, empty_url: str, folder: Path) -> None:
        write_migrations(folder, {"0002_second.sql": f"{SECOND} SELECT 1 / 0;"})
        with pytest.raises(psycopg2.errors.DivisionByZero):
            migrate(empty_url, folder)
        write_migrations(folder, {"0002_second.sql": SECOND})
        assert [m.number for m in migrate(empty_url, folder)] == [2]

    def test_another_process_that_migrates_is_waited_for_a_bounded_time(
        self, empty_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(foundation.migrator, "LOCK_WAIT_SECONDS", 0.05)
        with closing(psycopg2.connect(empty_url)) as other, other.cursor() as cursor:
            load_queries("migrator").lock_migrations(other)
            with pytest.raises(SettingsError, match="DATABASE_URL: another process is migrating"):
                migrate(empty_url, folder)
            cursor.execute("SELECT pg_advisory_unlock_all()")
        assert len(migrate(empty_url, folder)) == 2


class TestStartingAtOnce:
    def test_two_processes_on_an_empty_database_both_come_up(self, empty_url: str, tmp_path: Path) -> None:
        environment = {
            **os.environ,
            "DATABASE_URL": empty_url,
            "JWT_SECRET": "a secret that only the tests use, long enough",
            "DATA_DIR": str(tmp_path),
        }
        processes = [
            subprocess.Popen(
                [sys.executable, ROOT / "app_advanced.py", "migrate"],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        endings = [(process.communicate(timeout=60), process.returncode) for process in processes]
        assert [code for _, code in endings] == [0, 0], endings
        words = sorted(output.splitlines()[-1] for (output, _), _ in endings)
        assert words == sorted([f"{len(read_migrations())} migrations applied", "the database is up to date"])

    def test_many_threads_run_each_migration_once(self, empty_url: str, folder: Path) -> None:
        with ThreadPoolExecutor(6) as pool:
            ran = list(pool.map(lambda _: migrate(empty_url, folder), range(6)))
        assert sorted(len(applied) for applied in ran) == [0, 0, 0, 0, 0, 2]
        assert list_tables(empty_url) == {"first_things", "second_things", "schema_migrations"}


def test_the_migrations_make_the_golden_schema(database_url: str) -> None:
    found = dump_schema(database_url).splitlines()
    golden = GOLDEN_SCHEMA.read_text(encoding="utf-8").splitlines()
    difference = "\n".join(difflib.unified_diff(golden, found, "golden", "migrated", lineterm=""))
    assert not difference, f"after reading the difference, renew the golden schema: {RENEWAL}\n{difference}"


def test_the_golden_schema_does_not_depend_on_what_the_tables_hold(database_url: str, sql: Sql) -> None:
    before = dump_schema(database_url)
    sql("INSERT INTO alerts (device_id, severity, message) VALUES (gen_random_uuid(), 'low', 'm')")
    assert dump_schema(database_url) == before


def test_a_copy_of_the_migrations_elsewhere_has_the_same_checksums(tmp_path: Path) -> None:
    shutil.copytree(MIGRATIONS_FOLDER, tmp_path / "copy")
    assert read_migrations(tmp_path / "copy") == read_migrations()
    assert len({migration.checksum for migration in read_migrations()}) == len(read_migrations())
