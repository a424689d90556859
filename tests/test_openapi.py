"""The specification: complete, valid, true to what the service answers, and its examples work as they stand."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from openapi_schema_validator import OAS30ReadValidator, OAS30WriteValidator, oas30_format_checker
from openapi_spec_validator import validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from api.auth import public, require_jwt, require_permission
from api.parsing import Schema
from api.routing import Answer, ApiBlueprint, operation
from app_advanced import create_app

Json = dict[str, Any]

# The page itself, what it loads, and an address that flasgger redirects to it.
PAGE_ROUTES = {
    "/api/v1/docs",
    "/api/v1/docs/static/<path:filename>",
    "/api/v1/docs/oauth2-redirect.html",
    "/api/v1/openapi.json",
    "/apidocs/index.html",
}

# Every operation in an order that a person could follow from an empty database: later ones need what earlier ones made.
TOUR = [
    ("POST", "/api/v1/auth/login"),
    ("GET", "/api/v1/auth/me"),
    ("PUT", "/api/v1/auth/me"),
    ("POST", "/api/v1/escalation-policies"),
    ("POST", "/api/v1/alerts"),
    ("GET", "/api/v1/alerts"),
    ("GET", "/api/v1/alerts/{alert_id}"),
    ("POST", "/api/v1/alerts/{alert_id}/escalate"),
    ("GET", "/api/v1/escalations"),
    ("GET", "/api/v1/escalations/{escalation_id}"),
    ("POST", "/api/v1/alerts/{alert_id}/acknowledge"),
    ("POST", "/api/v1/alerts/{alert_id}/investigate"),
    ("POST", "/api/v1/alerts/{alert_id}/notes"),
    ("POST", "/api/v1/alerts/{alert_id}/resolve"),
    ("GET", "/api/v1/alerts/{alert_id}/history"),
    ("GET", "/api/v1/alerts/{alert_id}/notifications"),
    ("POST", "/api/v1/alerts/batch"),
    ("GET", "/api/v1/groups"),
    ("GET", "/api/v1/groups/stats"),
    ("GET", "/api/v1/groups/{group_id}"),
    ("POST", "/api/v1/groups/{group_id}/acknowledge"),
    ("POST", "/api/v1/groups/{group_id}/investigate"),
    ("POST", "/api/v1/groups/{group_id}/resolve"),
    ("GET", "/api/v1/sla/targets"),
    ("PUT", "/api/v1/sla/targets"),
    ("GET", "/api/v1/sla/compliance"),
    ("GET", "/api/v1/escalation-policies"),
    ("GET", "/api/v1/escalation-policies/{policy_id}"),
    ("PUT", "/api/v1/escalation-policies/{policy_id}"),
    ("POST", "/api/v1/escalation-policies/{policy_id}/simulate"),
    ("DELETE", "/api/v1/escalation-policies/{policy_id}"),
    ("POST", "/api/v1/on-call/schedules"),
    ("GET", "/api/v1/on-call/schedules"),
    ("GET", "/api/v1/on-call/schedules/{schedule_id}"),
    ("PUT", "/api/v1/on-call/schedules/{schedule_id}"),
    ("POST", "/api/v1/on-call/schedules/{schedule_id}/overrides"),
    ("GET", "/api/v1/on-call/current"),
    ("GET", "/api/v1/on-call/schedules/{schedule_id}/shifts"),
    ("DELETE", "/api/v1/on-call/schedules/{schedule_id}/overrides"),
    ("DELETE", "/api/v1/on-call/schedules/{schedule_id}"),
    ("POST", "/api/v1/ml/models/train"),
    ("POST", "/api/v1/ml/predict"),
    ("POST", "/api/v1/ml/predict/batch"),
    ("GET", "/api/v1/devices/{device_id}/telemetry"),
    ("GET", "/api/v1/ml/models"),
    ("GET", "/api/v1/ml/models/{model_id}"),
    ("POST", "/api/v1/ml/models/{model_id}/activate"),
    ("DELETE", "/api/v1/ml/models/{model_id}"),
    ("GET", "/api/v1/users"),
    ("POST", "/api/v1/users"),
    ("GET", "/api/v1/users/{user_id}"),
    ("PUT", "/api/v1/users/{user_id}"),
    ("DELETE", "/api/v1/users/{user_id}"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
]


# Not for people: who calls them signs.
SIGNED = {("POST", "/api/v1/notifications/twilio/status")}


@pytest.fixture
def specification(client) -> Json:
    """Return the document as clients get it."""
    response = client.get("/api/v1/openapi.json")
    assert (response.status_code, response.content_type) == (200, "application/json")
    document: Json = response.json
    return document


def list_operations(specification: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in specification["paths"].items():
        for method, described in item.items():
            yield method.upper(), path, described


def resolve(specification: Json, schema: Json) -> Json:
    while "$ref" in schema:
        target: Any = specification
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def walk(value: Any) -> Iterator[Json]:
    """Yield every object in a document."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


def make_example(specification: Json, schema: Json) -> Any:
    """Return what Swagger UI puts into its input: the example, else one made of the examples of its parts."""
    schema = resolve(specification, schema)
    if "example" in schema:
        return schema["example"]
    if schema.get("type") == "array":
        return [make_example(specification, schema["items"])]
    assert schema.get("type") == "object", f"no example to be made of {schema}"
    return {name: make_example(specification, part) for name, part in schema["properties"].items()}


def find_faults(specification: Json, schema: Json, value: Any, *, is_request: bool = False) -> list[str]:
    """Return where a value breaks its documented schema, by the rules of OpenAPI 3.0 and not by ours."""
    validator = OAS30WriteValidator if is_request else OAS30ReadValidator
    whole = {"allOf": [schema], "components": specification["components"]}
    found = validator(whole, format_checker=oas30_format_checker).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in found]


# ---- the document


def test_document_is_valid_openapi_303(specification):
    assert specification["openapi"] == "3.0.3"
    validate(specification)


def test_validator_can_refuse(specification):
    # Else the test above could not fail.
    del specification["paths"]["/api/v1/alerts"]["post"]["responses"]
    with pytest.raises(OpenAPIValidationError):
        validate(specification)


def test_every_route_is_documented_and_permitted(app, specification):
    documented = {(method, path) for method, path, _ in list_operations(specification)}
    routes = set()
    for rule in app.url_map.iter_rules():
        if rule.rule in PAGE_ROUTES:
            continue
        view = app.view_functions[rule.endpoint]
        assert getattr(view, "permission", None), f"{rule.rule} names no permission"
        assert getattr(view, "operation", None), f"{rule.rule} is not documented"
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        routes |= {(method, path) for method in rule.methods - {"HEAD", "OPTIONS"}}
    assert documented == routes == set(TOUR) | SIGNED


def test_every_operation_says_what_people_need(specification):
    declared_tags = {tag["name"] for tag in specification["tags"]}
    identifiers = []
    for method, path, described in list_operations(specification):
        place = f"{method} {path}"
        identifiers.append(described["operationId"])
        assert described["summary"], place
        assert set(described["tags"]) <= declared_tags, place
        responses = described["responses"]
        assert any(status.startswith("2") for status in responses), place
        assert all(response["description"] for response in responses.values()), place
        assert all("content" in response for status, response in responses.items() if status != "204"), place
        if described["security"]:
            assert described["security"] == [{"bearer": []}]
            assert "Permission: `" in described["description"], place
            assert {"401", "403"} <= responses.keys(), place
        else:
            assert path in ("/health", "/ready", "/metrics", "/api/v1/auth/login") or (method, path) in SIGNED
        if "requestBody" in described:
            assert {"400", "413"} <= responses.keys(), place
            assert ("application/json" in described["requestBody"]["content"]) == ("415" in responses), place
        parameters = {(p["in"], p["name"]) for p in described["parameters"]}
        assert {name for kind, name in parameters if kind == "path"} == set(re.findall(r"{(\w+)}", path)), place
        assert all(p["schema"] for p in described["parameters"]), place
        assert ("{" in path) <= ("404" in responses), place
    assert len(set(identifiers)) == len(identifiers)


def test_authorize_button_has_a_scheme_to_offer(specification):
    assert specification["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }


def test_query_parameters_of_the_contract_are_documented(specification):
    paging = {"page", "limit", "cursor"}
    wanted = {
        ("GET", "/api/v1/alerts"): paging
        | {"severity", "state", "device_id", "metric", "group_id", "start_date", "end_date", "q"},
        ("GET", "/api/v1/groups"): paging | {"status", "device_id", "start_date", "end_date"},
        ("GET", "/api/v1/users"): paging,
        ("GET", "/api/v1/sla/compliance"): {"start_date", "end_date", "severity"},
        ("GET", "/api/v1/escalation-policies"): paging | {"enabled", "severity_match"},
        ("GET", "/api/v1/escalations"): paging | {"status", "severity", "device_id"},
        ("GET", "/api/v1/alerts/{alert_id}/notifications"): paging,
        ("POST", "/api/v1/notifications/twilio/status"): {"notification"},
        ("GET", "/api/v1/on-call/current"): {"schedule_id", "at"},
        ("GET", "/api/v1/ml/models"): paging | {"device_id", "metric", "is_active"},
        ("GET", "/api/v1/devices/{device_id}/telemetry"): {"metric", "from", "to"},
        ("GET", "/api/v1/on-call/schedules"): paging | {"enabled", "rotation_type"},
        ("GET", "/api/v1/on-call/schedules/{schedule_id}/shifts"): {"from", "to"},
        ("DELETE", "/api/v1/on-call/schedules/{schedule_id}/overrides"): {"start", "end", "user_id"},
    }
    for method, path, described in list_operations(specification):
        named = {p["name"] for p in described["parameters"] if p["in"] == "query"}
        assert named == wanted.get((method, path), set()), (method, path)
    for path in ("/api/v1/alerts", "/api/v1/alerts/batch"):
        headers = [p["name"] for p in specification["paths"][path]["post"]["parameters"] if p["in"] == "header"]
        assert headers == ["Idempotency-Key"]


def test_every_schema_of_a_request_refuses_unknown_fields(specification):
    for method, path, described in list_operations(specification):
        if "requestBody" in described and (method, path) not in SIGNED:
            schema = described["requestBody"]["content"]["application/json"]["schema"]
            assert resolve(specification, schema)["additionalProperties"] is False, (method, path)


def test_document_points_nowhere_else(specification):
    for item in walk(specification):
        assert item.get("$ref", "#/").startswith("#/") or isinstance(item["$ref"], dict)
        assert "externalDocs" not in item
        assert "externalValue" not in item
    assert specification["servers"] == [{"url": "/"}]
    # http:// addresses in an example or a description would be links of the page.
    assert not re.findall(r"https?://", json.dumps({**specification, "components": {}}))


def test_document_uses_no_word_that_openapi_30_does_not_know(specification):
    foreign = {"const", "$defs", "examples", "prefixItems", "$schema", "patternProperties", "if", "propertyNames"}
    for name, schema in specification["components"]["schemas"].items():
        for item in walk(schema):
            properties = item.get("properties", {})
            assert not foreign & item.keys() - properties.keys(), name
            assert item.get("type") != "null", name
            assert not isinstance(item.get("type"), list), name


def test_document_is_the_same_every_time(specification, services):
    again = create_app(services=services).test_client().get("/api/v1/openapi.json").json
    assert again == specification


# ---- examples and answers


@pytest.fixture
def ana(services, headers) -> dict[str, str]:
    """Make the people that the examples speak of; return the headers of ana, an administrator with id 2."""
    password = "correct horse battery"
    for email, role in (("colleague@example.com", "operator"), ("ana@example.com", "admin")):
        user = services.accounts.create_user(email=email, name=email, role=role, password=password)
    assert user.user_id == 2
    sent: dict[str, str] = headers("admin", subject="2")
    return sent


def build_request(specification: Json, method: str, path: str) -> tuple[str, Json]:
    """Return address and arguments of the request that "Try it out" sends without a change."""
    described = specification["paths"][path][method.lower()]
    query = {}
    for parameter in described["parameters"]:
        schema = parameter["schema"]
        sample = parameter.get("example", schema.get("example", schema.get("default")))
        if parameter["in"] == "path":
            assert sample is not None, f"{path} has no example for {parameter['name']}"
            path = path.replace(f"{{{parameter['name']}}}", str(sample))
        elif parameter["in"] == "query" and sample is not None:
            query[parameter["name"]] = sample
        else:
            assert not parameter["required"], f"{path} has no example for {parameter['name']}"
    arguments: Json = {"query_string": query}
    if "requestBody" in described:
        schema = described["requestBody"]["content"]["application/json"]["schema"]
        arguments["json"] = make_example(specification, schema)
        assert find_faults(specification, schema, arguments["json"], is_request=True) == []
    return path, arguments


def test_every_example_can_be_sent_as_it_stands_and_gets_what_is_documented(client, specification, ana, database):
    from worker import Heartbeat

    Heartbeat(database, "worker").run_once()
    for method, path in TOUR:
        address, arguments = build_request(specification, method, path)
        response = client.open(address, method=method, headers=ana, **arguments)
        described = specification["paths"][path][method.lower()]
        assert 200 <= response.status_code < 300, (method, address, response.json)
        assert str(response.status_code) in described["responses"], (method, path)
        content = described["responses"][str(response.status_code)]["content"]
        assert response.mimetype in content, (method, path)
        if response.is_json:
            schema = content["application/json"]["schema"]
            assert find_faults(specification, schema, response.json) == [], (method, path)


def test_every_error_has_its_documented_shape(client, specification, headers):
    errors = {
        400: client.post("/api/v1/alerts", json={}, headers=headers("admin")),
        401: client.post("/api/v1/alerts", json={}),
        403: client.post("/api/v1/alerts", json={}, headers=headers("viewer")),
        415: client.post("/api/v1/alerts", data=b"x", headers=headers("admin")),
        413: client.post(
            "/api/v1/alerts", data=b"x" * 1048577, headers=headers("admin"), content_type="application/json"
        ),
    }
    for status, response in errors.items():
        documented = specification["paths"]["/api/v1/alerts"]["post"]["responses"][str(status)]
        assert response.status_code == status
        assert find_faults(specification, documented["content"]["application/json"]["schema"], response.json) == []


def test_refused_step_has_its_documented_shape(specification, raise_alert, act):
    response = act(raise_alert()["alert_id"], "resolve")
    path = specification["paths"]["/api/v1/alerts/{alert_id}/resolve"]["post"]
    schema = path["responses"]["409"]["content"]["application/json"]["schema"]
    assert response.status_code == 409
    assert find_faults(specification, schema, response.json) == []


def test_answers_with_everything_filled_in_have_their_documented_shape(
    client, headers, specification, raise_alert, act, ana
):
    alert = raise_alert(occurred_at="2026-03-02T07:00:00Z", source="plc", metadata={"deep": [1, {"x": None}]})
    raise_alert()
    act(alert["alert_id"], "acknowledge")
    act(alert["alert_id"], "investigate", assign_to_user_id="1", notes="yours")
    act(alert["alert_id"], "resolve", resolution="fixed")
    for path in ("/api/v1/alerts", "/api/v1/alerts/{alert_id}", "/api/v1/alerts/{alert_id}/history", "/api/v1/groups"):
        response = client.get(path.replace("{alert_id}", alert["alert_id"]), headers=headers("viewer"))
        content = specification["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        assert response.status_code == 200
        assert find_faults(specification, content["schema"], response.json) == [], path


def test_answers_with_nothing_in_them_have_their_documented_shape(client, headers, specification):
    for path in (
        "/api/v1/alerts",
        "/api/v1/groups",
        "/api/v1/groups/stats",
        "/api/v1/users",
        "/api/v1/auth/me",
        "/api/v1/sla/compliance",
        "/api/v1/escalation-policies",
        "/api/v1/escalations",
        "/api/v1/on-call/schedules",
        "/api/v1/on-call/current",
    ):
        response = client.get(path, headers=headers("admin"))
        content = specification["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        assert response.status_code == 200
        assert find_faults(specification, content["schema"], response.json) == [], path


def test_find_faults_can_find_one(specification):
    # Else the tests above could not fail.
    schema = {"$ref": "#/components/schemas/RaisedAlert"}
    faults = find_faults(specification, schema, {"alert_id": 1})
    assert any("alert_id" in fault and "string" in fault for fault in faults)
    assert any("'severity' is a required property" in fault for fault in faults)


# ---- what cannot be registered, and what cannot be answered


@pytest.fixture
def own_app(services) -> Flask:
    """Return an app to which views may still be added."""
    application = create_app(services=services)
    application.config["CHECK_ANSWERS"] = True
    return application


class Small(Schema):
    """A small answer."""

    count: int


def test_blueprint_refuses_a_view_without_permission():
    blueprint = ApiBlueprint("bare", __name__)

    @operation("Look", tag="Alerts", answers={200: Small})
    def look() -> Answer:
        return {"count": 1}, 200

    with pytest.raises(TypeError, match="/look: the view names no permission"):
        blueprint.get("/look")(require_jwt(look))


def test_blueprint_refuses_a_view_without_documentation():
    blueprint = ApiBlueprint("bare", __name__)

    def look() -> Answer:
        return {"count": 1}, 200

    with pytest.raises(TypeError, match="/look: the view is not documented"):
        blueprint.get("/look")(require_jwt(require_permission("alerts:read")(look)))


def test_view_whose_answer_breaks_its_schema_is_found_out(own_app, caplog):
    blueprint = ApiBlueprint("lying", __name__)

    @blueprint.get("/lie")
    @public
    @operation("Lie", tag="Alerts", answers={200: Small})
    def lie() -> Answer:
        return {"count": "one", "more": True}, 200

    @blueprint.get("/surprise")
    @public
    @operation("Surprise", tag="Alerts", answers={200: Small})
    def surprise() -> Answer:
        return {"count": 1}, 201

    own_app.register_blueprint(blueprint)
    caplog.set_level(logging.ERROR)
    client = own_app.test_client()
    assert client.get("/lie").status_code == 500
    assert "count" in caplog.text
    # A status that nobody documented is found out as well.
    assert client.get("/surprise").status_code == 500


def test_permission_without_a_token_check_lets_nobody_in(own_app, headers):
    blueprint = ApiBlueprint("careless", __name__)

    @blueprint.get("/careless")
    @require_permission("alerts:read")
    @operation("Forget require_jwt", tag="Alerts", answers={200: Small})
    def forget() -> Answer:
        return {"count": 1}, 200

    own_app.register_blueprint(blueprint)
    assert own_app.test_client().get("/careless", headers=headers("admin")).status_code == 401
