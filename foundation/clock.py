"""The one Python clock.

Domain code never asks the operating system for the time: it is given a clock, so that tests and simulations
can stand still or run fast. The SQL counterpart is ``app_now()``; ``Database`` carries a frozen clock over to it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """The wall clock, in UTC."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        return datetime.now(UTC)

    def frozen_at(self) -> datetime | None:
        """Return the instant at which this clock stands still, or None for a clock that runs."""
        return None


class FrozenClock(Clock):
    """A clock that moves only when told to."""

    def __init__(self, at: datetime) -> None:
        if at.tzinfo is None:
            raise ValueError("a clock needs an instant with a time zone")
        self._at = at.astimezone(UTC)

    def now(self) -> datetime:
        """Return the instant at which the clock stands."""
        return self._at

    def frozen_at(self) -> datetime | None:
        """Return the instant at which the clock stands."""
        return self._at

    def advance(self, step: timedelta) -> None:
        """Move the clock forward by ``step``."""
        self._at += step
