"""What those who run the service see: health, readiness, metrics, request ids, log lines, CORS and the rate limit."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from app_advanced import create_app
from foundation.logging import JsonFormatter
from tests.factories import MAIL, SEND_EVERYTHING, SMS, make_device, make_policy, make_report
from wiring import build_services
from worker import Heartbeat

ALERTS = "/api/v1/alerts"
REPOSITORY = Path(__file__).resolve().parent.parent
NOWHERE = "postgresql://nobody@/nothing?host=/nonexistent"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def client_with(settings, clock) -> Iterator[Callable[..., FlaskClient]]:
    """Return a client of an app with other settings: ``client_with(rate_limit="3/minute")``."""
    databases = []

    def make(**changes: Any) -> FlaskClient:
        services = build_services(settings.model_copy(update=changes), clock)
        databases.append(services.database)
        return create_app(services=services).test_client()

    yield make
    for database in databases:
        database.close()


def read_samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def pick(samples: Samples, name: str, **labels: str) -> float:
    key = frozenset(labels.items())
    return samples.get((name, key), samples.get((f"advanced_alerting_{name}", key), 0.0))


@pytest.fixture
def scrape(client) -> Callable[[], Samples]:
    """Return what Prometheus would read now."""

    def read() -> Samples:
        response = client.get("/metrics")
        assert response.status_code == 200
        assert response.content_type.startswith("text/plain; version=")
        return read_samples(response.text)

    return read


# ---- health and readiness


def test_health_asks_nobody(client_with):
    response = client_with(database_url=NOWHERE).get("/health")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_not_ready_before_a_worker_has_ever_run(client):
    response = client.get("/ready")
    assert response.status_code == 503
    assert response.json == {
        "status": "not_ready",
        "database": "ok",
        "pending_migrations": 0,
        "worker_beat_age_seconds": None,
        "escalation_lag_seconds": 0,
        "oldest_pending_notification_seconds": 0,
        "channels": {},
    }


def test_ready_while_a_worker_beats(client, database):
    Heartbeat(database, "worker-1").run_once()
    response = client.get("/ready")
    assert response.status_code == 200
    assert (response.json["status"], response.json["database"], response.json["pending_migrations"]) == (
        "ready",
        "ok",
        0,
    )
    assert 0 <= response.json["worker_beat_age_seconds"] < 15


def test_not_ready_when_the_last_beat_is_old(client, sql):
    sql("INSERT INTO worker_heartbeats VALUES ('worker-1', clock_timestamp() - interval '16 seconds')")
    response = client.get("/ready")
    assert (response.status_code, response.json["status"]) == (503, "not_ready")
    assert response.json["worker_beat_age_seconds"] >= 16
    sql("INSERT INTO worker_heartbeats VALUES ('worker-2', clock_timestamp())")
    assert client.get("/ready").status_code == 200


def test_not_ready_while_a_migration_is_missing(client, database, sql):
    Heartbeat(database, "worker-1").run_once()
    sql("DELETE FROM schema_migrations WHERE number = (SELECT max(number) FROM schema_migrations)")
    response = client.get("/ready")
    assert (response.status_code, response.json["pending_migrations"]) == (503, 1)


def test_not_ready_without_the_database(client_with):
    response = client_with(database_url=NOWHERE).get("/ready")
    assert response.status_code == 503
    assert response.json == {
        "status": "not_ready",
        "database": "away",
        "pending_migrations": None,
        "worker_beat_age_seconds": None,
        "escalation_lag_seconds": None,
        "oldest_pending_notification_seconds": None,
        "channels": {},
    }


# ---- how pages get on


@pytest.fixture
def page(client, headers, raise_alert, services) -> Callable[[], dict[str, Any]]:
    """Raise an alert of a new device and take the tier that is due; a second one follows after 5 minutes."""
    policy = make_policy({**MAIL, "channels": ["email", "sms"], "recipients": ["a@example.com", "+33612345678"]}, SMS)
    assert client.post("/api/v1/escalation-policies", json=policy, headers=headers("admin")).status_code == 201

    def start() -> dict[str, Any]:
        raised: dict[str, Any] = raise_alert(device_id=make_device())
        services.escalations.run_once()
        return raised

    return start


def test_ready_tells_how_late_pages_are(client, page, clock, services, sql):
    page()
    clock.advance(timedelta(minutes=4))
    answer = client.get("/ready").json
    assert (answer["escalation_lag_seconds"], answer["oldest_pending_notification_seconds"]) == (0, 240)
    clock.advance(timedelta(minutes=3))
    sql("UPDATE notifications SET status = 'sent' WHERE channel = 'sms'")
    answer = client.get("/ready").json
    assert (answer["escalation_lag_seconds"], answer["oldest_pending_notification_seconds"]) == (120, 420)
    services.escalations.run_once()
    sql("UPDATE notifications SET status = 'sent'")
    answer = client.get("/ready").json
    assert (answer["escalation_lag_seconds"], answer["oldest_pending_notification_seconds"]) == (0, 0)


def fail_by_setting(sql, channel: str, reason: str) -> None:
    (failed,) = sql(
        "WITH claimed AS (UPDATE notifications SET status = 'sending', attempts = 1"
        " WHERE status = 'pending' AND channel = %s RETURNING id)"
        " SELECT id FROM claimed ORDER BY id LIMIT 1",
        channel,
    )
    sql("SELECT fail_notification(%s, 1, 'failed', %s, true)", failed[0], reason)


def test_ready_names_the_channels_that_a_setting_stops(client, database, page, sql, clock):
    Heartbeat(database, "worker-1").run_once()
    page()
    fail_by_setting(sql, "sms", "Twilio refuses the credentials (Twilio error 20003)")
    answer = client.get("/ready")
    # The service does what it can, and says what it cannot.
    assert (answer.status_code, answer.json["status"]) == (200, "ready")
    assert answer.json["channels"] == {"sms": "Twilio refuses the credentials (Twilio error 20003)"}
    clock.advance(timedelta(minutes=1))
    page()
    fail_by_setting(sql, "sms", "the number is missing")
    fail_by_setting(sql, "email", "SMTP_URL is not set")
    assert client.get("/ready").json["channels"] == {"email": "SMTP_URL is not set", "sms": "the number is missing"}
    clock.advance(timedelta(hours=1))
    assert client.get("/ready").json["channels"] == {}


def test_ready_forgets_a_fault_once_the_channel_sends_again(client, page, sql):
    page()
    fail_by_setting(sql, "sms", "Twilio refuses the credentials")
    sql("UPDATE notifications SET status = 'sent' WHERE channel = 'email'")
    assert client.get("/ready").json["channels"] == {"sms": "Twilio refuses the credentials"}
    page()
    sql("UPDATE notifications SET status = 'delivered' WHERE channel = 'sms' AND status = 'pending'")
    assert client.get("/ready").json["channels"] == {}


def test_ready_names_no_channel_for_other_failures(client, page, sql):
    page()
    sql("UPDATE notifications SET status = 'sending', attempts = 1")
    sql("SELECT fail_notification(id, 1, 'failed', 'the number is not valid') FROM notifications")
    assert client.get("/ready").json["channels"] == {}


def test_metrics_show_how_pages_get_on(scrape, page, act, clock, services, database, sql):
    samples = scrape()
    assert samples["escalation_lag_seconds", frozenset()] == 0
    assert samples["notifications_oldest_pending_seconds", frozenset()] == 0
    assert not any(name == "worker_beat_age_seconds" for name, _ in samples)
    page()
    clock.advance(timedelta(minutes=11))
    samples = scrape()
    assert pick(samples, "escalation_lag_seconds") == 360
    assert pick(samples, "notifications_oldest_pending_seconds") == 660
    services.escalations.run_once()
    sql(SEND_EVERYTHING)
    clock.advance(timedelta(minutes=11))
    services.escalations.run_once()
    act(page()["alert_id"], "acknowledge")
    page()
    sql("UPDATE notifications SET status = 'sent' WHERE channel = 'email' AND status = 'pending'")
    Heartbeat(database, "worker-1").run_once()
    samples = scrape()
    counted = {
        (dict(pairs)["channel"], dict(pairs)["status"]): value
        for (name, pairs), value in samples.items()
        if name == "notifications_total"
    }
    assert counted == {
        ("email", "cancelled"): 2,
        ("email", "sent"): 1,
        ("sms", "cancelled"): 2,
        ("sms", "pending"): 1,
        ("sms", "sent"): 1,
    }
    assert pick(samples, "escalations_total", status="completed") == 1
    assert pick(samples, "escalations_total", status="cancelled") == 1
    assert pick(samples, "escalations_total", status="in_progress") == 1
    assert pick(samples, "escalations_unheard_total") == 1
    assert 0 < pick(samples, "worker_beat_age_seconds") < 15


def test_operations_refuse_a_query(client):
    for path in ("/health", "/ready", "/metrics"):
        response = client.get(path, query_string={"verbose": "1"})
        assert (response.status_code, response.json["details"][0]["field"]) == (400, "verbose")


# ---- metrics


def test_metrics_count_requests_by_route_and_status(client, headers, scrape, raise_alert):
    before = scrape()
    alert_id = raise_alert()["alert_id"]
    client.get(f"{ALERTS}/{alert_id}", headers=headers("viewer"))
    client.get(f"{ALERTS}/4711", headers=headers("viewer"))
    client.get("/api/v1/nothing/here")
    client.open("/api/v1/nothing/here", method="BREW")
    client.open(ALERTS, method="BREW")
    after = scrape()

    def grown(name: str, **labels: str) -> float:
        return pick(after, name, **labels) - pick(before, name, **labels)

    one = "/api/v1/alerts/<alert_id>"
    assert grown("http_requests_total", method="POST", route=ALERTS, status="201") == 1
    assert grown("http_requests_total", method="GET", route=one, status="200") == 1
    assert grown("http_requests_total", method="GET", route=one, status="404") == 1
    assert grown("http_request_duration_seconds_count", method="GET", route=one) == 2
    # Whatever somebody makes up stays one time series.
    assert grown("http_requests_total", method="other", route="unmatched", status="404") == 2
    assert grown("http_requests_total", method="other", route="unmatched", status="405") == 1
    assert not any("4711" in value for _, labels in after for _, value in labels)
    assert not any(value == "BREW" for _, labels in after for _, value in labels)


def test_metrics_show_alerts_groups_and_breaches(scrape, raise_alert, act, clock, services):
    first = raise_alert()
    raise_alert()
    raise_alert(severity="low", device_id=make_device())
    act(first["alert_id"], "acknowledge")
    clock.advance(timedelta(minutes=31))
    services.sla.run_once()
    samples = scrape()
    assert pick(samples, "database_up") == 1
    assert pick(samples, "alerts", severity="critical", state="acknowledged") == 2
    assert pick(samples, "alerts", severity="low", state="new") == 1
    assert pick(samples, "active_groups") == 2
    # The duplicate is late too, and not counted.
    assert pick(samples, "sla_breaches_total", severity="critical", clock="ttr") == 1
    assert pick(samples, "sla_breaches_total", severity="critical", clock="tta") == 0
    act(first["group_id"], "resolve", kind="groups", advance=True)
    services.housekeeping.tallies.run_once()
    samples = scrape()
    assert pick(samples, "alerts", severity="critical", state="acknowledged") == 0
    assert pick(samples, "alerts", severity="critical", state="resolved") == 2
    assert pick(samples, "active_groups") == 1


def test_metrics_show_the_use_of_the_pool(client, database, scrape, settings):
    assert pick(scrape(), "database_connections_limit") == settings.database_pool_size
    at_rest = pick(scrape(), "database_connections_in_use")
    with database.autocommit(), database.autocommit():
        assert pick(scrape(), "database_connections_in_use") == at_rest + 2


def test_metrics_without_the_database_say_so(client_with):
    response = client_with(database_url=NOWHERE).get("/metrics")
    assert response.status_code == 200
    samples = read_samples(response.text)
    assert pick(samples, "database_up") == 0
    assert not any(name == "advanced_alerting_alerts" for name, _ in samples)


def test_metrics_add_up_all_web_processes(settings, tmp_path):
    folder = tmp_path / "metrics"
    folder.mkdir()
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(REPOSITORY),
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "DATABASE_URL": settings.database_url,
        "JWT_SECRET": settings.jwt_secret,
    }
    program = (
        "import sys; from app_advanced import app; client = app.test_client();"
        "[client.get('/health') for _ in range(int(sys.argv[1]))]; print(client.get('/metrics').text)"
    )

    def run_process(requests: int) -> Samples:
        command = [sys.executable, "-W", "error", "-c", program, str(requests)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return read_samples(done.stdout)

    assert pick(run_process(3), "http_requests_total", method="GET", route="/health", status="200") == 3
    samples = run_process(4)
    assert pick(samples, "http_requests_total", method="GET", route="/health", status="200") == 7
    assert pick(samples, "http_requests_total", method="GET", route="/metrics", status="200") == 1
    assert pick(samples, "database_up") == 1
    # The pool of the process that has ended is gone.
    assert pick(samples, "database_connections_limit") == 8


# ---- request ids


def test_request_id_is_taken_over(client):
    for given in ("abc-123", "x" * 128, "!~{}"):
        response = client.get("/health", headers={"X-Request-ID": given})
        assert response.headers["X-Request-ID"] == given


def test_request_id_is_made_where_none_is_of_use(client):
    made = set()
    for given in (
        {},
        {"X-Request-ID": ""},
        {"X-Request-ID": "x" * 129},
        {"X-Request-ID": "a b"},
        {"X-Request-ID": "é"},
    ):
        made.add(client.get("/health", headers=given).headers["X-Request-ID"])
    assert len(made) == 5
    assert all(len(identifier) == 32 and identifier.isalnum() for identifier in made)


def test_request_id_stands_in_every_error(client, headers):
    sent = {"X-Request-ID": "trace-me"}
    responses = [
        client.get(ALERTS, headers=sent),
        client.get(f"{ALERTS}/1", headers=headers("viewer") | sent),
        client.post(ALERTS, json={}, headers=headers("device") | sent),
        client.get("/nowhere", headers=sent),
        client.delete(ALERTS, headers=sent),
    ]
    assert [r.status_code for r in responses] == [401, 404, 400, 404, 405]
    assert all(r.headers["X-Request-ID"] == r.json["request_id"] == "trace-me" for r in responses)


# ---- the log


def test_every_request_leaves_one_json_line(client, headers, caplog):
    caplog.set_level(logging.INFO, logger="advanced_alerting.access")
    sent = headers("viewer", subject="ana") | {"X-Request-ID": "trace-me"}
    client.get(f"{ALERTS}/4711?x=secret-in-a-query", headers=sent)
    client.get("/health")
    lines = [JsonFormatter().format(r) for r in caplog.records if r.name == "advanced_alerting.access"]
    assert not any("\n" in line for line in lines)
    first, second = (json.loads(line) for line in lines)
    assert first.pop("duration_ms") >= 0
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "INFO",
        "logger": "advanced_alerting.access",
        "message": f"GET {ALERTS}/4711 400",
        "request_id": "trace-me",
        "method": "GET",
        "path": f"{ALERTS}/4711",
        "route": f"{ALERTS}/<alert_id>",
        "status": 400,
        "subject": "ana",
    }
    assert (second["route"], second["status"], second["subject"]) == ("/health", 200, None)
    secret = sent["Authorization"].split(".")[-1]
    assert not any(secret in line or "secret-in-a-query" in line for line in lines)


def test_nobody_forges_a_log_line(client, caplog):
    caplog.set_level(logging.INFO, logger="advanced_alerting.access")
    client.get("/x%0a%22forged%22:1%0d%1b[31m")
    (record,) = (r for r in caplog.records if r.name == "advanced_alerting.access")
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "\r" not in line
    assert json.loads(line)["path"] == '/x\n"forged":1\r\x1b[31m'


# ---- CORS


DASHBOARD = "https://dashboard.example.com"


def test_cors_lets_a_named_origin_call(client_with):
    client = client_with(cors_origins=(DASHBOARD, "https://other.example.com"))
    response = client.get("/health", headers={"Origin": DASHBOARD})
    assert response.headers["Access-Control-Allow-Origin"] == DASHBOARD
    assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in response.headers
    # Errors can be read by the dashboard too.
    assert client.get(ALERTS, headers={"Origin": DASHBOARD}).headers["Access-Control-Allow-Origin"] == DASHBOARD


def test_cors_answers_the_preflight_without_a_token(client_with):
    wanted = ["authorization", "content-type", "idempotency-key", "x-request-id"]
    preflight = {
        "Origin": DASHBOARD,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": ", ".join(wanted),
    }
    response = client_with(cors_origins=(DASHBOARD,)).options(ALERTS, headers=preflight)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == DASHBOARD
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert response.headers["Access-Control-Allow-Headers"].lower().split(", ") == wanted


def test_cors_lets_nobody_else_in(client, client_with):
    for sender, origin in (
        (client, DASHBOARD),
        (client_with(cors_origins=(DASHBOARD,)), "https://evil.example.com"),
        (client_with(cors_origins=(DASHBOARD,)), f"{DASHBOARD}.evil.com"),
        (client_with(cors_origins=(DASHBOARD,)), "null"),
    ):
        response = sender.get("/health", headers={"Origin": origin})
        assert response.headers.get("Access-Control-Allow-Origin") != origin
        assert response.headers.get("Access-Control-Allow-Origin") != "*"


# ---- the rate limit


def test_rate_limit_counts_per_token(client_with, headers):
    client = client_with(rate_limit="3/minute")
    mine, theirs = headers("viewer", subject="ana"), headers("viewer", subject="ben")
    assert [client.get(ALERTS, headers=mine).status_code for _ in range(5)] == [200] * 3 + [429] * 2
    assert client.get(ALERTS, headers=theirs).status_code == 200
    response = client.post(ALERTS, json=make_report(), headers=mine)
    assert response.status_code == 429
    assert response.json["code"] == "too_many_requests"
    assert response.json["request_id"] == response.headers["X-Request-ID"]
    assert 1 <= int(response.headers["Retry-After"]) <= 61


def test_rate_limit_counts_per_address_where_there_is_no_token(client_with):
    client = client_with(rate_limit="2/minute")
    assert [client.get(ALERTS).status_code for _ in range(3)] == [401, 401, 429]


def test_rate_limit_leaves_operations_alone(client_with):
    client = client_with(rate_limit="1/minute")
    for path in ("/health", "/ready", "/metrics"):
        assert all(client.get(path).status_code != 429 for _ in range(4)), path


def test_rate_limit_is_off_by_default(client, headers):
    mine = headers("viewer")
    assert {client.get(ALERTS, headers=mine).status_code for _ in range(50)} == {200}
