"""What is measured: an embedded PostgreSQL server of the benchmark's own, and the web service as ``run`` starts it."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import aiosql
import psutil

from api.tokens import issue_token
from benchmarks.seed import connect
from foundation.embedded_postgres import EmbeddedPostgres
from foundation.migrator import migrate
from foundation.processes import await_condition, start_child, stop_children
from foundation.settings import Settings

SOURCE_FOLDER = Path(__file__).resolve().parent.parent
READY_SECONDS = 60.0
PROBE_SECONDS = 0.005

_queries = aiosql.from_path(Path(__file__).with_name("yardstick.sql"), "psycopg2", mandatory_parameters=False)


class BenchmarkError(Exception):
    """Something broke: there is nothing to report."""


def make_folder() -> Path:
    """Return a new folder on a disk: the temporary folder of many machines is memory, where a commit costs nothing."""
    # As root the database server runs under an account of its own, which needs a way in.
    return Path(
        tempfile.mkdtemp(prefix="advanced-alerting-bench-", dir="/var/lib" if os.geteuid() == 0 else "/var/tmp")
    )


class DatabaseServer:
    """The embedded server with its production settings, and two databases: the large one and the small one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = EmbeddedPostgres(folder)

    def __enter__(self) -> DatabaseServer:
        self.large_url = self._server.start()
        with closing(connect(self.large_url)) as connection:
            _queries.create_small_database(connection)
        address = urlsplit(self.large_url)
        self.small_url = f"postgresql://{address.netloc}/alerting_small?{address.query}"
        for url in (self.large_url, self.small_url):
            migrate(url)
        with closing(connect(self.large_url)) as connection:
            _queries.create_plain_table(connection)
        pid_file = self._folder / "postgres" / "postmaster.pid"
        self._process = psutil.Process(int(pid_file.read_text(encoding="utf-8").split()[0]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    def read_cpu_seconds(self) -> float:
        """Return the processor time of all processes of the server so far, those that have ended included."""
        own = self._process.cpu_times()
        running = sum(_cpu_seconds_of(child) for child in self._process.children())
        return running + own.user + own.system + own.children_user + own.children_system


class WebService:
    """The web processes and the worker on one database, each a process of its own, as ``run`` starts them."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self._folder = folder
        self._settings = Settings(
            _env_file=None,
            database_url=database_url,
            data_dir=folder,
            port=find_free_port(),
            jwt_secret=secrets.token_hex(32),
        )
        self.token = self.make_token("operator")

    def make_token(self, role: str) -> str:
        """Return a token for the service."""
        return issue_token(self._settings, subject="bench", role=role, hours=24)

    @property
    def url(self) -> str:
        """The address of the service."""
        return self._settings.base_url

    def __enter__(self) -> WebService:
        environment = {
            **plain_environment(),
            "DATABASE_URL": self._settings.database_url,
            "DATA_DIR": str(self._folder),
            "PORT": str(self._settings.port),
            "JWT_SECRET": self._settings.jwt_secret,
        }
        with (self._folder / "service.log").open("ab") as log:
            self._children = [
                start_child([sys.executable, "-P", "-m", "commands", word], environment=environment, output=log)
                for word in ("serve", "worker")
            ]
        if not await_condition(lambda: get_status(self.url + "/ready") == 200, READY_SECONDS):
            self._stop()
            raise BenchmarkError(f"the service does not become ready:\n{self.read_last_words()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def read_cpu_seconds(self) -> float:
        """Return the processor time of the web processes so far."""
        return sum(_cpu_seconds_of(process) for process in self.list_processes())

    def list_processes(self) -> list[psutil.Process]:
        """Return the web processes that answer requests."""
        children = psutil.Process(self._children[0].pid).children()
        return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]

    def read_last_words(self) -> str:
        """Return the end of the service's log."""
        return (self._folder / "service.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def _stop(self) -> None:
        stop_children(self._children, grace_seconds=10)


@contextmanager
def run_everything(folder: Path) -> Iterator[float]:
    """Start ``run`` on a data folder and yield the seconds until it answered a first request that reads alerts."""
    secret = secrets.token_hex(32)
    settings = Settings(_env_file=None, data_dir=folder, port=find_free_port(), jwt_secret=secret)
    token = issue_token(settings, subject="bench", role="operator", hours=1)
    environment = {
        **plain_environment(),
        "DATA_DIR": str(folder),
        "PORT": str(settings.port),
        "JWT_SECRET": secret,
        "PYTHONPATH": str(SOURCE_FOLDER),
    }
    log_path = folder.with_suffix(".log")
    with log_path.open("wb") as log:
        began_at = time.perf_counter()
        child = start_child(
            [sys.executable, str(SOURCE_FOLDER / "app_advanced.py")],
            environment=environment,
            signal_on_parent_death=signal.SIGTERM,
            output=log,
        )
    try:
        while get_status(settings.base_url + "/api/v1/alerts?limit=1", token) != 200:
            if child.poll() is not None or time.perf_counter() - began_at > READY_SECONDS:
                raise BenchmarkError(f"run does not start:\n{log_path.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(PROBE_SECONDS)
        yield time.perf_counter() - began_at
    finally:
        _stop_run(child)


def get_status(url: str, token: str = "") -> int | None:
    """Return the status that an address answers, None where nobody does."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=5)
    try:
        connection.request(
            "GET", address._replace(scheme="", netloc="").geturl(), headers={"Authorization": f"Bearer {token}"}
        )
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def find_free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def plain_environment() -> Mapping[str, str]:
    """Return this process's environment without any setting of the product: defaults are measured."""
    ours = {name.upper() for name in Settings.model_fields} | {"PROMETHEUS_MULTIPROC_DIR"}
    kept = {name: value for name, value in os.environ.items() if name.upper() not in ours}
    return {**kept, "PYTHONPATH": str(SOURCE_FOLDER)}


def _stop_run(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _cpu_seconds_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
