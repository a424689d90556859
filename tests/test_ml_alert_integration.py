"""Anomalies become alerts: thresholds, metadata, grouping, and who is woken."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from foundation.clock import FrozenClock
from foundation.errors import ValidationFailed
from ml_alert_integration import choose_severity, choose_window
from tests.factories import SEND_EVERYTHING
from wiring import Services

Sql = Callable[..., list[tuple[Any, ...]]]
Headers = Callable[..., dict[str, str]]


@pytest.fixture
def device() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def anomaly(services: Services, device: str) -> Callable[..., int | None]:
    """Hand over an anomaly: ``anomaly(0.9)``, ``anomaly(0.9, value=97.5)``."""

    def hand_over(confidence: float, value: float = 96.4, metric: str = "temperature", **more: Any) -> int | None:
        return services.ml_alerts.handle_anomaly(device, metric, value, 7, confidence, **more)

    return hand_over


@pytest.fixture
def policy(client: FlaskClient, headers: Headers) -> Callable[..., dict[str, Any]]:
    """Write a policy for severities that pages one address at once."""

    def write(*severities: str, name: str = "ML") -> dict[str, Any]:
        tier = {"delay_minutes": 0, "channels": ["email"], "recipients": ["shift@example.com"]}
        rules = {"severity_match": list(severities), "tiers": [tier]}
        answer = client.post(
            "/api/v1/escalation-policies", json={"name": name, "rules": rules}, headers=headers("admin")
        )
        assert answer.status_code == 201, answer.json
        written: dict[str, Any] = answer.json
        return written

    return write


@pytest.fixture
def read(client: FlaskClient, headers: Headers) -> Callable[[int | None], dict[str, Any]]:
    """Read an alert over REST."""

    def get(alert_id: int | None) -> dict[str, Any]:
        answer = client.get(f"/api/v1/alerts/{alert_id}", headers=headers("viewer"))
        assert answer.status_code == 200, answer.json
        alert: dict[str, Any] = answer.json
        return alert

    return get


def list_escalations(sql: Sql) -> list[tuple[Any, ...]]:
    return sql("SELECT alert_id, severity::text, status::text FROM escalations ORDER BY id")


def test_handle_anomaly_high_confidence(anomaly, read, policy, sql) -> None:
    policy("critical", "high")
    alert_id = anomaly(0.95)
    alert = read(alert_id)
    assert (alert["severity"], alert["state"]) == ("critical", "new")
    assert alert["message"] == "ML anomaly detected: temperature=96.40 (confidence: 95.00%)"
    assert list_escalations(sql) == [(alert_id, "critical", "pending")]


def test_handle_anomaly_medium_confidence(anomaly, read, policy, sql) -> None:
    policy("critical", "high", "medium", "low")
    assert read(anomaly(0.75))["severity"] == "medium"
    assert list_escalations(sql) == []


def test_handle_anomaly_low_confidence(anomaly, sql) -> None:
    assert anomaly(0.65) is None
    assert sql("SELECT count(*) FROM alerts") == [(0,)]


def test_auto_escalation_triggered(anomaly, policy, services, sql) -> None:
    written = policy("high")
    alert_id = anomaly(0.85)
    assert services.escalations.run_once().notifications == 1
    assert sql("SELECT alert_id, policy_id::text, current_tier FROM escalations") == [
        (alert_id, written["policy_id"], 1)
    ]
    assert sql("SELECT alert_id, address FROM notifications") == [(alert_id, "shift@example.com")]


def test_ml_metadata_tracking(anomaly, read) -> None:
    alert = read(anomaly(0.8123, value=12.3456))
    assert alert["metadata"] == {
        "source": "ml_anomaly_detection",
        "model_id": 7,
        "confidence": 0.8123,
        "metric": "temperature",
        "value": 12.3456,
        "threshold_exceeded": True,
    }
    assert (alert["metric"], alert["source"]) == ("temperature", "ml_anomaly_detection")


@pytest.mark.parametrize(
    ("confidence", "severity", "wakes"),
    [
        (0.6999999, None, False),
        (0.70, "low", False),
        (0.7499999, "low", False),
        (0.75, "medium", False),
        (0.7999999, "medium", False),
        (0.80, "medium", True),
        (0.8499999, "medium", True),
        (0.85, "high", True),
        (0.9499999, "high", True),
        (0.95, "critical", True),
        (1.0, "critical", True),
    ],
)
def test_every_threshold_belongs_to_what_it_begins(anomaly, read, policy, sql, confidence, severity, wakes) -> None:
    policy("critical", "high", "medium", "low", "info")
    alert_id = anomaly(confidence)
    assert (None if alert_id is None else read(alert_id)["severity"]) == severity
    assert len(list_escalations(sql)) == int(wakes)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_surer_is_never_milder(one: float, other: float) -> None:
    order = [None, "low", "medium", "high", "critical"]
    low, high = sorted((one, other))
    assert order.index(choose_severity(low)) <= order.index(choose_severity(high))


@pytest.mark.parametrize("confidence", [math.nan, math.inf, -math.inf, -0.01, 1.01])
def test_confidence_that_is_none_is_refused(anomaly, sql, confidence) -> None:
    with pytest.raises(ValidationFailed, match="confidence"):
        anomaly(confidence)
    assert sql("SELECT count(*) FROM alerts") == [(0,)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_no_number_is_refused(anomaly, sql, value) -> None:
    with pytest.raises(ValidationFailed, match="value"):
        anomaly(0.9, value=value)
    assert sql("SELECT count(*) FROM alerts") == [(0,)]


def test_an_anomaly_that_goes_on_is_one_group_and_pages_once(anomaly, policy, clock: FrozenClock, sql) -> None:
    policy("critical", "high", "medium", "low")
    first = anomaly(0.90)
    for minute in range(12):
        clock.advance(timedelta(minutes=5))
        anomaly(0.80 + minute / 1000, value=90.0 + minute)
    assert sql("SELECT occurrence_count, key_class FROM alert_groups") == [(13, "ml")]
    assert list_escalations(sql) == [(first, "high", "pending")]


def test_the_group_pages_at_its_first_confidence_of_eighty_percent(anomaly, policy, sql) -> None:
    policy("critical", "high", "medium", "low")
    anomaly(0.72)
    anomaly(0.79, value=97.0)
    sure = anomaly(0.81, value=98.0)
    assert list_escalations(sql) == [(sure, "medium", "pending")]


def test_a_graver_anomaly_pages_again_once_nobody_has_the_group_in_hand(
    anomaly, policy, services, act, clock: FrozenClock, sql
) -> None:
    policy("critical", "high", "medium", "low")
    medium = anomaly(0.81)
    anomaly(0.96, value=99.0)
    assert len(list_escalations(sql)) == 1, "an escalation runs: the group is in hand"
    services.escalations.run_once()
    sql(SEND_EVERYTHING)
    clock.advance(timedelta(minutes=2))
    services.escalations.run_once()
    assert list_escalations(sql) == [(medium, "medium", "completed")]

    anomaly(0.83, value=97.0)
    assert len(list_escalations(sql)) == 1, "no graver than what was paged"
    high = anomaly(0.86, value=98.0)
    assert list_escalations(sql)[1:] == [(high, "high", "pending")]
    act(str(high), "acknowledge")
    anomaly(0.97, value=100.0)
    assert [status for *_, status in list_escalations(sql)] == ["completed", "cancelled"], "somebody has it in hand"


def test_an_anomaly_after_the_window_is_a_group_of_its_own(anomaly, clock: FrozenClock, sql) -> None:
    anomaly(0.9)
    clock.advance(timedelta(minutes=59))
    anomaly(0.9, value=97.0)
    clock.advance(timedelta(hours=1, seconds=1))
    anomaly(0.9, value=98.0)
    assert sql("SELECT occurrence_count FROM alert_groups ORDER BY id") == [(2,), (1,)]


def test_a_slow_sensor_has_a_longer_window(anomaly, clock: FrozenClock, sql) -> None:
    assert choose_window(None) == choose_window(300.0) == choose_window(1200.0) == 3600
    assert choose_window(3600.0) == 10800
    anomaly(0.9, step_seconds=3600.0)
    clock.advance(timedelta(hours=3))
    anomaly(0.9, value=97.0, step_seconds=3600.0)
    assert sql("SELECT occurrence_count FROM alert_groups") == [(2,)]


def test_the_window_of_anomalies_leaves_that_of_machines_alone(anomaly, raise_alert, clock, device, sql) -> None:
    anomaly(0.9)
    for _ in range(2):
        raise_alert(device_id=device, metric="temperature")
        clock.advance(timedelta(minutes=6))
    assert sql("SELECT key_class, count(*) FROM alert_groups GROUP BY 1 ORDER BY 1") == [("critical", 2), ("ml", 1)]


def test_occurred_at_is_that_of_the_reading_and_an_old_one_wakes_nobody(
    anomaly, read, policy, clock: FrozenClock, sql
) -> None:
    policy("critical", "high")
    at = clock.now() - timedelta(hours=1, seconds=1)
    alert = read(anomaly(0.9, occurred_at=at))
    assert alert["occurred_at"] == at.isoformat()
    assert list_escalations(sql) == []
    with pytest.raises(ValidationFailed, match="occurred_at"):
        anomaly(0.9, metric="pressure", occurred_at=clock.now() + timedelta(minutes=6))


def test_a_failing_escalation_does_not_lose_the_alert(anomaly, read, policy, sql, caplog) -> None:
    policy("high")
    sql("ALTER TABLE escalations ADD CONSTRAINT refuse_all CHECK (false) NOT VALID")
    alert_id = anomaly(0.9)
    assert read(alert_id)["state"] == "new"
    assert "could not be escalated" in caplog.text
    sql("ALTER TABLE escalations DROP CONSTRAINT refuse_all")
    later = anomaly(0.9, value=97.0)
    assert list_escalations(sql) == [(later, "high", "pending")]


def test_without_a_policy_the_alert_is_raised_and_nobody_paged(anomaly, read, policy, sql) -> None:
    policy("critical")
    assert read(anomaly(0.9))["state"] == "new"
    assert list_escalations(sql) == []
