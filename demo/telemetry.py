"""Readings of one machine from a ``timestamp,value`` file, and the limits that make some of them alerts."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from foundation.errors import SettingsError

TIMESTAMP, VALUE = "timestamp", "value"
# The service refuses what lies further ahead.
LONGEST_AHEAD = timedelta(minutes=5)
# Without the dashes `fromisoformat` would read some counts of seconds as dates of the Middle Ages.
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class Reading:
    """One value, with its instant in UTC and the line of the file that it stands in."""

    line: int
    at: datetime
    value: float


@dataclass(frozen=True, slots=True)
class RowFault:
    """A row that is no reading, and why."""

    line: int
    message: str


@dataclass(frozen=True)
class Telemetry:
    """What a file holds, in the order of the file."""

    readings: tuple[Reading, ...]
    faults: tuple[RowFault, ...]


@dataclass(frozen=True)
class Crossing:
    """The side on which a value lies outside, and the limit there."""

    side: str
    limit: float

    def describe(self, metric: str, unit: str = "") -> str:
        """Return the sentence for people; it is the same for every value on this side, so duplicates are found."""
        return f"{metric} {self.side} {show_number(self.limit)}{unit and ' ' + unit}"


@dataclass(frozen=True)
class Limits:
    """What is normal: from ``low`` to ``high``, both included; None leaves a side open."""

    high: float | None = None
    low: float | None = None

    @classmethod
    def of(cls, high: float | None, low: float | None) -> Limits:
        """Return the limits that a command line gives.

        Raises:
            SettingsError: there is none, or they leave nothing between them.
        """
        if high is None and low is None:
            raise SettingsError("--high, --low: give at least one, or nothing is ever an alert")
        if high is not None and low is not None and low >= high:
            raise SettingsError(f"--low: must be below --high ({show_number(low)} is not below {show_number(high)})")
        return cls(high, low)

    def find_crossing(self, value: float) -> Crossing | None:
        """Return where a value lies outside, None for a normal one."""
        if self.high is not None and value > self.high:
            return Crossing("above", self.high)
        if self.low is not None and value < self.low:
            return Crossing("below", self.low)
        return None

    def describe(self) -> str:
        """Return the limits for people: ``above 100 or below 60``."""
        sides = (("above", self.high), ("below", self.low))
        return " or ".join(f"{side} {show_number(limit)}" for side, limit in sides if limit is not None)


def show_number(value: float) -> str:
    """Return a number as a person would write it: 100 rather than 100.0, and never rounded."""
    return str(int(value)) if value % 1 == 0 and abs(value) < 1e15 else repr(value)


def read_telemetry(path: Path, now: datetime) -> Telemetry:
    """Return the readings of a file with the columns ``timestamp`` and ``value``; others are passed over.

    A time without an offset is UTC. A row without a time or a finite number, or from later than ``now`` (and a
    little, as the service has it), becomes a fault instead of a reading.

    Raises:
        SettingsError: the file cannot be read, has no such header, or holds no reading at all.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_parse_rows(csv.reader(file), now + LONGEST_AHEAD))
    except OSError as error:
        raise SettingsError(f"--csv: {path} cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"--csv: {path} is no CSV file in UTF-8 ({error})") from error
    except _NoHeader as error:
        raise SettingsError(f"--csv: {path} does not begin with a header that names timestamp and value") from error
    readings = tuple(row for row in rows if isinstance(row, Reading))
    faults = tuple(row for row in rows if isinstance(row, RowFault))
    if not readings:
        first = f"; line {faults[0].line}: {faults[0].message}" if faults else ""
        raise SettingsError(f"--csv: {path} holds no reading{first}")
    return Telemetry(readings, faults)


class _NoHeader(Exception):
    pass


def _parse_rows(rows: Iterable[list[str]], latest_at: datetime) -> Iterator[Reading | RowFault]:
    lines = enumerate(rows, start=1)
    _, header = next(lines, (0, []))
    names = [name.strip().lower() for name in header]
    if TIMESTAMP not in names or VALUE not in names:
        raise _NoHeader
    time_column, value_column = names.index(TIMESTAMP), names.index(VALUE)
    for line, row in lines:
        if not row:
            continue
        try:
            if len(row) <= max(time_column, value_column):
                raise ValueError("has too few columns")
            yield Reading(line, parse_time(row[time_column], latest_at), parse_value(row[value_column]))
        except ValueError as error:
            yield RowFault(line, str(error))


def parse_time(text: str, latest_at: datetime) -> datetime:
    """Return an ISO 8601 time in UTC.

    Raises:
        ValueError: it is none, or it lies after ``latest_at``.
    """
    text = text.strip()
    try:
        at = datetime.fromisoformat(text) if _DATE.match(text) else None
        at = at and (at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC))
    except (ValueError, OverflowError):
        at = None
    if at is None:
        raise ValueError(f"{text[:40]!r} is no time like 2026-03-02 08:00:00")
    if at > latest_at:
        raise ValueError(f"{text} lies in the future")
    return at


def parse_value(text: str) -> float:
    """Return a finite number.

    Raises:
        ValueError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text.strip()[:40]!r} is no finite number")
    return value
