"""The outbox: claims the notifications that are due, sends them outside any transaction, records what became of them.

A claim is a lease: a worker that dies or hangs loses it, and another one sends again. So a page goes out at least once,
and hardly ever twice, since a channel whose provider can be asked is asked before that.

Each channel has senders of its own, so that one whose other side hangs holds up no other.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from foundation.database import Database
from foundation.errors import Unavailable
from foundation.queries import load_queries
from notifications.channel import (
    Channel,
    Outcome,
    Page,
    PermanentFailure,
    RateLimited,
    Sent,
    TemporaryFailure,
    TraceableChannel,
    build_alert_link,
)
from notifications.retries import GIVE_UP_SECONDS, MOST_ATTEMPTS, plan_retry

SENDERS_PER_CHANNEL = 8
# A sender takes its time, no more than a mail server or Twilio takes of it anyway: a storm of pages that all fail at
# once must not take the processors from the alerts that are still coming in. It is 160 pages a second and channel.
SHORTEST_TURN_SECONDS = 0.05
LONGEST_RECORD_PAUSE_SECONDS = 1.0
LOST_ANSWER = "the answer to the last attempt was lost"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """A notification that this worker alone may send until its lease ends.

    ``attempt`` counts from 1 and tells this claim from later ones; ``seconds_left`` is what remains of the time for
    further attempts; ``may_have_gone_out`` says that an earlier attempt may have reached the recipient.
    """

    channel: str
    attempt: int
    seconds_left: float
    may_have_gone_out: bool
    page: Page


class Outbox:
    """Sends what is due, on threads of its own that end with the process."""

    def __init__(
        self,
        database: Database,
        channels: Mapping[str, Channel],
        base_url: str,
        lease_seconds: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._channels = channels
        self._base_url = base_url
        self._lease_seconds = lease_seconds
        self._jitter = jitter
        self._queries = load_queries(
            "outbox", rows_are_dicts=True, prepared=("is_anything_due", "claim_notifications", "fail_notification")
        )
        self._senders = {name: _Senders(name, self._send_while_due) for name in channels}
        self._is_stopping = False

    def run_once(self) -> int:
        """Claim what is due, as much as there are free senders for, and hand it to them; return how many."""
        if self._is_stopping:
            return 0
        claims = self._claim({name: senders.count_free() for name, senders in self._senders.items()})
        for claim in claims:
            self._senders[claim.channel].hand_over(claim)
        return len(claims)

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Wait until everything that was handed over is done with; return whether it was in time."""
        deadline = time.monotonic() + timeout_seconds
        return all(senders.wait_until_idle(deadline - time.monotonic()) for senders in self._senders.values())

    def stop(self, timeout_seconds: float) -> bool:
        """Claim nothing more and let the senders finish; what they cannot finish in time waits for its lease to end."""
        self._is_stopping = True
        return self.wait_until_idle(timeout_seconds)

    def _claim(self, limits: Mapping[str, int]) -> list[Claim]:
        with self._database.autocommit() as connection:
            # Twenty times a second, and nearly always there is nothing: a claim of nothing takes twice as long.
            if not self._queries.is_anything_due(connection, channels=[name for name in limits if limits[name]]):
                return []
            rows = list(
                self._queries.claim_notifications(
                    connection,
                    channels=list(limits),
                    limits=list(limits.values()),
                    lease_seconds=self._lease_seconds,
                    give_up_seconds=GIVE_UP_SECONDS,
                )
            )
        return [self._read_claim(row) for row in rows]

    def _read_claim(self, row: Mapping[str, Any]) -> Claim:
        page = Page(
            notification_id=row["notification_id"],
            alert_id=row["alert_id"],
            severity=row["severity"],
            device_id=row["device_id"],
            message=row["message"],
            occurred_at=row["occurred_at"],
            link=build_alert_link(self._base_url, row["alert_id"]),
            address=row["address"],
            device_name=row["device_name"],
            metric=row["metric"],
        )
        return Claim(row["channel"], row["attempts"], row["seconds_left"], row["may_have_gone_out"], page)

    def _send_while_due(self, claim: Claim) -> None:
        """Send one notification, and then the next that is due on its channel, without waiting to be told."""
        following: list[Claim] = [claim]
        while following:
            begun_at = time.monotonic()
            self._work_off(following[0])
            time.sleep(max(0.0, begun_at + SHORTEST_TURN_SECONDS - time.monotonic()))
            try:
                following = [] if self._is_stopping else self._claim({claim.channel: 1})
            except Unavailable:
                return

    def _work_off(self, claim: Claim) -> None:
        begun_at = time.monotonic()
        outcome = self._attempt(claim)
        self._record_patiently(claim, outcome, claim.seconds_left - (time.monotonic() - begun_at))

    def _attempt(self, claim: Claim) -> Outcome:
        channel = self._channels[claim.channel]
        try:
            if claim.may_have_gone_out and isinstance(channel, TraceableChannel):
                sent = channel.find_sent(claim.page.address, claim.page.notification_id)
                if sent is not None:
                    return sent
            if claim.attempt > MOST_ATTEMPTS:
                return PermanentFailure(LOST_ANSWER)
            return channel.send(claim.page)
        except Unavailable as error:
            return TemporaryFailure(error.message, may_have_gone_out=True)
        except Exception as error:
            # A fault in a channel must cost this attempt, not the sender: the next one may find it gone.
            logger.exception("notification %d failed", claim.page.notification_id)
            return TemporaryFailure(f"a fault in the channel ({type(error).__name__})", may_have_gone_out=True)

    def _record_patiently(self, claim: Claim, outcome: Outcome, seconds_left: float) -> None:
        """Record an outcome, again and again while the database is away: what is not recorded is sent again."""
        deadline = time.monotonic() + self._lease_seconds
        pause = 0.05
        while True:
            try:
                self._record(claim, outcome, seconds_left)
                return
            except Unavailable as error:
                if time.monotonic() + pause > deadline:
                    logger.error("notification %d: %s", claim.page.notification_id, error.message)
                    return
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_RECORD_PAUSE_SECONDS)

    def _record(self, claim: Claim, outcome: Outcome, seconds_left: float) -> None:
        match outcome:
            case Sent():
                self._record_sent(claim, outcome)
            case TemporaryFailure():
                pause = plan_retry(claim.attempt, seconds_left, outcome.retry_after_seconds, self._jitter())
                if pause is None:
                    self._record_failure(claim, "failed", outcome.reason)
                else:
                    self._record_retry(claim, outcome, pause)
            case RateLimited():
                self._record_failure(claim, "rate_limited", outcome.reason)
            case PermanentFailure():
                self._record_failure(claim, "failed", outcome.reason, is_setting_fault=outcome.is_setting_fault)

    def _record_sent(self, claim: Claim, sent: Sent) -> None:
        with self._database.autocommit() as connection:
            self._queries.record_sent(
                connection,
                notification_id=claim.page.notification_id,
                provider_id=sent.provider_id,
                provider_status=sent.provider_status,
                segments=sent.segments,
                price=sent.price,
                price_unit=sent.price_unit,
            )

    def _record_retry(self, claim: Claim, outcome: TemporaryFailure, pause_seconds: float) -> None:
        with self._database.autocommit() as connection:
            self._queries.retry_notification(
                connection,
                notification_id=claim.page.notification_id,
                attempt=claim.attempt,
                pause_seconds=pause_seconds,
                error=outcome.reason,
                may_have_gone_out=outcome.may_have_gone_out,
            )

    def _record_failure(self, claim: Claim, status: str, reason: str, *, is_setting_fault: bool = False) -> None:
        logger.warning("notification %d %s: %s", claim.page.notification_id, status, reason)
        with self._database.autocommit() as connection:
            self._queries.fail_notification(
                connection,
                notification_id=claim.page.notification_id,
                attempt=claim.attempt,
                status=status,
                error=reason,
                is_setting_fault=is_setting_fault,
            )


class _Senders:
    """The threads of one channel, started when they are first needed."""

    def __init__(self, channel: str, work: Callable[[Claim], None]) -> None:
        self._channel = channel
        self._work = work
        self._queue: SimpleQueue[Claim] = SimpleQueue()
        self._changed = threading.Condition()
        self._busy = 0
        self._threads = 0

    def count_free(self) -> int:
        """Return how many claims can be worked on at once with those at hand."""
        with self._changed:
            return SENDERS_PER_CHANNEL - self._busy

    def hand_over(self, claim: Claim) -> None:
        """Give a claim to a free sender."""
        with self._changed:
            self._busy += 1
            if self._busy > self._threads:
                self._threads += 1
                # Daemons: a page that hangs must not keep the process from ending; its lease sees to it.
                threading.Thread(target=self._run, name=f"{self._channel} sender", daemon=True).start()
        self._queue.put(claim)

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Wait until no sender is busy; return whether that was in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._busy == 0, max(0.0, timeout_seconds))

    def _run(self) -> None:
        while True:
            claim = self._queue.get()
            try:
                self._work(claim)
            except Exception:
                # Left to its lease; the sender must go on.
                logger.exception("notification %d was left unrecorded", claim.page.notification_id)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
