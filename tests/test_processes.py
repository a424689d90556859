"""Children that end with their parent, restarts, signals that can be waited for, and ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import SettingsError
from foundation.listening import ensure_port_is_free, probe_address
from foundation.processes import StopSignal, await_condition, start_child, stop_children
from foundation.supervisor import LONGEST_DELAY_SECONDS, STEADY_SECONDS, ChildProcess, Supervisor, restart_delay

SOURCE_FOLDER = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60.0
SLEEPER = (sys.executable, "-S", "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-S",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)",
)

PARENT = """
import sys, time
from foundation.processes import start_child
child = start_child([sys.executable, "-S", "-c", "import time; print(1, flush=True); time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(SOURCE_FOLDER)}
    )
    assert parent.stdout is not None
    # The number of the child, and its own word that it runs, in either order.
    lines = sorted(int(parent.stdout.readline()) for _ in range(2))
    child = psutil.Process(lines[1])
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def has_ended() -> bool:
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

    assert await_condition(has_ended, PATIENCE_SECONDS)


def test_child_has_a_session_of_its_own_and_the_given_environment(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as output:
        child = start_child(
            [sys.executable, "-c", "import os; print(os.getsid(0), os.environ['WORD'])"],
            environment={"WORD": "given"},
            output=output,
        )
    assert child.wait(PATIENCE_SECONDS) == 0
    assert (tmp_path / "out").read_text().split() == [str(child.pid), "given"]


def test_stop_is_gentle_first_and_kills_in_the_end(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as output:
        stubborn = start_child(STUBBORN, output=output)
    gentle = start_child(SLEEPER)
    assert await_condition(lambda: (tmp_path / "out").read_text() == "1\n", PATIENCE_SECONDS)
    assert stop_children([gentle, stubborn], grace_seconds=0.3) == 1
    assert stubborn.returncode == -signal.SIGKILL
    assert gentle.returncode in (-signal.SIGTERM, -signal.SIGKILL)


def test_stop_signal_is_waited_for_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert stop.wait(0.0) is False
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(PATIENCE_SECONDS) is True
        assert stop.wait(None) is True
    assert signal.getsignal(signal.SIGTERM) is before


def test_end_of_a_child_wakes_the_wait_but_is_no_stop() -> None:
    with StopSignal() as stop:
        child = start_child([sys.executable, "-S", "-c", "pass"])
        assert stop.wait(PATIENCE_SECONDS) is False
        assert child.wait(PATIENCE_SECONDS) == 0


class FakePart:
    """A part that lives and dies as told."""

    name = "the part"

    def __init__(self) -> None:
        self.is_running = True
        self.starts = 0

    def start(self) -> None:
        self.starts += 1

    def describe_end(self) -> str:
        return "as told"


def test_dead_part_is_started_again_later_and_later() -> None:
    now = [0.0]
    part = FakePart()
    supervisor = Supervisor([part], monotonic=lambda: now[0])
    assert supervisor.run_once() is None
    part.is_running = False
    pauses = []
    for _ in range(9):
        pause = supervisor.run_once()
        assert pause is not None
        pauses.append(pause)
        now[0] += pause / 2
        starts = part.starts
        supervisor.run_once()
        assert part.starts == starts
        now[0] += pause / 2
        supervisor.run_once()
        assert part.starts == starts + 1
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]

    part.is_running = True
    assert supervisor.run_once() is None
    now[0] += STEADY_SECONDS
    part.is_running = False
    assert supervisor.run_once() == 0.5


@given(st.integers(1, 10**6))
def test_restart_delay_never_falls_and_is_bounded(deaths: int) -> None:
    assert 0 < restart_delay(deaths) <= restart_delay(deaths + 1) <= LONGEST_DELAY_SECONDS


@pytest.mark.parametrize(
    ("code", "words"),
    [("raise SystemExit(3)", "with exit code 3"), ("import os; os.kill(os.getpid(), 9)", "by signal 9")],
)
def test_child_tells_how_it_ended(code: str, words: str) -> None:
    child = ChildProcess("the child", [sys.executable, "-S", "-c", code], dict(os.environ))
    child.start()
    assert await_condition(lambda: not child.is_running, PATIENCE_SECONDS)
    assert child.describe_end() == words


def test_taken_port_is_named_and_free_again_after_its_listener() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^PORT: 127\.0\.0\.1:{port} is taken"):
            ensure_port_is_free("127.0.0.1", port, wait_seconds=0.0)
    ensure_port_is_free("127.0.0.1", port, wait_seconds=0.0)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_foreign_address_is_named(host: str) -> None:
    with pytest.raises(SettingsError, match=rf"^HOST: {host} "):
        ensure_port_is_free(host, 5002, wait_seconds=0.0)


def test_wildcard_addresses_are_probed_on_loopback() -> None:
    assert [probe_address(host) for host in ("0.0.0.0", "::", "10.1.2.3")] == ["127.0.0.1", "::1", "10.1.2.3"]
