"""Trainings too long for a request: rows in the database that a worker takes on, under a lease that it renews."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from foundation.database import Connection, Database
from foundation.queries import load_queries
from ml.model_errors import ModelError
from ml.readings import TrainingRows
from ml.registry import ModelRegistry, TrainingOrder
from ml.training import require_enough_rows, train

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
RENEWAL_SECONDS = 1.0
MOST_ATTEMPTS = 3


class LeaseLost(Exception):
    """Another worker has taken the training over, or its version was deleted."""


class TrainingJobs:
    """Keeps the trainings that are to be done, and does them."""

    def __init__(self, database: Database, registry: ModelRegistry) -> None:
        self._database = database
        self._registry = registry
        self._queries = load_queries("ml_training_jobs", rows_are_dicts=True)

    def add(self, connection: Connection, order: TrainingOrder) -> int:
        """Leave a training to the worker and return the identifier of its version."""
        model_id = self._registry.add_pending(connection, order)
        self._queries.insert_job(connection, model_id=model_id, readings=order.rows.to_bytes())
        return model_id

    def work_off(self, worker: str) -> int | None:
        """Do the oldest training that nobody holds; return its version, None where there is none to do."""
        self._database.run(self._give_up)
        with self._database.autocommit() as connection:
            job = self._queries.claim_job(
                connection, worker=worker, lease_seconds=LEASE_SECONDS, most_attempts=MOST_ATTEMPTS
            )
        if job is None:
            return None
        model_id: int = job["model_id"]
        try:
            rows = TrainingRows.from_bytes(bytes(job["readings"]))
            detector, summary = train(job["algorithm"], rows, self._make_watch(model_id, worker))
            require_enough_rows(job["algorithm"], summary)
        except LeaseLost:
            logger.info("the training of model %d has passed to another worker or was called off", model_id)
        except ModelError as error:
            reason = error.message
            self._end(model_id, worker, lambda c: self._registry.fail(c, model_id, reason))
        else:
            self._end(model_id, worker, lambda c: self._registry.complete(c, model_id, detector, summary))
        return model_id

    def _make_watch(self, model_id: int, worker: str) -> Callable[[int], None]:
        renewed_at = time.monotonic()

        def watch(rows_done: int) -> None:
            nonlocal renewed_at
            if time.monotonic() - renewed_at < RENEWAL_SECONDS:
                return
            with self._database.autocommit() as connection:
                held = self._queries.renew_lease(
                    connection, model_id=model_id, worker=worker, rows_done=rows_done, lease_seconds=LEASE_SECONDS
                )
            if not held:
                raise LeaseLost
            renewed_at = time.monotonic()

        return watch

    def _end(self, model_id: int, worker: str, finish: Callable[[Connection], None]) -> None:
        def end(connection: Connection) -> None:
            if self._queries.delete_job(connection, model_id=model_id, worker=worker):
                finish(connection)

        self._database.run(end)

    def _give_up(self, connection: Connection) -> None:
        for row in self._queries.give_up_jobs(connection, most_attempts=MOST_ATTEMPTS):
            self._registry.fail(connection, row["model_id"], f"the training was broken off {MOST_ATTEMPTS} times")


class BackgroundTraining:
    """The trainings as a job of a worker. It takes as long as a training does, so it needs a loop of its own.

    A worker that dies leaves its lease to run out: any other then begins that training anew.
    """

    def __init__(self, jobs: TrainingJobs, worker: str) -> None:
        self._jobs = jobs
        self._worker = worker

    def run_once(self) -> int:
        """Work off what there is; return how many trainings that were."""
        done = 0
        while self._jobs.work_off(self._worker) is not None:
            done += 1
        return done
