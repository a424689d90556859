"""Raising alerts: the two yardsticks, and POST /alerts in its forms, on the database that is full already."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

from benchmarks.load import Burst, LoadGenerator, repeat_interleaved
from benchmarks.paging import matching_policy
from benchmarks.plan import Plan
from benchmarks.report import Row, ratios
from benchmarks.seed import write_checkpoint
from benchmarks.server import DatabaseServer, WebService

HERE = Path(__file__).parent
BATCH_SIZE = 100
# Texts that lua/post.lua replaces in every request; any other device is one hot device.
RANDOM_DEVICE = "00000000-0000-4000-8000-000000000000"
COUNTING_NUMBER = "0000000000"
HOT_DEVICE = "3a9ccfce-9773-4c72-b905-6a850e961587"
HOT_TALKATIVE_DEVICE = "5d0f6a8e-1c55-4f0b-9a3e-0d9f4f2f7c11"
MESSAGE = "Temperature threshold exceeded"

INSERT, RAISE = "insert", "raise"
UNIQUE, HOT, TALKATIVE, BATCH = "create", "create-hot", "create-hot-distinct", "create-batch"
# With a policy that pages at once, whose work the worker does meanwhile, and one that pages in five minutes.
PAGED, PAGED_LATER = "create-paged", "create-paged-later"
POLICY_DELAYS = {PAGED: 0, PAGED_LATER: 5}
LABELS = {
    INSERT: "P: plain INSERT",
    RAISE: "R: statement that raises an alert",
    UNIQUE: "POST /alerts, unique devices",
    HOT: "POST /alerts, one hot device, same message",
    TALKATIVE: "POST /alerts, one hot device, distinct messages",
    PAGED: "POST /alerts, unique devices, with a policy that pages at once",
    PAGED_LATER: "POST /alerts, unique devices, with a policy that pages in 5 minutes",
    BATCH: f"POST /alerts/batch of {BATCH_SIZE}",
}


def measure_raising(
    plan: Plan, generator: LoadGenerator, server: DatabaseServer, service: WebService, folder: Path
) -> Mapping[str, list[Burst]]:
    """Return the bursts of every statement and request that raises alerts, by name."""
    bursts = _plan_bursts(plan, generator, server, service, folder)
    if not bursts:
        return {}
    warm_up = _plan_bursts(plan, generator, server, service, folder, seconds=plan.warm_up_seconds)
    write_checkpoint(server.large_url)
    for make in warm_up.values():
        make(0)
    return repeat_interleaved(bursts, plan.repetitions)


def report_raising(done: Mapping[str, list[Burst]]) -> list[Row]:
    """Return the rows of the table; a comparison stands where both sides were measured."""
    rows = []
    rates = {name: [burst.per_second for burst in bursts] for name, bursts in done.items()}
    if BATCH in rates:
        rates[BATCH] = [rate * BATCH_SIZE for rate in rates[BATCH]]
    comparisons: dict[str, tuple[str, str, float | None]] = {
        RAISE: (INSERT, "R / P", 0.3),
        UNIQUE: (RAISE, "POST /alerts / R (half is the aim)", 1 / 3),
        HOT: (UNIQUE, "hot device, same message / unique devices", 1 / 4),
        TALKATIVE: (UNIQUE, "hot device, distinct messages / unique devices", 1 / 4),
        PAGED: (UNIQUE, "with a policy that pages at once / without a policy", None),
        PAGED_LATER: (UNIQUE, "with a policy that pages in 5 minutes / without a policy", 0.8),
        BATCH: (UNIQUE, f"batch of {BATCH_SIZE} / single, in alerts", 5),
    }
    for name, values in rates.items():
        rows.append(Row(LABELS[name], "alerts/s", values))
        other, label, least = comparisons.get(name, ("", "", None))
        if other in rates:
            rows.append(Row(label, "", ratios(values, rates[other]), at_least=least))
    if UNIQUE in done:
        p50, p99 = ([getattr(b, field) for b in done[UNIQUE]] for field in ("p50_ms", "p99_ms"))
        rows.append(Row("POST /alerts, unique devices: p50", "ms", p50))
        rows.append(Row("POST /alerts, unique devices: p99", "ms", p99, below=50))
    return rows


def _plan_bursts(
    plan: Plan,
    generator: LoadGenerator,
    server: DatabaseServer,
    service: WebService,
    folder: Path,
    seconds: int | None = None,
) -> dict[str, Callable[[int], Burst]]:
    seconds = seconds or plan.raising_seconds
    bursts: dict[str, Callable[[int], Burst]] = {}
    for name in (INSERT, RAISE):
        bursts[name] = partial(_run_statement, generator, server.large_url, HERE / f"{name}.sql", seconds)
    bodies: dict[str, Any] = {
        UNIQUE: make_report(RANDOM_DEVICE),
        PAGED: make_report(RANDOM_DEVICE),
        PAGED_LATER: make_report(RANDOM_DEVICE),
        HOT: make_report(HOT_DEVICE),
        TALKATIVE: make_report(HOT_TALKATIVE_DEVICE, f"{MESSAGE} {COUNTING_NUMBER}"),
        BATCH: {"alerts": [make_report(RANDOM_DEVICE)] * BATCH_SIZE},
    }
    for name, body in bodies.items():
        path = "/api/v1/alerts/batch" if name == BATCH else "/api/v1/alerts"
        template = folder / f"{name}.json"
        template.write_text(json.dumps(body), encoding="utf-8")
        post = partial(_post, generator, service, path, template, seconds)
        bursts[name] = (
            partial(_post_paged, post, server.large_url, POLICY_DELAYS[name]) if name in POLICY_DELAYS else post
        )
    return {name: make for name, make in bursts.items() if plan.includes(name)}


def _run_statement(generator: LoadGenerator, url: str, script: Path, seconds: int, _repetition: int) -> Burst:
    return generator.run_statement(url, script, seconds)


def _post(
    generator: LoadGenerator, service: WebService, path: str, template: Path, seconds: int, repetition: int
) -> Burst:
    # All of these are part of the seed: no two bursts may use the same devices.
    seed = str(crc32(f"{template.stem} {seconds} {repetition}".encode()))
    return generator.send_requests(service, "post.lua", path, [path, str(template), seed], seconds)


def _post_paged(post: Callable[[int], Burst], url: str, delay_minutes: int, repetition: int) -> Burst:
    with matching_policy(url, delay_minutes):
        return post(repetition)


def make_report(device_id: str, message: str = MESSAGE) -> dict[str, Any]:
    """Return the body of POST /alerts."""
    return {
        "device_id": device_id,
        "severity": "critical",
        "message": message,
        "metric": "temperature",
        "metadata": {"temperature": 85.5},
    }
