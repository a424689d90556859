"""Sensors for tests of the models: a daily wave, noise, and faults where they are wanted."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

STREAM_START = datetime(2026, 1, 5, tzinfo=UTC)
STEP = timedelta(minutes=5)
METRIC = "temperature"


def make_values(rows: int, seed: int = 1) -> list[float]:
    """A quiet sensor."""
    noise = np.random.default_rng(seed).normal(0.0, 0.5, rows)
    wave = 5.0 * np.sin(np.arange(rows) * 2.0 * math.pi / 288.0)
    values: list[float] = (60.0 + wave + noise).tolist()
    return values


def make_times(rows: int, start: int = 0) -> list[datetime]:
    """Times five minutes apart."""
    return [STREAM_START + STEP * row for row in range(start, start + rows)]


def make_rows(rows: int, seed: int = 1) -> list[dict[str, Any]]:
    """Training rows as the API takes them."""
    pairs = zip(make_times(rows), make_values(rows, seed), strict=True)
    return [{"timestamp": at.isoformat(), "value": value} for at, value in pairs]
