"""Reading and acknowledging, with many alerts present and with few: what does not grow with the table."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from benchmarks.load import CONNECTIONS, THREADS, Burst, LoadGenerator, repeat_interleaved
from benchmarks.plan import Plan
from benchmarks.report import Row, ratios
from benchmarks.seed import list_fresh_ids, sample_alert_ids, sample_devices
from benchmarks.server import BenchmarkError, WebService

ALERTS = "/api/v1/alerts"
PAGE_SIZE = 50
DEEP_PAGE = 2_000
SAMPLE_SIZE = 2_000
ACKNOWLEDGE = "acknowledge"
FIXED_PATHS = {
    "list": ALERTS,
    "list-class": f"{ALERTS}?severity=critical,high&state=new,acknowledged",
    "groups": "/api/v1/groups",
    "stats": "/api/v1/groups/stats",
}
LABELS = {
    "list": "GET /alerts, first page",
    "list-class": "GET /alerts, by severity and state",
    "list-device": "GET /alerts, by device and dates",
    "list-deep": "GET /alerts, page 2,000 by cursor",
    "get": "GET /alerts/{id}",
    "groups": "GET /groups",
    "stats": "GET /groups/stats",
    ACKNOWLEDGE: "POST /alerts/{id}/acknowledge",
}


@dataclass(frozen=True)
class Site:
    """A database of some size with the service on it."""

    name: str
    rows: int
    url: str
    service: WebService
    folder: Path


def measure_reading(plan: Plan, generator: LoadGenerator, sites: Sequence[Site]) -> Mapping[str, list[Burst]]:
    """Return the bursts of every request on every site, named ``request@site``."""
    bursts: dict[str, Callable[[int], Burst]] = {}
    for name in LABELS:
        if plan.includes(name):
            for site in sites:
                bursts[f"{name}@{site.name}"] = _plan_burst(plan, generator, site, name)
    for make in bursts.values():
        make(0)
    return repeat_interleaved(bursts, plan.repetitions)


def report_reading(done: Mapping[str, list[Burst]], large: Site, small: Site) -> list[Row]:
    """Return two rows for every request: its slow answers, and what the size of the table does to the usual ones."""
    rows = []
    for name, label in LABELS.items():
        if f"{name}@{large.name}" in done:
            many, few = done[f"{name}@{large.name}"], done[f"{name}@{small.name}"]
            p50_many, p50_few = [b.p50_ms or 0 for b in many], [b.p50_ms or 0 for b in few]
            rows.append(Row(f"{label}: p99", "ms", [b.p99_ms or 0 for b in many], below=100))
            rows.append(Row(f"{label}: p50", "ms", p50_many))
            rows.append(Row(f"{label}: p50 against {small.rows:,} alerts", "", ratios(p50_many, p50_few), at_most=2))
    return rows


def _plan_burst(plan: Plan, generator: LoadGenerator, site: Site, name: str) -> Callable[[int], Burst]:
    if name == ACKNOWLEDGE:
        ids = list_fresh_ids(site.url)
        random.Random(1).shuffle(ids)
        return partial(_acknowledge, plan, generator, site, ids)
    file = site.folder / f"{name}.{site.name}.txt"
    file.write_text("\n".join(_list_paths(site, name)) + "\n", encoding="utf-8")
    return partial(_read, plan, generator, site, file)


def _read(plan: Plan, generator: LoadGenerator, site: Site, file: Path, repetition: int) -> Burst:
    seconds = plan.reading_seconds if repetition else plan.warm_up_seconds
    return generator.send_requests(site.service, "get.lua", "/", [str(file), str(repetition)], seconds)


def _acknowledge(plan: Plan, generator: LoadGenerator, site: Site, ids: Sequence[int], repetition: int) -> Burst:
    file = site.folder / f"{ACKNOWLEDGE}.{site.name}.txt"
    mine = ids[repetition * plan.acknowledgements : (repetition + 1) * plan.acknowledgements]
    file.write_text("".join(f"{alert_id}\n" for alert_id in mine), encoding="utf-8")
    arguments = [str(file), str(CONNECTIONS // THREADS)]
    return generator.send_requests(site.service, "acknowledge.lua", "/", arguments, plan.reading_seconds)


def _list_paths(site: Site, name: str) -> list[str]:
    """Return the addresses that a request takes in turn."""
    if name == "list-device":
        return _list_device_paths(site)
    if name == "list-deep":
        return [_find_deep_page(site)]
    if name == "get":
        return [f"{ALERTS}/{alert_id}" for alert_id in sample_alert_ids(site.url, SAMPLE_SIZE)]
    return [FIXED_PATHS[name]]


def _list_device_paths(site: Site) -> list[str]:
    chance, now = random.Random(2), datetime.now(UTC)
    paths = []
    for device_id in sample_devices(site.url, SAMPLE_SIZE):
        start = now - timedelta(days=chance.uniform(7, 30))
        dates = {"start_date": start.isoformat(), "end_date": (start + timedelta(days=7)).isoformat()}
        paths.append(f"{ALERTS}?{urlencode({'device_id': device_id, **dates})}")
    return paths


def _find_deep_page(site: Site) -> str:
    """Return the address of page 2,000 by cursor; of the page in the middle where there are fewer."""
    pages = site.rows // PAGE_SIZE
    before = DEEP_PAGE - 1 if pages >= DEEP_PAGE else pages // 2
    query = f"{ALERTS}?page={before}&limit={PAGE_SIZE}"
    connection = http.client.HTTPConnection(urlsplit(site.service.url).netloc, timeout=60)
    try:
        connection.request("GET", query, headers={"Authorization": f"Bearer {site.service.token}"})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise BenchmarkError(f"{query} answers {response.status}: {answer[:500]!r}")
    return f"{ALERTS}?{urlencode({'limit': PAGE_SIZE, 'cursor': json.loads(answer)['next_cursor']})}"
