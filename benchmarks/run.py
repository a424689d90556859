"""``python -m benchmarks.run``: measures the product and says which targets it meets.

Everything is measured in one run against one embedded PostgreSQL server with its production settings, in a folder that
is removed afterwards. A missed target is a result (exit code 0); something that broke is not (exit code 1).
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack, chdir
from datetime import UTC, datetime
from pathlib import Path

import psycopg2

from benchmarks.load import Burst, LoadGenerator, find_wrk
from benchmarks.paging import NAMES as PAGING
from benchmarks.paging import measure_paging
from benchmarks.plan import Plan, make_plan
from benchmarks.predicting import NAMES as PREDICTING
from benchmarks.predicting import measure_predicting
from benchmarks.raising import LABELS as RAISING
from benchmarks.raising import measure_raising, report_raising
from benchmarks.reading import LABELS as READING
from benchmarks.reading import Site, measure_reading, report_reading
from benchmarks.report import Row, describe_machine, print_report, write_report
from benchmarks.seed import seed_history
from benchmarks.server import BenchmarkError, DatabaseServer, WebService, make_folder
from benchmarks.starting import START, measure_starts, read_memory, report_memory
from foundation.errors import SettingsError


def main() -> int:
    """Measure, print, write; return the exit code."""
    arguments = _read_arguments()
    # A run that is stopped cleans up as one that is interrupted does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = make_plan(is_quick=arguments.quick, rows=arguments.rows, only=tuple(arguments.only))
    try:
        find_wrk()
        folder = make_folder()
        try:
            _measure(plan, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except (BenchmarkError, SettingsError, psycopg2.Error) as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("benchmarks: interrupted\n")
        return 1
    return 0


def _measure(plan: Plan, folder: Path) -> None:
    began_at = time.monotonic()
    circumstances = describe_machine()
    rows: list[Row] = []
    bursts: dict[str, list[Burst]] = {}
    # A .env file of whoever calls is none of ours.
    with chdir(folder):
        if any(plan.includes(name) for name in (*RAISING, *READING)):
            rows, bursts = _measure_service(plan, folder)
        if any(plan.includes(name) for name in PAGING):
            _say("paging")
            own_folder = folder / "paging"
            own_folder.mkdir()
            with DatabaseServer(own_folder) as server:
                rows += measure_paging(plan, server.small_url, own_folder)
        if any(plan.includes(name) for name in PREDICTING):
            _say("predicting")
            own_folder = folder / "predicting"
            own_folder.mkdir()
            with DatabaseServer(own_folder) as server:
                more_rows, more_bursts = measure_predicting(plan, server, own_folder)
            rows, bursts = [*rows, *more_rows], {**bursts, **more_bursts}
        if plan.includes(START):
            _say("starting")
            rows += measure_starts(plan, folder)
    circumstances |= {
        "alerts": plan.large_rows,
        "repetitions": plan.repetitions,
        "seconds": f"{plan.raising_seconds} s a burst of writing, {plan.batch_seconds} s of batches of readings,"
        f" {plan.reading_seconds} s of reading",
        "took": f"{time.monotonic() - began_at:.0f} s",
    }
    print_report(rows, circumstances, bursts)
    path = write_report(rows, circumstances, bursts, datetime.now(UTC))
    sys.stdout.write(f"Written to {path}\n")


def _measure_service(plan: Plan, folder: Path) -> tuple[list[Row], dict[str, list[Burst]]]:
    with DatabaseServer(folder) as server, ExitStack() as stack:
        large, small = _open_sites(plan, server, folder, stack)
        generator = LoadGenerator(server)
        # Reading first: the alerts that are raised afterwards would add to those present.
        _say("reading and acknowledging")
        reading = measure_reading(plan, generator, [large, small])
        _say("raising alerts")
        raising = measure_raising(plan, generator, server, large.service, folder)
        memory = report_memory(read_memory(large.service))
    return [*report_raising(raising), *report_reading(reading, large, small), memory], {**raising, **reading}


def _open_sites(plan: Plan, server: DatabaseServer, folder: Path, stack: ExitStack) -> tuple[Site, Site]:
    sites = []
    for name, url, rows in (("large", server.large_url, plan.large_rows), ("small", server.small_url, plan.small_rows)):
        began_at = time.monotonic()
        counts = seed_history(url, rows, plan.fresh_alerts)
        described = ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in counts.items())
        _say(f"seeded in {time.monotonic() - began_at:.0f} s: {described}")
        site_folder = folder / name
        site_folder.mkdir()
        service = stack.enter_context(WebService(url, site_folder))
        sites.append(Site(name, rows, url, service, site_folder))
    return sites[0], sites[1]


def _read_arguments() -> Namespace:
    parser = ArgumentParser(prog="benchmarks", description="Measures the product; see docs/benchmarks.md")
    parser.add_argument("--quick", action="store_true", help="small sizes and one repetition: about a minute")
    parser.add_argument("--rows", type=int, help="alerts in the large database")
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="measure what the pattern names, as 'create*'"
    )
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
