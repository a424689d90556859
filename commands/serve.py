"""``serve``: the web processes alone, under granian."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from commands.database_access import SOURCE_FOLDER, child_environment, require_database
from foundation.launcher import end_with_parent
from foundation.listening import ensure_port_is_free
from foundation.logging import configure_logging
from foundation.settings import Settings

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# Requests under way at a stop get this long; the supervising process allows a little more.
STOP_SECONDS = 2
# Records of the server go to our own handler.
SERVER_LOGGING = {"handlers": {}, "formatters": {}, "loggers": {"_granian": {"handlers": [], "propagate": True}}}


def add_arguments(parser: ArgumentParser) -> None:
    """Take no arguments."""


def run(arguments: Namespace, settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl-C; return 1 when a web process could not be kept running."""
    if METRICS_VARIABLE not in os.environ and "prometheus_client" in sys.modules:
        _start_over()
    settings = require_database(settings)
    configure_logging(settings)
    ensure_port_is_free(settings.host, settings.port)
    with _metrics_folder() as folder:
        # The web processes read their settings from the environment, like any other process.
        os.environ.update(child_environment(settings))
        os.environ[METRICS_VARIABLE] = str(folder)
        _check_keys(settings)
        return _serve(settings)


def _serve(settings: Settings) -> int:
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    import app_advanced  # noqa: F401  # imported before the processes fork: they share its memory and its time

    server = Server(
        "app_advanced:create_app",
        address=settings.host,
        port=settings.port,
        interface=Interfaces.WSGI,
        workers=settings.web_workers,
        # As many again as work at a time: they take reports in, and gather those that one transaction records. More of
        # them at work would take turns at the interpreter, so that all requests end late, and some much later.
        # More than the pool has connections would only wait for one.
        blocking_threads=min(2 * settings.web_threads, settings.database_pool_size),
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.error,
        log_dictconfig=SERVER_LOGGING,
        log_access=False,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_SECONDS,
    )
    try:
        server.serve(target_loader=partial(load_application, settings, os.getpid()), wrap_loader=False)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _check_keys(settings: Settings) -> None:
    # Here a wrong key is one line; in the web processes it would be a crash of each.
    from api.tokens import TokenVerifier

    TokenVerifier(settings)


def load_application(settings: Settings, server_pid: int) -> Callable[..., Any]:
    """Return the application of one web process, which ends with the serving process."""
    end_with_parent(server_pid, signal.SIGKILL)
    configure_logging(settings)
    from app_advanced import create_app

    application = create_app(settings)
    # What stands now stays: the collector would look through it again and again, an eighth of the time of a request.
    gc.collect()
    gc.freeze()
    return application


@contextmanager
def _metrics_folder() -> Iterator[Path]:
    """Yield the folder where web processes add up their metrics, empty unless somebody else keeps it."""
    given = os.environ.get(METRICS_VARIABLE)
    if given:
        folder = Path(given)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix="advanced-alerting-metrics-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_over() -> None:
    # The metrics library looks for its folder while it is imported, and the way here has imported it.
    command = [sys.executable, "-P", "-m", "commands", "serve"]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(SOURCE_FOLDER)})  # noqa: S606
