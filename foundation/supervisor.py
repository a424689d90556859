"""Keeps a set of processes running: what dies is started again, later and later while it goes on dying."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from foundation.processes import StopSignal, start_child, stop_children

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# A process that lived this long has recovered: its next death counts as the first.
STEADY_SECONDS = 60.0


def restart_delay(deaths: int) -> float:
    """Return the seconds to wait after the ``deaths``-th death in a row: 0.5, 1, 2, 4, ... at most 30."""
    return min(FIRST_DELAY_SECONDS * 2.0 ** min(deaths - 1, 16), LONGEST_DELAY_SECONDS)


class Part(Protocol):
    """Something that runs and can be started again."""

    name: str

    @property
    def is_running(self) -> bool:
        """Whether it is alive."""

    def start(self) -> None:
        """Start it; raises SettingsError when there is no use in trying again."""

    def describe_end(self) -> str:
        """Return how it ended, for the log."""


class ChildProcess:
    """A part that is one child process, started by a command."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        check_before_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._check_before_start = check_before_start
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Check what it needs, then start the process."""
        self._check_before_start()
        self.process = start_child(self._command, environment=self._environment)

    @property
    def exit_code(self) -> int | None:
        """The code it ended with, negative for a signal; None while it runs."""
        return self.process.poll() if self.process else None

    def describe_end(self) -> str:
        """Return the exit code or the signal that ended it."""
        code = self.exit_code
        return f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"


class Supervisor:
    """Watches parts, and starts the dead ones again."""

    def __init__(self, parts: Sequence[Part], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._parts = parts
        self._monotonic = monotonic
        self._deaths = dict.fromkeys((part.name for part in parts), 0)
        self._started_at = dict.fromkeys((part.name for part in parts), monotonic())
        self._restart_at: dict[str, float] = {}

    def run_until_stopped(self, stop: StopSignal) -> None:
        """Watch until a stop is requested; raises SettingsError when a part cannot run any more."""
        timeout_seconds = self.run_once()
        while not stop.wait(timeout_seconds):
            timeout_seconds = self.run_once()

    def run_once(self) -> float | None:
        """Book new deaths and start what is due; return the seconds to the next start, None where none is planned."""
        for part in self._parts:
            if not part.is_running:
                self._look_after(part)
        return max(0.0, min(self._restart_at.values()) - self._monotonic()) if self._restart_at else None

    def _look_after(self, part: Part) -> None:
        now = self._monotonic()
        if part.name not in self._restart_at:
            is_first = now - self._started_at[part.name] >= STEADY_SECONDS
            self._deaths[part.name] = 1 if is_first else self._deaths[part.name] + 1
            delay_seconds = restart_delay(self._deaths[part.name])
            self._restart_at[part.name] = now + delay_seconds
            logger.error("%s ended %s; it starts again in %.1f s", part.name, part.describe_end(), delay_seconds)
        elif now >= self._restart_at[part.name]:
            del self._restart_at[part.name]
            self._started_at[part.name] = now
            part.start()
            logger.info("%s was started again", part.name)


def stop_children_of(parts: Sequence[ChildProcess], grace_seconds: float) -> None:
    """Stop child processes side by side, killing what does not end within the grace."""
    killed = stop_children([part.process for part in parts if part.process is not None], grace_seconds)
    if killed:
        logger.warning("%d processes did not end in time and were killed", killed)
