"""``run``: everything together, kept running by this process."""

from __future__ import annotations

import http.client
import logging
import os
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from commands import EXIT_FAILED, write_line
from commands.database_access import child_environment
from foundation.data_folder import (
    RunningService,
    announce_running_service,
    hold_data_folder,
    prepare_data_folder,
)
from foundation.embedded_postgres import EmbeddedPostgres
from foundation.errors import SettingsError
from foundation.launcher import end_with_parent
from foundation.listening import ensure_port_is_free, probe_address
from foundation.logging import configure_logging
from foundation.migrator import migrate
from foundation.processes import StopSignal
from foundation.secrets_file import add_generated_secrets
from foundation.settings import Settings
from foundation.supervisor import ChildProcess, Part, Supervisor, stop_children_of

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
PROBE_SECONDS = 0.03
SPARE_CONNECTIONS = 20
# Together under the 5 s that a stop may take.
CHILDREN_STOP_SECONDS = 2.3
DATABASE_STOP_SECONDS = 1.2
# -P: modules come from the source folder alone, whatever lies in the working folder.
CHILD_COMMAND = (sys.executable, "-P", "-m", "commands")


def add_arguments(parser: ArgumentParser) -> None:
    """Take how the process ends."""
    parser.add_argument(
        "--end-with-parent", action="store_true", help="stop when the process that started this one ends (make run)"
    )


def run(arguments: Namespace, settings: Settings) -> int:
    """Start everything, keep it running, and stop it in order at SIGTERM or Ctrl-C; return 1 for a failed start."""
    configure_logging(settings)
    with StopSignal() as stop, ExitStack() as stack:
        if arguments.end_with_parent:
            end_with_parent(os.getppid(), signal.SIGTERM)
        try:
            return _run(settings, stop, stack)
        except SettingsError:
            # A start that is cut short is no failure.
            if stop.is_requested:
                return 0
            raise


def _run(settings: Settings, stop: StopSignal, stack: ExitStack) -> int:
    parts: list[Part] = []
    if settings.is_embedded:
        settings, database = stack.enter_context(_start_database(settings, stop))
        parts.append(database)
    else:
        ensure_port_is_free(settings.host, settings.port)
        migrate(settings.database_url)
    if stop.is_requested:
        return 0
    web, worker = _plan_web(settings), _plan_worker(settings)
    stack.callback(stop_children_of, [web, worker], CHILDREN_STOP_SECONDS)
    web.start()
    if not _await_health(settings, web, stop):
        return 0 if stop.is_requested else EXIT_FAILED
    # Only now: while it loads, the web server would wait for its share of the processor.
    worker.start()
    _welcome(settings)
    Supervisor([*parts, web, worker]).run_until_stopped(stop)
    logger.info("stopping")
    return 0


class DatabasePart:
    """The embedded server as a part that is started again when it dies."""

    name = "the database"

    def __init__(self, server: EmbeddedPostgres, stop: StopSignal) -> None:
        self._server = server
        self._stop = stop

    @property
    def is_running(self) -> bool:
        """Whether the server is alive."""
        return self._server.is_running

    def start(self) -> None:
        """Start the server; a start that fails counts as one more death."""
        try:
            self._server.start(lambda: self._stop.is_requested)
        except SettingsError as error:
            logger.error("%s", error)

    def describe_end(self) -> str:
        """Point to the server's own log."""
        return "by itself (see postgres/log in DATA_DIR)"


@contextmanager
def _start_database(settings: Settings, stop: StopSignal) -> Iterator[tuple[Settings, DatabasePart]]:
    """Hold DATA_DIR and run the embedded server, migrated, for the length of the block."""
    folder = prepare_data_folder(settings.data_dir)
    with hold_data_folder(folder), ExitStack() as stack:
        ensure_port_is_free(settings.host, settings.port)
        server = EmbeddedPostgres(folder, max_connections=count_connections(settings))
        stack.callback(server.stop, DATABASE_STOP_SECONDS)
        url = server.start(lambda: stop.is_requested)
        migrate(url)
        settings = add_generated_secrets(settings).model_copy(update={"database_url": url, "data_dir": folder})
        stack.enter_context(announce_running_service(folder, RunningService.of_this_process(url)))
        yield settings, DatabasePart(server, stop)


def count_connections(settings: Settings) -> int:
    """Return how many connections the server has to take: full pools everywhere, and some for people and commands."""
    return (settings.web_workers + 1) * settings.database_pool_size + SPARE_CONNECTIONS


def _plan_web(settings: Settings) -> ChildProcess:
    return ChildProcess(
        "the web server",
        [*CHILD_COMMAND, "serve"],
        child_environment(settings),
        check_before_start=lambda: ensure_port_is_free(settings.host, settings.port),
    )


def _plan_worker(settings: Settings) -> ChildProcess:
    return ChildProcess("the worker", [*CHILD_COMMAND, "worker"], child_environment(settings))


def _await_health(settings: Settings, web: ChildProcess, stop: StopSignal) -> bool:
    """Return whether the service answers; a server that ends now has a fault that another start would not mend."""
    deadline = time.monotonic() + START_SECONDS
    while not stop.wait(PROBE_SECONDS):
        if _is_healthy(settings):
            return True
        if not web.is_running:
            # A command that fails has said why.
            if web.exit_code != EXIT_FAILED:
                logger.error("%s ended at its start %s", web.name, web.describe_end())
            return False
        if time.monotonic() > deadline:
            logger.error("the web server does not answer after %.0f s", START_SECONDS)
            return False
    return False


def _is_healthy(settings: Settings) -> bool:
    connection = http.client.HTTPConnection(probe_address(settings.host), settings.port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _welcome(settings: Settings) -> None:
    """Print where the service is and how to get in; the administrator's password is shown this once."""
    from wiring import build_services

    services = build_services(settings)
    try:
        administrator = services.accounts.ensure_administrator()
    finally:
        services.database.close()
    write_line("Advanced Alerting is running.")
    write_line(f"  API            {settings.base_url}/api/v1")
    write_line(f"  Documentation  {settings.base_url}/api/v1/docs")
    if administrator is not None:
        email, password = administrator
        write_line(f"  Administrator  {email}")
        write_line(f"  Password       {password}   (shown this once)")
    write_line("  Token          python app_advanced.py token --role admin")
    write_line("  Stop           Ctrl-C")
