"""From an anomaly to an alert: how sure the model is decides how grave it is, and whether somebody is woken."""

from __future__ import annotations

import logging
import math
from datetime import datetime

from alert_store import AlertReport, AlertStore
from escalation_engine import EscalationEngine
from foundation.database import Connection, Database
from foundation.errors import Fault, ValidationFailed
from foundation.queries import load_queries

SOURCE = "ml_anomaly_detection"
KEY_CLASS = "ml"
ESCALATE_FROM = 0.80
# From which confidence an anomaly is how grave, gravest first; below the last there is no alert.
SEVERITIES = ((0.95, "critical"), (0.85, "high"), (0.75, "medium"), (0.70, "low"))
SHORTEST_WINDOW_SECONDS = 3600
WINDOW_STEPS = 3

logger = logging.getLogger(__name__)


def choose_severity(confidence: float) -> str | None:
    """Return the severity for a confidence, None where there is to be no alert."""
    return next((severity for threshold, severity in SEVERITIES if confidence >= threshold), None)


def choose_window(step_seconds: float | None) -> int:
    """Return the seconds within which anomalies of one metric belong together: 1 h or 3 sampling steps, the longer."""
    return max(SHORTEST_WINDOW_SECONDS, math.ceil(WINDOW_STEPS * (step_seconds or 0.0)))


class MLAlertIntegration:
    """Raises alerts for anomalies."""

    def __init__(self, database: Database, store: AlertStore, escalations: EscalationEngine) -> None:
        self._database = database
        self._store = store
        self._escalations = escalations
        self._queries = load_queries("ml_alert_integration")

    def handle_anomaly(
        self,
        device_id: str,
        metric: str,
        value: float,
        model_id: int | str,
        confidence: float,
        *,
        occurred_at: datetime | None = None,
        step_seconds: float | None = None,
    ) -> int | None:
        """Raise the alert for an anomaly and return its id; None where the model is not sure enough.

        ``confidence`` is the chance, 0 to 1, that the anomaly is a real fault. All anomalies of one device and metric
        join one group while they go on. The group escalates once, at its first confidence of 0.80 or more, and again
        only when the severity rises above the one it paged with and nobody has it in hand. ``step_seconds`` is the
        sampling step.

        Raises:
            ValidationFailed: the confidence lies outside 0 to 1, the value is no finite number, or ``occurred_at``
                lies more than five minutes ahead.
        """
        _check(value, confidence)
        severity = choose_severity(confidence)
        if severity is None:
            return None
        report = AlertReport(
            device_id=str(device_id),
            severity=severity,
            message=f"ML anomaly detected: {metric}={value:.2f} (confidence: {confidence:.2%})",
            metadata={
                "source": SOURCE,
                "model_id": model_id,
                "confidence": confidence,
                "metric": metric,
                "value": value,
                "threshold_exceeded": True,
            },
            metric=metric,
            source=SOURCE,
            occurred_at=occurred_at,
            escalate=False,
            key_class=KEY_CLASS,
        )

        def record(connection: Connection) -> int:
            self._queries.set_window(connection, seconds=str(choose_window(step_seconds)))
            alert_id = int(self._store.raise_alert(connection, report, f"model {model_id}")["alert_id"])
            if confidence >= ESCALATE_FROM:
                self._escalate(connection, alert_id, severity)
            return alert_id

        return self._database.run(record)

    def _escalate(self, connection: Connection, alert_id: int, severity: str) -> None:
        """Page for an alert that just came; whatever goes wrong, the alert stands."""
        self._queries.begin_savepoint(connection)
        try:
            if self._queries.is_news(connection, alert_id=alert_id):
                policy = self._escalations.find_policy(severity, connection=connection)
                if policy is not None:
                    self._escalations.trigger_escalation(alert_id, policy["id"], connection=connection)
        except Exception:
            logger.exception("alert %d could not be escalated", alert_id)
            self._queries.return_to_savepoint(connection)


def _check(value: float, confidence: float) -> None:
    faults = []
    if not 0.0 <= confidence <= 1.0:
        faults.append(Fault("confidence", "must be a number from 0 to 1"))
    if not math.isfinite(value):
        faults.append(Fault("value", "must be a finite number"))
    if faults:
        raise ValidationFailed(faults)
