"""The alert endpoints over HTTP, against the real database."""

from __future__ import annotations

from tests.factories import DEVICE, make_report


def test_create_alert_success(client, headers):
    response = client.post("/api/v1/alerts", json=make_report(), headers=headers("device"))
    assert response.status_code == 201
    alert = response.json
    assert alert["severity"] == "critical"
    assert alert["state"] == "new"
    assert alert["device_id"] == DEVICE
    assert alert["metadata"] == {"temperature": 85.5}
    assert alert["sla_targets"] == {"tta": 5, "ttr": 30}
    assert alert["is_duplicate"] is False
    assert alert["duplicate_of"] is None
    assert alert["escalation_id"] is None
    assert alert["created_at"] == "2026-03-02T08:00:00+00:00"
