"""Child processes that end with their parent, and waiting that signals interrupt."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

POLL_SECONDS = 0.02
LAUNCHER = Path(__file__).with_name("launcher.py")
SAME_ACCOUNT = (-1, -1)


def start_child(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    signal_on_parent_death: int = signal.SIGKILL,
    account: tuple[int, int] = SAME_ACCOUNT,
    output: IO[bytes] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program, by its full path, that ends with this process (on Linux).

    It gets a session of its own, so that Ctrl-C in the terminal reaches the parent alone, which then stops its
    children in order. ``account`` is the (user, group) to run under, for a parent that is root; ``output``
    takes what the child prints (otherwise the parent's streams do); ``folder`` is where it works (otherwise where the
    parent does).
    """
    launcher = [sys.executable, "-I", "-S", LAUNCHER, os.getpid(), int(signal_on_parent_death), *account]
    return subprocess.Popen(  # noqa: S603  # our own commands, never a shell
        [str(word) for word in [*launcher, *command]],
        env=None if environment is None else dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=folder,
        start_new_session=True,
    )


def stop_children(children: Iterable[subprocess.Popen[bytes]], grace_seconds: float) -> int:
    """Ask children to end with SIGTERM, kill what is left after ``grace_seconds``; return how many were killed."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.terminate()
    await_condition(lambda: all(child.poll() is not None for child in running), grace_seconds)
    stubborn = [child for child in running if child.poll() is None]
    for child in stubborn:
        child.kill()
    for child in running:
        child.wait()
    return len(stubborn)


def await_condition(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Look every 20 ms until ``condition`` holds; return whether it did within ``timeout_seconds``."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


class StopSignal:
    """SIGTERM and SIGINT as something that can be waited for; SIGCHLD ends a wait early.

    To be made in the main thread, used as a context manager; the handlers that stood before come back after it.
    A handler that raised instead could strike anywhere, also between the start of a child and its booking.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

    def __init__(self) -> None:
        self.is_requested = False

    def __enter__(self) -> StopSignal:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._former_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._former = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_fd)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, timeout_seconds: float | None) -> bool:
        """Sleep for ``timeout_seconds``, or less when a signal comes; return whether a stop is requested."""
        if not self.is_requested:
            ready, _, _ = select.select([self._reader], [], [], timeout_seconds)
            if ready:
                os.read(self._reader, 4096)
        return self.is_requested

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self.is_requested = True
