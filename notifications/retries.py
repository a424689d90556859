"""When a page that did not get through is tried again: five attempts within two minutes."""

from __future__ import annotations

MOST_ATTEMPTS = 5
GIVE_UP_SECONDS = 120.0
# Doubled each time. Five attempts of 10 s each and the longest pauses (1.5 times 3 + 6 + 12 + 24 s) take 117.5 s.
FIRST_PAUSE_SECONDS = 3.0


def plan_retry(
    attempts: int, seconds_left: float, retry_after_seconds: float | None = None, jitter: float = 0.5
) -> float | None:
    """Return the seconds until the next attempt after ``attempts`` of them, None where there is to be none.

    ``seconds_left`` is what remains of the two minutes, ``jitter`` a random number in [0, 1) that keeps the pages of
    one outage from coming back all at once. A pause that the other side asks for is kept; where it is longer than
    what remains, somebody else had better be paged.
    """
    if attempts >= MOST_ATTEMPTS:
        return None
    pause = FIRST_PAUSE_SECONDS * 2.0 ** (attempts - 1) * (0.5 + jitter)
    pause = max(pause, retry_after_seconds or 0.0)
    return pause if pause < seconds_left else None
