"""The one place that puts the parts together: for the web, the worker, the tests and the command line alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accounts import Accounts
from alert_grouping import AlertGrouping
from alert_lifecycle import AlertLifecycle
from alert_state_machine import AlertStateMachine
from alert_store import AlertStore
from escalation_engine import EscalationEngine
from escalation_log import EscalationLog
from escalation_policies import EscalationPolicies
from escalation_simulation import EscalationSimulator
from foundation.clock import Clock
from foundation.database import Database
from foundation.settings import Settings
from housekeeping import Housekeeping
from idempotency import IdempotencyKeys
from ml.hot_models import HotModels
from ml.model_states import ModelStates
from ml.registry import ModelRegistry
from ml.serialization import derive_key
from ml.streams import ModelStreams
from ml.training_jobs import TrainingJobs
from ml_alert_integration import MLAlertIntegration
from ml_model_manager import MLModelManager, ModelParts
from notifications.channel import Channel
from notifications.channels import build_channels
from notifications.delivery_reports import DeliveryReports
from notifications.outbox import Outbox
from notifications.sms_ledger import SmsLedger
from on_call_manager import OnCallManager
from readiness import Readiness
from sensor_silence import SensorSilence
from sla_tracker import SlaTracker
from telemetry import Telemetry
from telemetry_upkeep import TelemetryUpkeep


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
    escalations: EscalationEngine
    escalation_log: EscalationLog
    channels: Mapping[str, Channel]
    outbox: Outbox
    delivery_reports: DeliveryReports
    ml_alerts: MLAlertIntegration
    ml: MLModelManager
    model_parts: ModelParts
    telemetry_upkeep: TelemetryUpkeep
    sensor_silence: SensorSilence
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
        renotify_minutes=settings.renotify_minutes,
        statement_timeout_seconds=settings.statement_timeout_seconds,
    )
    store = AlertStore()
    state_machine = AlertStateMachine()
    grouping = AlertGrouping(database)
    accounts = Accounts(database, clock)
    on_call = OnCallManager(database, clock)
    policies = EscalationPolicies(database)
    channels = build_channels(settings, database, clock)
    sms_ledger = SmsLedger(database, settings.sms_max_per_hour)
    escalations = EscalationEngine(database, accounts, on_call)
    escalation_log = EscalationLog(database)
    ml_alerts = MLAlertIntegration(database, store, escalations)
    model_parts = build_model_parts(settings, database, clock)
    return Services(
        settings=settings,
        clock=clock,
        database=database,
        accounts=accounts,
        store=store,
        lifecycle=AlertLifecycle(
            database, clock, store, state_machine, grouping, IdempotencyKeys(), escalations, escalation_log
        ),
        grouping=grouping,
        sla=SlaTracker(database, clock),
        on_call=on_call,
        policies=policies,
        simulator=EscalationSimulator(database, policies, on_call, accounts, clock),
        escalations=escalations,
        escalation_log=escalation_log,
        channels=channels,
        outbox=Outbox(database, channels, settings.base_url, settings.notification_lease_seconds),
        delivery_reports=DeliveryReports(database, sms_ledger),
        ml_alerts=ml_alerts,
        ml=MLModelManager(parts=model_parts, on_anomaly=ml_alerts.handle_anomaly),
        model_parts=model_parts,
        telemetry_upkeep=TelemetryUpkeep(database, model_parts.telemetry, model_parts.streams, settings.telemetry_days),
        sensor_silence=SensorSilence(database, store, state_machine, settings.sensor_silence_steps),
        housekeeping=Housekeeping(database, sms_ledger),
        readiness=Readiness(database),
    )


def build_model_parts(settings: Settings, database: Database, clock: Clock) -> ModelParts:
    """Return what keeps and asks the anomaly models."""
    telemetry = Telemetry(database, clock)
    states = ModelStates(derive_key(settings.jwt_secret))
    registry = ModelRegistry(states)
    return ModelParts(
        database=database,
        clock=clock,
        registry=registry,
        streams=ModelStreams(database, states, HotModels(settings.ml_hot_models), telemetry.ensure_partitions),
        jobs=TrainingJobs(database, registry),
        telemetry=telemetry,
    )
