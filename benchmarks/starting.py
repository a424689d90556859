"""From the command to the first answered request, and the memory that the web processes end up with."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.report import Row
from benchmarks.server import WebService, run_everything

START = "start"
MEBIBYTE = 2**20


def measure_starts(plan: Plan, folder: Path) -> list[Row]:
    """Return the times of first starts, on an empty data folder, and of second ones."""
    cold: list[float] = []
    warm: list[float] = []
    for repetition in range(plan.repetitions):
        data_folder = folder / f"start-{repetition}"
        data_folder.mkdir()
        for times in (cold, warm):
            with run_everything(data_folder) as seconds:
                times.append(seconds)
        shutil.rmtree(data_folder)
    return [
        Row("first start, to the first answered request", "s", cold),
        Row("second start, to the first answered request", "s", warm, below=3),
    ]


def report_memory(processes: Sequence[float]) -> Row:
    """Return the row of the largest web process."""
    return Row("web process, resident memory after the run", "MiB", [max(processes)], below=120)


def read_memory(service: WebService) -> list[float]:
    """Return the resident memory of every web process in MiB."""
    return [process.memory_info().rss / MEBIBYTE for process in service.list_processes()]
