"""The service that a demonstration plays through: one that runs already, or one of our own."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import requests

from commands.database_access import SOURCE_FOLDER
from demo.client import Pause, Stopped
from foundation.errors import SettingsError, Unavailable
from foundation.listening import probe_address
from foundation.processes import start_child, stop_children
from foundation.settings import Settings

PROBE_SECONDS = 0.1
PROBE_TIMEOUT_SECONDS = 5.0
START_SECONDS = 90.0
STOP_SECONDS = 10.0
KEEP_LOOK_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """Where the service is; ``own`` when it was started for the demonstration and ends with it."""

    url: str
    own: OwnService | None = None


@contextmanager
def reach_service(settings: Settings, url: str | None, pause: Pause, tell: Callable[[str], None]) -> Iterator[Target]:
    """Yield the service at ``url``; without one that of this machine, started for the block if nobody has.

    ``tell`` is given what the started service prints, line by line: its first start shows a password once.

    Raises:
        Unavailable: nothing answers at ``url``, or the service that was started does not get ready.
        SettingsError: ``url`` is no address, or the service refuses to start.
        Stopped: a stop was asked for during the start.
    """
    if url is not None:
        yield Target(check_url(url))
        return
    address = local_address(settings)
    if is_healthy(address):
        yield Target(address)
        return
    tell(f"Nothing answers at {address}: starting the service.")
    own = OwnService(tell)
    try:
        own.await_ready(address, pause)
        yield Target(address, own)
    finally:
        own.stop()


def check_url(url: str) -> str:
    """Return the address without a trailing slash, once something answers there.

    Raises:
        SettingsError: it is no http address.
        Unavailable: nothing answers.
    """
    url = url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"--url: must begin with http:// or https://, not {url!r}")
    try:
        requests.get(f"{url}/health", timeout=PROBE_TIMEOUT_SECONDS, allow_redirects=False)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise Unavailable(f"--url: nothing answers at {url}") from error
    except requests.RequestException as error:
        raise SettingsError(f"--url: {url} is no address ({error})") from error
    return url


def local_address(settings: Settings) -> str:
    """Return where a service with these settings is reached from this machine, whatever PUBLIC_URL says."""
    host = probe_address(settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def is_healthy(url: str, path: str = "/health") -> bool:
    """Return whether the service answers 200."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(f"{url}{path}", timeout=PROBE_TIMEOUT_SECONDS).status_code == HTTPStatus.OK
        except requests.RequestException:
            return False


class OwnService:
    """A service that was started for a demonstration; what it prints is passed on line by line."""

    def __init__(
        self, tell: Callable[[str], None], environment: Mapping[str, str] = os.environ, folder: Path | None = None
    ) -> None:
        # Its log would drown the demonstration; who wants it sets LOG_LEVEL.
        environment = {"LOG_LEVEL": "WARNING", **environment}
        command = [sys.executable, str(SOURCE_FOLDER / "app_advanced.py"), "run"]
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as output:
            self._process = start_child(
                command, environment=environment, signal_on_parent_death=signal.SIGTERM, output=output, folder=folder
            )
        self._forwarding = threading.Thread(target=_forward_lines, args=(reader, tell), daemon=True)
        self._forwarding.start()

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def await_ready(self, address: str, pause: Pause) -> None:
        """Return once the service can do its work.

        Raises:
            SettingsError: it ended instead, with its own words.
            Unavailable: it did not get ready.
            Stopped: a stop was asked for meanwhile.
        """
        for _ in range(int(START_SECONDS / PROBE_SECONDS)):
            if is_healthy(address, "/ready"):
                return
            if not self.is_running:
                self._forwarding.join(STOP_SECONDS)
                raise SettingsError("the service did not start; its own words stand above")
            if pause(PROBE_SECONDS):
                raise Stopped
        raise Unavailable(f"the service at {address} is not ready after {START_SECONDS:.0f} s")

    def stop(self) -> None:
        """Ask it to end, as Ctrl-C would, and wait until it has, its last words included."""
        stop_children([self._process], STOP_SECONDS)
        self._forwarding.join(STOP_SECONDS)


def keep_running(own: OwnService, pause: Pause) -> None:
    """Return when a stop is asked for, or when the service has ended by itself."""
    while own.is_running and not pause(KEEP_LOOK_SECONDS):
        pass


def _forward_lines(reader: int, tell: Callable[[str], None]) -> None:
    with os.fdopen(reader, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            tell(line.rstrip("\n"))
