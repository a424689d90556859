"""Scoring alone: microseconds a reading, size of the state, sealing, memory of many models, training of 100,000 rows.

python -m benchmarks.ml_scoring [--algorithm NAME] [--readings N] [--models N]
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from ml.algorithms import ALGORITHMS, DEFAULT_ALGORITHM
from ml.serialization import ModelIdentity, open_model, seal_model
from ml_model_manager import MLModelManager

START = datetime(2020, 1, 6, tzinfo=UTC)
OWNER = ModelIdentity(1, "BENCH-1", "temperature")
KEY = b"benchmark"
TRAINING_ROWS = 750


def make_stream(rows: int) -> tuple[list[datetime], list[float]]:
    """A sensor of five minutes with a daily wave, noise and now and then a spike."""
    generator = np.random.default_rng(7)
    wave = 5.0 * np.sin(np.arange(rows) * 2.0 * math.pi / 288.0)
    spikes = np.where(generator.random(rows) < 0.001, 30.0, 0.0)
    values = 60.0 + wave + generator.normal(0.0, 0.5, rows) + spikes
    return [START + timedelta(minutes=5 * row) for row in range(rows)], values.tolist()


def time_scoring(algorithm: str, readings: int) -> tuple[MLModelManager, NDArray[np.float64]]:
    """Return a model that has scored some readings, and the seconds that each took."""
    times, values = make_stream(TRAINING_ROWS + readings)
    manager = MLModelManager(algorithm=algorithm)
    manager.fit(times[:TRAINING_ROWS], values[:TRAINING_ROWS])
    taken = np.empty(readings)
    for row in range(readings):
        before = time.perf_counter()
        manager.predict_one(times[TRAINING_ROWS + row], values[TRAINING_ROWS + row])
        taken[row] = time.perf_counter() - before
    return manager, taken


def measure_scoring(algorithm: str, readings: int) -> MLModelManager:
    manager, taken = time_scoring(algorithm, readings)
    middle, high, top = (float(share) * 1e6 for share in np.percentile(taken, [50, 99, 100]))
    print(f"{algorithm}: {readings} readings: median {middle:.0f} us, p99 {high:.0f} us, largest {top:.0f} us")
    return manager


def measure_keeping(manager: MLModelManager) -> None:
    before = time.perf_counter()
    sealed = seal_model(manager.detector, OWNER, KEY)
    between = time.perf_counter()
    open_model(sealed, OWNER, KEY)
    after = time.perf_counter()
    sealing, opening = (between - before) * 1e3, (after - between) * 1e3
    print(f"state: {len(sealed) / 1000:.0f} kB; seal {sealing:.1f} ms, open {opening:.1f} ms")


def measure_memory(algorithm: str, models: int) -> None:
    times, values = make_stream(TRAINING_ROWS)
    MLModelManager(algorithm=algorithm).fit(times, values)  # imports, pools: not to be counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = [MLModelManager(algorithm=algorithm) for _ in range(models)]
    for manager in kept:
        manager.fit(times, values)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"memory: {len(kept)} models after {TRAINING_ROWS} rows each: {grown / 1024:.0f} MiB")


def measure_training(algorithm: str, rows: int) -> None:
    times, values = make_stream(rows)
    before = time.perf_counter()
    MLModelManager(algorithm=algorithm).fit(times, values)
    taken = time.perf_counter() - before
    print(f"training: {rows} rows in {taken:.1f} s ({rows / taken:.0f} rows/s)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ml_scoring", description=__doc__)
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), default=DEFAULT_ALGORITHM)
    parser.add_argument("--readings", type=int, default=20_000)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--training-rows", type=int, default=100_000)
    arguments = parser.parse_args()
    measure_memory(arguments.algorithm, arguments.models)  # first: it reads how far the peak has grown
    measure_keeping(measure_scoring(arguments.algorithm, arguments.readings))
    measure_training(arguments.algorithm, arguments.training_rows)


if __name__ == "__main__":
    main()
