"""The one place that puts the parts together: for the web, the worker, the tests and the command line alike."""

from __future__ import annotations

from dataclasses import dataclass

from accounts import Accounts
from alert_grouping import AlertGrouping
from alert_lifecycle import AlertLifecycle
from alert_state_machine import AlertStateMachine
from alert_store import AlertStore
from escalation_policies import EscalationPolicies
from escalation_simulation import EscalationSimulator
from foundation.clock import Clock
from foundation.database import Database
from foundation.settings import Settings
from housekeeping import Housekeeping
from idempotency import IdempotencyKeys
from on_call_manager import OnCallManager
from readiness import Readiness
from sla_tracker import SlaTracker


@dataclass(frozen=True)
class Services:
    """The parts of a running service."""

    settings: Settings
    clock: Clock
    database: Database
    accounts: Accounts
    store: AlertStore
    lifecycle: AlertLifecycle
    grouping: AlertGrouping
    sla: SlaTracker
    on_call: OnCallManager
    policies: EscalationPolicies
    simulator: EscalationSimulator
    housekeeping: Housekeeping
    readiness: Readiness


def build_services(settings: Settings, clock: Clock | None = None, database_url: str | None = None) -> Services:
    """Return the services for a database that has been migrated."""
    clock = clock or Clock()
    database = Database(
        database_url or settings.database_url,
        clock=clock,
        pool_size=settings.database_pool_size,
        wait_seconds=settings.database_wait_seconds,
        window_seconds=settings.group_window_seconds,
        statement_timeout_seconds=settings.statement_timeout_seconds,
    )
    store = AlertStore()
    grouping = AlertGrouping(database)
    accounts = Accounts(database, clock)
    on_call = OnCallManager(database, clock)
    policies = EscalationPolicies(database)
    return Services(
        settings=settings,
        clock=clock,
        database=database,
        accounts=accounts,
        store=store,
        lifecycle=AlertLifecycle(database, clock, store, AlertStateMachine(), grouping, IdempotencyKeys()),
        grouping=grouping,
        sla=SlaTracker(database, clock),
        on_call=on_call,
        policies=policies,
        simulator=EscalationSimulator(policies, on_call, accounts, clock),
        housekeeping=Housekeeping(database),
        readiness=Readiness(database),
    )
