"""Labelled windows: the times in which a file of readings holds a real fault, as somebody who knows has marked them."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foundation.errors import SettingsError


@dataclass(frozen=True)
class Window:
    """From the first to the last instant of a fault, both included."""

    start_at: datetime
    end_at: datetime

    def holds(self, at: datetime) -> bool:
        """Return whether an instant lies within."""
        return self.start_at <= at <= self.end_at


def read_windows(path: Path, readings: Path) -> tuple[Window, ...]:
    """Return the windows that a file of labels has for a file of readings, in order of time.

    It is JSON in one of two forms: a manifest, ``{"series": [{"path": "press.csv", "windows": [[first, last], …]},
    …]}``, or an object of such windows by file name, ``{"press.csv": [[first, last], …]}``. The readings are found
    by their file name; in a manifest also by their content, if they lie there under another name. Times without
    an offset are UTC.

    Raises:
        SettingsError: the file cannot be read, is of neither form, or does not know the readings.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = _find_windows(document, path.parent, readings)
        windows = None if found is None else sorted(map(_parse_window, found), key=lambda window: window.start_at)
    except OSError as error:
        raise SettingsError(f"--labels: {path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(f"--labels: {path} is no manifest and no object of windows by file name") from error
    if windows is None:
        raise SettingsError(f"--labels: {path} says nothing of {readings.name}")
    return tuple(windows)


def _find_windows(document: Any, folder: Path, readings: Path) -> Iterable[Any] | None:
    if "series" not in document:
        named: dict[str, Iterable[Any]] = {Path(name).name: windows for name, windows in document.items()}
        return named.get(readings.name)
    series: list[Mapping[str, Any]] = document["series"]
    for entry in series:
        if Path(entry["path"]).name == readings.name:
            return _windows_of(entry)
    for entry in series:
        other = folder / entry["path"]
        if other.is_file() and filecmp.cmp(other, readings, shallow=False):
            return _windows_of(entry)
    return None


def _windows_of(entry: Mapping[str, Any]) -> Iterable[Any]:
    windows: Iterable[Any] = entry["windows"]
    return windows


def _parse_window(pair: Any) -> Window:
    start_at, end_at = map(_parse_time, pair)
    if end_at < start_at:
        raise ValueError("a window ends before it begins")
    return Window(start_at, end_at)


def _parse_time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
