"""How much is measured: the full run for the record, the quick one to try things out."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

FULL_ROWS = 1_000_000
QUICK_ROWS = 20_000


@dataclass(frozen=True)
class Plan:
    """Sizes and durations of one run; ``only`` are patterns of names, empty for everything."""

    large_rows: int = FULL_ROWS
    small_rows: int = 10_000
    repetitions: int = 5
    raising_seconds: int = 6
    reading_seconds: int = 3
    warm_up_seconds: int = 2
    batch_seconds: int = 15
    acknowledgements: int = 600
    paging_seconds: int = 10
    due_timers: int = 100_000
    watched_series: int = 200
    hot_models: int = 1_000
    scored_readings: int = 20_000
    training_rows: int = 100_000
    only: tuple[str, ...] = ()

    @property
    def fresh_alerts(self) -> int:
        """How many alerts are set aside to be acknowledged: some for each repetition and for the warm-up."""
        return self.acknowledgements * (self.repetitions + 1)

    def includes(self, name: str) -> bool:
        """Return whether a measurement is wanted."""
        return not self.only or any(fnmatch(name, pattern) for pattern in self.only)


def make_plan(*, is_quick: bool, rows: int | None, only: tuple[str, ...]) -> Plan:
    """Return the plan for the command line's words."""
    if is_quick:
        # As many training rows as are left to the worker: fewer are trained within the request.
        return Plan(rows or QUICK_ROWS, 2_000, 1, 2, 1, 1, 2, 150, 3, 2_000, 20, 100, 2_000, 50_100, only)
    return Plan(large_rows=rows or FULL_ROWS, only=only)
