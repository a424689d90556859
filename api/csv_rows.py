"""Training rows from a CSV file."""

from __future__ import annotations

import csv
import io
import math
from datetime import UTC, datetime

import numpy as np

from foundation.errors import Fault, ValidationFailed
from ml.readings import TrainingRows
from ml_model_manager import MOST_ROWS

COLUMNS = ("timestamp", "value")
NO_VALUE = {"", "nan", "null", "none"}
MOST_FAULTS = 20


def parse_training_csv(content: bytes) -> TrainingRows:
    """Return the rows of a CSV file whose first line names a `timestamp` and a `value` column; others are passed over.

    Raises:
        ValidationFailed: it is no such file; the first 20 wrong lines are named (`line 7`).
    """
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        header = [name.strip().lower() for name in next(reader, [])]
        if not set(COLUMNS) <= set(header):
            raise ValidationFailed.of("", "must name the columns timestamp and value in its first line")
        places = (header.index("timestamp"), header.index("value"))
        return _read_rows(reader, places)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValidationFailed.of("", f"is no CSV file in UTF-8: {error}") from error


def _read_rows(reader: csv._reader, places: tuple[int, int]) -> TrainingRows:  # type: ignore[name-defined]
    seconds, values, faults = [], [], []
    for line in reader:
        if not line:
            continue
        try:
            seconds.append(_read_time(line[places[0]]))
            values.append(_read_value(line[places[1]]))
        except (ValueError, IndexError, OverflowError) as error:
            reason = "has too few columns" if isinstance(error, IndexError) else str(error)
            faults.append(Fault(f" line {reader.line_num}", reason))
            if len(faults) == MOST_FAULTS:
                break
    if faults:
        raise ValidationFailed(faults)
    if not 0 < len(seconds) <= MOST_ROWS:
        raise ValidationFailed.of("", f"must hold 1 to {MOST_ROWS:,} rows, but holds {len(seconds):,}")
    return TrainingRows(np.array(seconds), np.array(values))


def _read_time(text: str) -> float:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(f"timestamp {text[:40]!r} is no ISO 8601 time") from error
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _read_value(text: str) -> float:
    if text.strip().lower() in NO_VALUE:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"value {text[:40]!r} is no number") from error
