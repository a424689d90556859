"""Small chores of the worker: folding tallies, forgetting what has expired."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.database import Database
from foundation.queries import load_queries
from notifications.sms_ledger import SmsLedger

FOLD_BATCH = 50_000


@dataclass(frozen=True)
class FoldResult:
    """How many tally entries went into the tallies."""

    folded: int


@dataclass(frozen=True)
class ForgetResult:
    """How many rows were past their time."""

    idempotency_keys: int
    login_failures: int
    sms: int


class TallyFolding:
    """Folds what writers appended into the running totals, so that readers add up few rows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load_queries("housekeeping")

    def run_once(self) -> FoldResult:
        """Fold all entries; several processes may do so at once."""
        folded = 0
        while True:
            batch = int(self._database.run(self._queries.fold_tallies))
            folded += batch
            if batch < FOLD_BATCH:
                return FoldResult(folded)


class Housekeeping:
    """Forgets idempotency keys after 24 hours, login failures and counted SMS after a day."""

    def __init__(self, database: Database, sms_ledger: SmsLedger) -> None:
        self.tallies = TallyFolding(database)
        self._database = database
        self._sms_ledger = sms_ledger
        self._queries = load_queries("housekeeping")

    def run_once(self) -> ForgetResult:
        """Forget what has expired."""
        with self._database.autocommit() as connection:
            keys = self._queries.forget_idempotency_keys(connection)
            failures = self._queries.forget_login_failures(connection)
        return ForgetResult(int(keys), int(failures), self._sms_ledger.forget_old())
