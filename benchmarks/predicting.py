"""Anomaly models: readings over the API, one by one and in batches; scoring alone; memory; training."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiosql
import numpy as np

from benchmarks.load import CONNECTIONS, THREADS, Burst, LoadGenerator, repeat_interleaved
from benchmarks.ml_scoring import START, TRAINING_ROWS, make_stream, time_scoring
from benchmarks.plan import Plan
from benchmarks.raising import RANDOM_DEVICE, make_report
from benchmarks.report import Row, ratios
from benchmarks.seed import connect, write_checkpoint
from benchmarks.server import BenchmarkError, DatabaseServer, WebService, plain_environment
from foundation.processes import await_condition
from ml.algorithms import DEFAULT_ALGORITHM

# The yardstick of predict: reports of alerts, measured in turn with it.
ALERTS, PREDICT, BATCH = "predict-alerts", "predict", "predict-batch"
SCORE, HOT_MODELS, TRAIN = "score", "hot-models", "train"
NAMES = (ALERTS, PREDICT, BATCH, SCORE, HOT_MODELS, TRAIN)
BATCH_SIZE = 1_000
# A connection each: a batch is never overtaken by the next one of the same series.
GATEWAYS = CONNECTIONS
# Series of their own: else the requests would begin with learning what other processes took in by the batch.
METRICS = {PREDICT: "temperature", BATCH: "vibration"}
STEP_SECONDS = 300
TRAINING_SECONDS = 600.0
LOOK_SECONDS = 0.2

_queries = aiosql.from_path(Path(__file__).with_suffix(".sql"), "psycopg2", mandatory_parameters=False)


def measure_predicting(plan: Plan, server: DatabaseServer, folder: Path) -> tuple[list[Row], Mapping[str, list[Burst]]]:
    """Return the rows of the anomaly models and the bursts behind them, measured on an empty database."""
    rows: list[Row] = []
    bursts: Mapping[str, list[Burst]] = {}
    if any(plan.includes(name) for name in (ALERTS, PREDICT, BATCH, TRAIN)):
        with WebService(server.small_url, folder) as service:
            bursts = _measure_requests(plan, LoadGenerator(server), server, service, folder)
            rows += _report_requests(plan, bursts)
            if plan.includes(TRAIN):
                taken = [_time_training(service, plan.training_rows) for _ in range(plan.repetitions)]
                rows.append(Row(f"POST /ml/models/train, {plan.training_rows:,} rows, until trained", "s", taken))
    if plan.includes(SCORE):
        rows += _measure_scoring(plan)
    if plan.includes(HOT_MODELS):
        memory = [_read_memory_of(plan.hot_models)]
        rows.append(Row(f"web process with {plan.hot_models:,} hot models, resident memory", "MiB", memory))
    return rows, bursts


def _measure_requests(
    plan: Plan, generator: LoadGenerator, server: DatabaseServer, service: WebService, folder: Path
) -> Mapping[str, list[Burst]]:
    bursts: dict[str, Callable[[int], Burst]] = {}
    if plan.includes(ALERTS):
        template = folder / "alert.json"
        template.write_text(json.dumps(make_report(RANDOM_DEVICE)), encoding="utf-8")
        bursts[ALERTS] = partial(_post_alerts, plan, generator, service, template)
    for name, metric in METRICS.items():
        if plan.includes(name):
            _train_models(service, metric, plan.watched_series)
            bursts[name] = partial(_post_readings, plan, generator, server, service, folder, name)
    write_checkpoint(server.small_url)
    for make in bursts.values():
        make(0)
    return repeat_interleaved(bursts, plan.repetitions)


def _report_requests(plan: Plan, done: Mapping[str, list[Burst]]) -> list[Row]:
    rows = []
    rates = {name: [burst.per_second for burst in bursts] for name, bursts in done.items()}
    if ALERTS in done:
        rows.append(Row("POST /alerts, unique devices, beside predict", "alerts/s", rates[ALERTS]))
    if PREDICT in done:
        label = f"POST /ml/predict, {plan.watched_series} models"
        rows.append(Row(label, "readings/s", rates[PREDICT]))
        if ALERTS in done:
            rows.append(Row("POST /ml/predict / POST /alerts", "", ratios(rates[PREDICT], rates[ALERTS]), at_least=0.4))
        p50, p99 = ([getattr(burst, name) for burst in done[PREDICT]] for name in ("p50_ms", "p99_ms"))
        rows += [Row(f"{label}: p50", "ms", p50), Row(f"{label}: p99", "ms", p99, below=100)]
    if BATCH in done:
        many = [rate * BATCH_SIZE for rate in rates[BATCH]]
        rows.append(Row(f"POST /ml/predict/batch of {BATCH_SIZE:,}", "readings/s", many))
        if PREDICT in done:
            label = f"batch of {BATCH_SIZE:,} / single, in readings"
            rows.append(Row(label, "", ratios(many, rates[PREDICT]), at_least=10))
    return rows


def _post_alerts(plan: Plan, generator: LoadGenerator, service: WebService, template: Path, repetition: int) -> Burst:
    seconds = plan.raising_seconds if repetition else plan.warm_up_seconds
    path = "/api/v1/alerts"
    return generator.send_requests(service, "post.lua", path, [path, str(template), str(repetition)], seconds)


def _post_readings(
    plan: Plan,
    generator: LoadGenerator,
    server: DatabaseServer,
    service: WebService,
    folder: Path,
    name: str,
    repetition: int,
) -> Burst:
    is_batch, metric, file = name == BATCH, METRICS[name], folder / f"{name}.txt"
    # The warm-up is no shorter: in it every web process has to load every model.
    seconds = plan.batch_seconds if is_batch else plan.raising_seconds
    path = "/api/v1/ml/predict/batch" if is_batch else "/api/v1/ml/predict"
    with closing(connect(server.small_url)) as connection:
        # Each series goes on where it stopped: a gap would empty its windows, and scoring look cheaper than it is.
        positions = [
            (row["device_id"], TRAINING_ROWS + row["last_number"])
            for row in _queries.list_positions(connection, metric=metric)
        ]
    file.write_text("".join(f"{device_id} {row}\n" for device_id, row in positions), encoding="utf-8")
    size, threads = (BATCH_SIZE, GATEWAYS) if is_batch else (1, THREADS)
    numbers = (threads, size, int(START.timestamp()), STEP_SECONDS, repetition)
    arguments = [path, str(file), metric, *map(str, numbers)]
    return generator.send_requests(service, "predict.lua", path, arguments, seconds, threads)


def _train_models(service: WebService, metric: str, models: int) -> None:
    times, values = make_stream(TRAINING_ROWS)
    rows = [{"timestamp": at.isoformat(), "value": value} for at, value in zip(times, values, strict=True)]
    with ThreadPoolExecutor(THREADS) as pool:
        trained = pool.map(lambda _: _train(service, metric, rows), range(models))
        if any(model["status"] != "ready" for model in trained):
            raise BenchmarkError("a model was not trained within its request")


def _train(service: WebService, metric: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    body = {"device_id": str(uuid.uuid4()), "metric": metric, "rows": rows}
    return _call(service, "POST", "/api/v1/ml/models/train", body)


def _time_training(service: WebService, count: int) -> float:
    """Return the seconds from the request to the moment at which the model is ready; the worker trains it."""
    times, values = make_stream(count)
    rows = [{"timestamp": at.isoformat(), "value": value} for at, value in zip(times, values, strict=True)]
    begun_at = time.perf_counter()
    model = _train(service, "pressure", rows)

    def has_ended() -> bool:
        # To ask without a pause would take the processor from the training.
        time.sleep(LOOK_SECONDS)
        model.update(_call(service, "GET", f"/api/v1/ml/models/{model['model_id']}"))
        return bool(model["status"] != "training")

    if not await_condition(has_ended, TRAINING_SECONDS) or model["status"] != "ready":
        raise BenchmarkError(f"a training of {count:,} rows is {model['status']}: {model['error']}")
    return time.perf_counter() - begun_at


def _measure_scoring(plan: Plan) -> list[Row]:
    taken = [1000 * time_scoring(DEFAULT_ALGORITHM, plan.scored_readings)[1] for _ in range(plan.repetitions)]
    p50, p99 = ([float(np.percentile(times, share)) for times in taken] for share in (50, 99))
    return [Row("scoring alone: p50", "ms", p50), Row("scoring alone: p99", "ms", p99, below=1)]


def _read_memory_of(models: int) -> float:
    """Return the memory of a process of its own with so many models."""
    command = [sys.executable, "-P", "-m", "benchmarks.hot_models", str(models)]
    finished = subprocess.run(command, env=dict(plain_environment()), capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise BenchmarkError(f"hot models failed:\n{finished.stderr}")
    return float(finished.stdout)


def _call(service: WebService, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {service.make_token('engineer')}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status >= http.client.BAD_REQUEST:
        raise BenchmarkError(f"{method} {path} answers {response.status}: {answer[:500]!r}")
    document: dict[str, Any] = json.loads(answer)
    return document
