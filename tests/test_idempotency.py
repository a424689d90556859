"""Idempotency keys: the same request again gets the first answer back, and never a second alert."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from tests.factories import make_report

ALERTS = "/api/v1/alerts"
BATCH = "/api/v1/alerts/batch"


@pytest.fixture
def send(app, headers):
    """Report with a key, from any thread: ``send("key", make_report(), subject="gateway-1")``."""

    def report(key: str, body: Any, path: str = ALERTS, subject: str = "gateway-1") -> Any:
        sent = {**headers("device", subject=subject), "Idempotency-Key": key}
        return app.test_client().post(path, json=body, headers=sent)

    return report


@pytest.fixture
def count_alerts(sql):
    """Return how many alerts there are."""
    return lambda: sql("SELECT count(*) FROM alerts")[0][0]


def test_same_request_gets_the_first_answer(send, count_alerts):
    first, again = send("k-1", make_report()), send("k-1", make_report())
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json == first.json
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert count_alerts() == 1


def test_first_answer_stays_as_it_was_when_the_alert_moves_on(send, act):
    first = send("k-1", make_report())
    act(first.json["alert_id"], "resolve", advance=True)
    assert send("k-1", make_report()).json == first.json
    assert first.json["state"] == "new"


def test_without_a_key_every_request_counts(client, headers, count_alerts):
    for _ in range(2):
        response = client.post(ALERTS, json=make_report(), headers=headers("device"))
        assert (response.status_code, "Idempotency-Replayed" in response.headers) == (201, False)
    assert count_alerts() == 2


def test_another_key_is_another_request(send, count_alerts):
    assert send("k-1", make_report()).json["alert_id"] != send("k-2", make_report()).json["alert_id"]
    assert count_alerts() == 2


def test_another_body_under_the_same_key_is_a_conflict(send, count_alerts):
    send("k-1", make_report())
    response = send("k-1", make_report(message="Pressure lost"))
    assert response.status_code == 409
    assert response.json["code"] == "idempotency_key_reused"
    assert count_alerts() == 1


def test_key_belongs_to_its_caller(send, count_alerts):
    mine = send("k-1", make_report(), subject="gateway-1")
    theirs = send("k-1", make_report(message="Pressure lost"), subject="gateway-2")
    assert theirs.status_code == 201
    assert theirs.json["alert_id"] != mine.json["alert_id"]
    assert count_alerts() == 2


def test_key_is_kept_for_24_hours(send, clock, count_alerts):
    first = send("k-1", make_report())
    clock.advance(timedelta(hours=24) - timedelta(microseconds=1))
    assert send("k-1", make_report()).json == first.json
    clock.advance(timedelta(microseconds=1))
    later = send("k-1", make_report(message="Pressure lost"))
    assert (later.status_code, "Idempotency-Replayed" in later.headers) == (201, False)
    assert count_alerts() == 2
    assert send("k-1", make_report(message="Pressure lost")).json == later.json


def test_batch_is_replayed_whole(send, count_alerts):
    body = {"alerts": [make_report(message=f"message {i}", metadata={"reading": 1e-7 * i}) for i in range(3)]}
    first, again = send("k-1", body, BATCH), send("k-1", body, BATCH)
    assert again.status_code == 201
    assert again.json == first.json
    assert again.headers["Idempotency-Replayed"] == "true"
    assert count_alerts() == 3


def test_key_of_one_address_does_not_fit_another(send, count_alerts):
    send("k-1", {"alerts": [make_report()]}, BATCH)
    assert send("k-1", make_report()).status_code == 409
    assert count_alerts() == 1


def test_refused_request_does_not_use_its_key_up(send, clock, count_alerts):
    early = make_report(occurred_at="2026-03-02T08:30:00Z")
    assert send("k-1", make_report(severity="loud")).status_code == 400
    assert send("k-1", early).status_code == 400
    clock.advance(timedelta(minutes=30))
    response = send("k-1", early)
    assert (response.status_code, "Idempotency-Replayed" in response.headers) == (201, False)
    assert count_alerts() == 1


def test_key_has_1_to_255_characters(send, count_alerts):
    for key in ("", "k" * 256):
        response = send(key, make_report())
        assert response.status_code == 400
        assert [fault["field"] for fault in response.json["details"]] == ["Idempotency-Key"]
    assert count_alerts() == 0
    for key in ("k" * 255, "é %_' \\"):
        first, again = send(key, make_report()), send(key, make_report())
        assert (first.status_code, again.json) == (201, first.json)


def test_same_request_side_by_side_makes_one_alert(send, count_alerts):
    together = threading.Barrier(8)

    def race(_: int) -> Any:
        together.wait()
        return send("k-1", make_report())

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(race, range(8)))
    assert [r.status_code for r in responses] == [201] * 8
    assert all(r.json == responses[0].json for r in responses)
    assert Counter(r.headers.get("Idempotency-Replayed") for r in responses) == {None: 1, "true": 7}
    assert count_alerts() == 1


def test_different_requests_side_by_side_under_one_key_let_one_through(send, count_alerts):
    together = threading.Barrier(8)

    def race(number: int) -> Any:
        together.wait()
        return send("k-1", make_report(message=f"message {number}"))

    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(r.status_code for r in pool.map(race, range(8)))
    assert statuses == {201: 1, 409: 7}
    assert count_alerts() == 1
