"""The background process: jobs, each with its own period, and the thin loop that carries them."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from foundation.database import Database
from foundation.errors import Unavailable
from foundation.processes import StopSignal
from foundation.queries import load_queries
from foundation.settings import Settings
from ml.training_jobs import BackgroundTraining
from notifications.channel import OffChannel
from notifications.sms_prices import PricedChannel, SmsPrices
from wiring import Services, build_services

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
FOLD_SECONDS = 1.0
BEAT_SECONDS = 2.0
HOUSEKEEPING_SECONDS = 60.0
# A page is to be on its way within a second of its alert. Asking costs two statements of 0.1 to 0.2 ms.
PAGING_SECONDS = 0.05
PRICE_SECONDS = 60.0
TRAINING_SECONDS = 1.0
SILENCE_SECONDS = 30.0
# Within what `run` waits for its children.
STOP_SECONDS = 3.0
# Short, because SLA breaches are to be flagged within seconds of the database's return.
LONGEST_RETRY_SECONDS = 5.0


class Work(Protocol):
    """Something that is done again and again."""

    def run_once(self) -> object:
        """Do what is due and return the counts."""


@dataclass
class Job:
    """A piece of work with its period, and how it fares."""

    name: str
    work: Work
    period_seconds: float
    due_at: float = field(default=float("-inf"))
    failures: int = 0


def retry_delay(period_seconds: float, failures: int) -> float:
    """Return the seconds until a job that failed ``failures`` times in a row is tried again: doubled up to 5 s."""
    return max(period_seconds, min(period_seconds * 2.0 ** min(failures, 16), LONGEST_RETRY_SECONDS))


class JobLoop:
    """Runs jobs when they are due, one after the other; instants are seconds of a monotonic clock."""

    def __init__(self, jobs: Sequence[Job], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._jobs = jobs
        self._monotonic = monotonic

    def run_due(self) -> float:
        """Run every job that is due; return the seconds until the next one is.

        A job that fails is tried again later and hinders no other. The next turn is counted from the end of
        this one: a job that takes longer than its period must not run without a pause.
        """
        for job in self._jobs:
            if job.due_at <= self._monotonic():
                self._run(job)
                delay_seconds = retry_delay(job.period_seconds, job.failures) if job.failures else job.period_seconds
                job.due_at = self._monotonic() + delay_seconds
        return max(0.0, min(job.due_at for job in self._jobs) - self._monotonic())

    def run_until_stopped(self, stop: StopSignal) -> None:
        """Run due jobs until a stop is requested."""
        while not stop.wait(self.run_due()):
            pass

    def run_forever(self) -> None:
        """Run due jobs until the process ends."""
        while True:
            time.sleep(self.run_due())

    def _run(self, job: Job) -> None:
        try:
            result = job.work.run_once()
        except Unavailable as error:
            job.failures += 1
            if job.failures == 1:
                logger.warning("%s waits: %s", job.name, error.message)
        except Exception:
            # A fault in one job must not end the others; the cause is in the log, each time.
            job.failures += 1
            logger.exception("%s failed", job.name)
        else:
            if job.failures:
                logger.info("%s works again after %d failures", job.name, job.failures)
            job.failures = 0
            logger.debug("%s: %s", job.name, result)


class Heartbeat:
    """Tells /ready that this worker is alive."""

    def __init__(self, database: Database, worker: str) -> None:
        self._database = database
        self._worker = worker
        self._queries = load_queries("worker")

    def run_once(self) -> int:
        """Write the beat and forget workers that are long gone; return how many those were."""
        with self._database.autocommit() as connection:
            self._queries.beat(connection, worker=self._worker)
            return int(self._queries.forget_old_beats(connection))


def plan_paging(services: Services, worker: str) -> list[Job]:
    """Return the jobs that nothing slow may hold up; the beat is among them, for it says that pages go out."""
    return [
        Job("heartbeat", Heartbeat(services.database, worker), BEAT_SECONDS),
        Job("escalation", services.escalations, PAGING_SECONDS),
        Job("outbox", services.outbox, PAGING_SECONDS),
    ]


def plan_chores(services: Services) -> list[Job]:
    """Return the other jobs."""
    return [
        Job("SLA sweep", services.sla, SWEEP_SECONDS),
        Job("tally folding", services.housekeeping.tallies, FOLD_SECONDS),
        Job("housekeeping", services.housekeeping, HOUSEKEEPING_SECONDS),
    ]


def plan_questions(services: Services) -> list[Job]:
    """Return the jobs that wait for a provider's answers."""
    sms = services.channels["sms"]
    if not isinstance(sms, PricedChannel):
        return []
    return [Job("SMS prices", SmsPrices(services.database, sms), PRICE_SECONDS)]


def plan_watch(services: Services) -> list[Job]:
    """Return the job that looks at every watched sensor, which may take a second where there are thousands."""
    return [Job("sensor silence", services.sensor_silence, SILENCE_SECONDS)]


def plan_model_care(services: Services, worker: str) -> list[Job]:
    """Return the jobs that may take minutes: trainings, and keeping models before their readings are dropped."""
    return [
        Job("training", BackgroundTraining(services.model_parts.jobs, worker), TRAINING_SECONDS),
        Job("telemetry upkeep", services.telemetry_upkeep, HOUSEKEEPING_SECONDS),
    ]


def run_worker(settings: Settings) -> None:
    """Work until SIGTERM or Ctrl-C; a database that goes away is waited for."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    with StopSignal() as stop:
        services = build_services(settings)
        for channel in services.channels.values():
            if isinstance(channel, OffChannel):
                logger.info("%s", channel.reason)
        try:
            chores, questions = plan_chores(services), plan_questions(services)
            for jobs in (chores, questions, plan_watch(services), plan_model_care(services, worker)):
                if jobs:
                    _run_beside(JobLoop(jobs))
            JobLoop(plan_paging(services, worker)).run_until_stopped(stop)
            services.outbox.stop(STOP_SECONDS)
        finally:
            services.database.close()


def _run_beside(loop: JobLoop) -> None:
    """Run jobs on a thread that ends with the process."""
    threading.Thread(target=loop.run_forever, daemon=True).start()
