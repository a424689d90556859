"""The embedded server, started for real: its settings, and every state that a killed predecessor may leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from foundation.embedded_postgres import EmbeddedPostgres
from foundation.errors import SettingsError
from foundation.processes import await_condition
from tests.clusters import copy_template, make_folder, make_template

PATIENCE_SECONDS = 60.0


@pytest.fixture
def empty_folder() -> Iterator[Path]:
    """A data folder for a first start."""
    with make_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data folder to copy."""
    with make_template() as folder:
        yield folder


@pytest.fixture
def folder(template: Path, empty_folder: Path) -> Path:
    """A data folder whose server has run before."""
    return copy_template(template, empty_folder)


@pytest.fixture
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    """A server that has started."""
    started = EmbeddedPostgres(folder)
    started.start()
    yield started
    started.stop()


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def postmaster_pid(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def test_server_has_our_settings_and_listens_on_a_private_socket_alone(server: EmbeddedPostgres) -> None:
    found = dict(
        ask(
            server.url,
            """SELECT name, current_setting(name) FROM pg_settings WHERE name IN
               ('listen_addresses', 'shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'wal_compression',
                'max_connections', 'jit', 'autovacuum_naptime', 'fsync', 'synchronous_commit', 'TimeZone')""",
        )
    )
    assert found == {
        "listen_addresses": "",
        "shared_buffers": "256MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "wal_compression": "off",
        "max_connections": "200",
        "jit": "off",
        "autovacuum_naptime": "15s",
        "fsync": "on",
        "synchronous_commit": "on",
        "TimeZone": "UTC",
    }
    [(path,)] = ask(server.url, "SELECT current_setting('unix_socket_directories')")
    assert (Path(str(path).strip('"')) / ".s.PGSQL.5432").stat().st_mode & 0o777 == 0o700


def test_text_sorts_the_same_on_every_machine(server: EmbeddedPostgres) -> None:
    assert ask(server.url, "SELECT string_agg(w, '' ORDER BY w) FROM unnest(ARRAY['b', 'A', 'a', 'B', 'é']) AS w") == [
        ("ABabé",)
    ]


def test_data_outlives_a_stop_and_people_may_change_settings(folder: Path) -> None:
    server = EmbeddedPostgres(folder, max_connections=230)
    ask(server.start(), "CREATE TABLE kept AS SELECT 1 AS one")
    server.stop()
    assert not server.is_running
    with (folder / "postgres" / "postgresql.conf").open("a") as file:
        file.write("work_mem = '7MB'\n")
    url = server.start()
    try:
        assert ask(url, "SELECT one, current_setting('work_mem'), current_setting('max_connections') FROM kept") == [
            (1, "7MB", "230")
        ]
    finally:
        server.stop()


def test_long_path_gets_a_short_socket(template: Path, empty_folder: Path) -> None:
    long_folder = empty_folder / ("x" * 60) / ("y" * 60)
    long_folder.mkdir(parents=True)
    copy_template(template, long_folder)
    server = EmbeddedPostgres(long_folder)
    url = server.start()
    try:
        assert ask(url, "SELECT 1") == [(1,)]
    finally:
        server.stop()


def test_path_with_strange_characters(empty_folder: Path) -> None:
    strange = empty_folder / 'Smith\'s "data" 50% & more'
    strange.mkdir()
    server = EmbeddedPostgres(strange)
    url = server.start()
    try:
        assert ask(url, "SELECT 1") == [(1,)]
    finally:
        server.stop()


def test_path_with_a_comma_is_refused_clearly(empty_folder: Path) -> None:
    with pytest.raises(SettingsError, match="a comma in its path"):
        EmbeddedPostgres(empty_folder / "a,b").start()


def test_killed_server_recovers_what_was_committed(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    ask(server.start(), "CREATE TABLE kept AS SELECT 1 AS one")
    children = psutil.Process(postmaster_pid(folder)).children()
    os.kill(postmaster_pid(folder), signal.SIGKILL)
    assert await_condition(lambda: not server.is_running, PATIENCE_SECONDS)
    psutil.wait_procs(children, PATIENCE_SECONDS)
    # Another process has its number now: ours stands for any that PostgreSQL would take for the old server.
    path = folder / "postgres" / "postmaster.pid"
    path.write_text(path.read_text().replace(str(postmaster_pid(folder)), str(os.getpid()), 1))

    url = server.start()
    try:
        assert ask(url, "SELECT one FROM kept") == [(1,)]
    finally:
        server.stop()


def test_server_left_behind_is_replaced(server: EmbeddedPostgres, folder: Path) -> None:
    left = psutil.Process(postmaster_pid(folder))
    second = EmbeddedPostgres(folder)
    url = second.start()
    try:
        assert not server.is_running
        assert postmaster_pid(folder) != left.pid
        assert ask(url, "SELECT 1") == [(1,)]
    finally:
        second.stop()


def test_half_made_cluster_is_made_anew(empty_folder: Path) -> None:
    draft = empty_folder / "initdb-killed"
    (draft / "global").mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(empty_folder)
    url = server.start()
    try:
        assert ask(url, "SELECT 1") == [(1,)]
        assert not draft.exists()
    finally:
        server.stop()


def test_locale_that_the_machine_lacks_does_no_harm(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "xx_YY.UTF-8")
    monkeypatch.setenv("LC_ALL", "xx_YY.UTF-8")
    server = EmbeddedPostgres(empty_folder)
    server.start()
    server.stop()
    assert os.environ["LC_ALL"] == "xx_YY.UTF-8"


def test_damaged_cluster_is_told_with_the_servers_own_words(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    server.start()
    server.stop()
    (folder / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(
        SettingsError, match=r"^DATA_DIR: the embedded PostgreSQL does not start \(.*pg_control"
    ) as told:
        server.start()
    assert "\n" not in str(told.value)
    assert not server.is_running


def test_wait_for_a_start_can_be_cut_short(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    with pytest.raises(SettingsError, match="asked to stop"):
        server.start(is_stopping=lambda: True)
    assert not server.is_running
    server.start()
    server.stop()


def test_stop_that_takes_too_long_is_forced(server: EmbeddedPostgres, folder: Path) -> None:
    descendants = psutil.Process(postmaster_pid(folder)).children()
    server.stop(timeout_seconds=0.0)
    gone, alive = psutil.wait_procs(descendants, PATIENCE_SECONDS)
    assert gone
    assert not alive
    assert not server.is_running
