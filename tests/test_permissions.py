"""Every route with every role: who is let in, who is refused, and how.

The tables here are written from the contract, not from the code: a route that is new, or asks for another
permission, fails until somebody has said here who may call it.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

PUBLIC = """
GET  /health
GET  /ready
GET  /metrics
POST /api/v1/auth/login
GET  /api/v1/docs
GET  /api/v1/docs/static/<path:filename>
GET  /api/v1/docs/oauth2-redirect.html
GET  /api/v1/openapi.json
GET  /apidocs/index.html
"""

# Open to everybody, and no use to anybody who cannot sign.
SIGNED = """
POST /api/v1/notifications/twilio/status
"""

PROTECTED = """
GET    /api/v1/auth/me                          self
PUT    /api/v1/auth/me                          self
GET    /api/v1/users                            users:read
POST   /api/v1/users                            users:write
GET    /api/v1/users/<user_id>                  users:read
PUT    /api/v1/users/<user_id>                  users:write
DELETE /api/v1/users/<user_id>                  users:write
GET    /api/v1/alerts                           alerts:read
POST   /api/v1/alerts                           alerts:create
POST   /api/v1/alerts/batch                     alerts:create
GET    /api/v1/alerts/<alert_id>                alerts:read
GET    /api/v1/alerts/<alert_id>/history        alerts:read
POST   /api/v1/alerts/<alert_id>/notes          alerts:note
POST   /api/v1/alerts/<alert_id>/acknowledge    alerts:acknowledge
POST   /api/v1/alerts/<alert_id>/investigate    alerts:investigate
POST   /api/v1/alerts/<alert_id>/resolve        alerts:resolve
POST   /api/v1/alerts/<alert_id>/escalate       alerts:escalate
GET    /api/v1/alerts/<alert_id>/notifications  notifications:read
GET    /api/v1/escalations                      escalation:read
GET    /api/v1/escalations/<escalation_id>      escalation:read
GET    /api/v1/groups                           groups:read
GET    /api/v1/groups/stats                     groups:read
GET    /api/v1/groups/<group_id>                groups:read
POST   /api/v1/groups/<group_id>/acknowledge    alerts:acknowledge
POST   /api/v1/groups/<group_id>/investigate    alerts:investigate
POST   /api/v1/groups/<group_id>/resolve        alerts:resolve
GET    /api/v1/sla/targets                      sla:read
PUT    /api/v1/sla/targets                      sla:write
GET    /api/v1/sla/compliance                   sla:read
GET    /api/v1/escalation-policies                       escalation:read
POST   /api/v1/escalation-policies                       escalation:write
GET    /api/v1/escalation-policies/<policy_id>           escalation:read
PUT    /api/v1/escalation-policies/<policy_id>           escalation:write
DELETE /api/v1/escalation-policies/<policy_id>           escalation:write
POST   /api/v1/escalation-policies/<policy_id>/simulate  escalation:read
GET    /api/v1/on-call/current                           on_call:read
GET    /api/v1/on-call/schedules                         on_call:read
POST   /api/v1/on-call/schedules                         on_call:write
GET    /api/v1/on-call/schedules/<schedule_id>           on_call:read
PUT    /api/v1/on-call/schedules/<schedule_id>           on_call:write
DELETE /api/v1/on-call/schedules/<schedule_id>           on_call:write
POST   /api/v1/on-call/schedules/<schedule_id>/overrides on_call:write
DELETE /api/v1/on-call/schedules/<schedule_id>/overrides on_call:write
GET    /api/v1/on-call/schedules/<schedule_id>/shifts    on_call:read
POST   /api/v1/ml/models/train                           ml:train
POST   /api/v1/ml/predict                                ml:predict
POST   /api/v1/ml/predict/batch                          ml:predict
GET    /api/v1/ml/models                                 ml:read
GET    /api/v1/ml/models/<model_id>                      ml:read
DELETE /api/v1/ml/models/<model_id>                      ml:train
POST   /api/v1/ml/models/<model_id>/activate             ml:train
GET    /api/v1/devices/<device_id>/telemetry             devices:read
"""

VIEWER = {
    "self",
    "alerts:read",
    "groups:read",
    "sla:read",
    "escalation:read",
    "on_call:read",
    "notifications:read",
    "ml:read",
    "devices:read",
}
DEVICE = {"self", "alerts:create", "ml:predict"}
OPERATOR = VIEWER | {
    "alerts:create",
    "alerts:acknowledge",
    "alerts:investigate",
    "alerts:resolve",
    "alerts:note",
    "alerts:escalate",
    "ml:predict",
}
ENGINEER = OPERATOR | {"ml:train", "on_call:write"}
ADMIN = ENGINEER | {"sla:write", "escalation:write", "users:read", "users:write"}

ROLES = {
    "viewer": VIEWER,
    "device": DEVICE,
    "operator": OPERATOR,
    "engineer": ENGINEER,
    "admin": ADMIN,
    "": {"self"},
    "Admin": {"self"},
    "janitor": {"self"},
}


def parse_open(table: str) -> set[tuple[str, str]]:
    return {(method, path) for method, path in (line.split() for line in table.split("\n") if line)}


def parse_protected() -> dict[tuple[str, str], str]:
    rows = [line.split() for line in PROTECTED.split("\n") if line]
    return {(method, path): permission for method, path, permission in rows}


def list_routes(app: Flask) -> set[tuple[str, str]]:
    return {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


@pytest.fixture
def fire(client):
    """Fire a route with a token's headers; identifiers are 1, bodies empty objects."""

    def send(method: str, path: str, headers: dict[str, str]) -> TestResponse:
        path = re.sub(r"<\w+_id>", "1", path).replace("<path:filename>", "swagger-ui.css")
        body: dict[str, Any] = {"json": {}} if method in ("POST", "PUT") else {}
        response: TestResponse = client.open(path, method=method, headers=headers, buffered=True, **body)
        assert response.status_code < 500 or path == "/ready", (method, path, response.json)
        return response

    return send


def assert_refused(response: TestResponse, permission: str) -> None:
    assert response.status_code == 403
    assert response.json is not None
    assert response.json["code"] == "permission_denied"
    assert permission in response.json["error"]


def test_every_route_is_in_the_tables(app):
    assert list_routes(app) == parse_open(PUBLIC) | parse_open(SIGNED) | parse_protected().keys()


def test_every_permission_of_a_route_belongs_to_somebody():
    assert set(parse_protected().values()) <= ADMIN


@pytest.mark.parametrize("role", ROLES)
def test_callers_are_told_what_they_may(client, headers, role):
    told = client.get("/api/v1/auth/me", headers=headers(role)).json["permissions"]
    assert ROLES[role] - {"self"} <= set(told)
    assert not (ADMIN - ROLES[role]) & set(told)


@pytest.mark.parametrize("role", ROLES)
def test_every_route_with_this_role(fire, headers, role):
    for (method, path), permission in parse_protected().items():
        response = fire(method, path, headers(role))
        if permission in ROLES[role]:
            assert response.status_code not in (401, 403), (method, path)
        else:
            assert_refused(response, permission)


def test_every_route_without_a_token(fire):
    for method, path in parse_protected():
        for sent in (
            {},
            {"Authorization": ""},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer nonsense"},
            {"Authorization": "Basic YWRtaW46YWRtaW4="},
        ):
            response = fire(method, path, sent)
            assert response.status_code == 401, (method, path, sent)
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert response.json["code"] == "not_authenticated"


def test_head_asks_for_what_get_asks_for(client, headers):
    for (method, path), permission in parse_protected().items():
        if method == "GET" and permission != "self":
            address = re.sub(r"<\w+_id>", "1", path)
            assert client.head(address).status_code == 401
            assert client.head(address, headers=headers("janitor")).status_code == 403


def test_public_routes_ask_nobody(fire):
    for method, path in parse_open(PUBLIC):
        for sent in ({}, {"Authorization": "Bearer nonsense"}):
            # 503: nothing beats here. 400: the login lacks its fields. 302: an old address of the docs.
            assert fire(method, path, sent).status_code in (200, 302, 400, 503), (method, path)


def test_signed_routes_refuse_whoever_does_not_sign(fire, headers):
    for method, path in parse_open(SIGNED):
        for sent in ({}, headers("admin"), {"X-Twilio-Signature": ""}, {"X-Twilio-Signature": "bm8="}):
            response = fire(method, path, sent)
            assert (response.status_code, response.json["code"]) == (403, "not_signed")


def test_permissions_of_the_token_replace_those_of_the_role(fire, headers):
    protected = parse_protected()
    for granted in sorted(set(protected.values()) - {"self"}):
        weak, strong = headers("viewer", permissions=[granted]), headers("admin", permissions=[granted])
        for (method, path), permission in protected.items():
            # One is enough beyond the role, and nothing of the role is left beside it.
            response = fire(method, path, weak if permission == granted else strong)
            if permission == granted:
                assert response.status_code not in (401, 403), (method, path)
            elif permission != "self":
                assert_refused(response, permission)


def test_empty_permissions_leave_nothing_of_the_role(fire, headers):
    for (method, path), permission in parse_protected().items():
        response = fire(method, path, headers("admin", permissions=[]))
        if permission != "self":
            assert_refused(response, permission)


def test_nothing_is_done_for_who_may_not(fire, headers, raise_alert, sql):
    alert = raise_alert()
    assert alert["alert_id"] == alert["group_id"] == "1"
    sql("INSERT INTO users (email, name, role) VALUES ('ana@example.com', 'Ana', 'viewer')")
    before = sql(
        "SELECT (SELECT count(*) FROM alert_states), (SELECT count(*) FROM alerts), (SELECT state FROM alerts)"
    )
    for method, path in parse_protected():
        fire(method, path, {})
        fire(method, path, headers("janitor"))
    after = sql("SELECT (SELECT count(*) FROM alert_states), (SELECT count(*) FROM alerts), (SELECT state FROM alerts)")
    assert after == before == [(1, 1, "new")]
    assert sql("SELECT count(*), min(role) FROM users") == [(1, "viewer")]
    assert sql("SELECT count(*) FROM sla_targets WHERE updated_by <> 'system'") == [(0,)]


def test_refusal_comes_before_a_look_at_the_request(client, headers):
    # Who may not call a route learns nothing of what it takes or holds.
    assert client.post("/api/v1/alerts", data=b"{broken", headers=headers("viewer")).status_code == 403
    assert client.post("/api/v1/alerts", data=b"{broken").status_code == 401
    assert client.get("/api/v1/alerts/999?x=1", headers=headers("device")).status_code == 403
