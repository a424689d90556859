"""The specification (OpenAPI 3.0.3), made from the routes and the schemas that validate them, and its Swagger page.

Pydantic writes JSON Schema 2020-12; the bundled Swagger UI reads OpenAPI 3.0, so ``to_openapi_30`` turns the one
into the other: null becomes ``nullable``, ``const`` an ``enum``, ``examples`` an ``example``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from flasgger import Swagger
from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from api.parsing import UPLOAD_TYPE
from api.routing import DEVICE, PUBLIC, NoContent, Operation, PlainText
from api.schemas import ErrorAnswer

Json = dict[str, Any]
References = dict[tuple[type[BaseModel], str], Json]

REFERENCE = "#/components/schemas/{model}"
IDENTIFIER_SCHEMA = {"type": "string", "pattern": "^[1-9][0-9]*$", "example": "1"}
DEVICE_SCHEMA = {"type": "string", "format": "uuid", "example": "3a9ccfce-9773-4c72-b905-6a850e961587"}
ERROR_WORDS = {
    400: "malformed or invalid; every wrong field is named",
    401: "no token, or one that does not hold",
    403: "the token lacks the permission, or the callback is not signed",
    404: "there is no such thing",
    409: "not in a state for this, or it exists already",
    413: "the body is too large",
    415: "the body is not JSON",
    429: "too many requests; see Retry-After",
    503: "the database is away or busy; see Retry-After",
}
TAGS = {
    "Alerts": "Report, list, acknowledge, investigate and resolve",
    "Groups": "Alerts that belong together",
    "SLA": "Targets and compliance",
    "Escalation": "Who is to be paged for what, tier by tier",
    "On-call": "Whose turn it is",
    "Anomaly detection": "Models that score readings, and the readings kept",
    "Notifications": "What was sent to whom, and what became of it",
    "Authentication": "Login, and one's own account",
    "Users": "Who may do what",
    "Operations": "For those who run the service",
}
DESCRIPTION = """Alerting for industrial IoT: records every alert, groups the noise away and keeps the SLA clocks.

Get a token with `POST /api/v1/auth/login` (or `python app_advanced.py token --role admin`), press **Authorize** and
paste it. Times are ISO 8601 in UTC; identifiers are strings in answers, strings or integers in requests."""


class Documentation(Swagger):  # type: ignore[misc]  # flasgger has no types
    """Flasgger's page over our specification; it collects nothing from docstrings."""

    apispecs: dict[str, Json]

    def get_apispecs(self, endpoint: str = "openapi") -> Json:
        """Return the specification, built at its first use."""
        if endpoint not in self.apispecs:
            self.apispecs[endpoint] = build_specification(self.app)
        return self.apispecs[endpoint]


def document(app: Flask) -> None:
    """Serve the Swagger page at /api/v1/docs and the specification at /api/v1/openapi.json."""
    config = {
        "title": "Advanced Alerting",
        "headers": [],
        "specs": [{"endpoint": "openapi", "route": "/api/v1/openapi.json"}],
        "specs_route": "/api/v1/docs",
        "static_url_path": "/api/v1/docs/static",
        "oauth_redirect": "/api/v1/docs/oauth2-redirect.html",
    }
    # A field of flasgger's own UI page names a font on the internet; api/templates/flasgger holds ours instead.
    Documentation(app, config=config)


def documented_operations(app: Flask) -> Iterator[tuple[str, str, str, Operation]]:
    """Yield (path, method, permission, operation) of every route that is ours."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda r: r.rule):
        view = app.view_functions[rule.endpoint]
        described: Operation | None = getattr(view, "operation", None)
        if described is None:
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield rule.rule, method, cast("Any", view).permission, described


def build_specification(app: Flask) -> Json:
    """Return the OpenAPI 3.0.3 document of an app."""
    operations = list(documented_operations(app))
    bodies = {model for *_, op in operations for model in (op.body, op.form, op.upload) if model}
    answers: set[type[BaseModel]] = {ErrorAnswer}
    answers.update(model for *_, op in operations for model in op.answers.values())
    answers -= {PlainText, NoContent}
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in bodies]
    wanted += [(model, "serialization") for model in answers]
    wanted.sort(key=lambda pair: (pair[0].__name__, pair[1]))
    # Typed loosely: the type that pydantic names here is private.
    made: Any = models_json_schema(wanted, ref_template=REFERENCE)
    references, definitions = made
    paths: Json = {}
    for path, method, permission, described in operations:
        paths.setdefault(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path), {})[method.lower()] = _describe(
            path, method, permission, described, references
        )
    return {
        "openapi": "3.0.3",
        "info": {"title": "Advanced Alerting", "version": "1", "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": to_openapi_30(definitions.get("$defs", {})),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _describe(path: str, method: str, permission: str, described: Operation, references: References) -> Json:
    is_public = permission == PUBLIC
    text = described.description
    if not is_public:
        text = f"{text}\n\nPermission: `{permission}`".strip()
    shown: Json = {
        "operationId": _operation_id(path, method),
        "tags": [described.tag],
        "summary": described.summary,
        "description": text,
        "security": [] if is_public else [{"bearer": []}],
        "parameters": [
            *_path_parameters(path),
            *_query_parameters(described),
            *_header_parameters(described),
        ],
        "responses": {str(status): _answer(model, references) for status, model in sorted(described.answers.items())},
    }
    shown["responses"].update(_errors(path, described, is_public=is_public))
    if described.body is not None:
        content = {"schema": to_openapi_30(references[(described.body, "validation")])}
        shown["requestBody"] = {
            "required": not described.body_is_optional,
            "content": {"application/json": content},
        }
        if described.upload is not None:
            upload = {"schema": to_openapi_30(references[(described.upload, "validation")])}
            shown["requestBody"]["content"][UPLOAD_TYPE] = upload
    if described.form is not None:
        content = {"schema": to_openapi_30(references[(described.form, "validation")])}
        shown["requestBody"] = {"required": True, "content": {"application/x-www-form-urlencoded": content}}
    return shown


def _operation_id(path: str, method: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", path.removeprefix("/api/v1").lower()).strip("_")
    return f"{method.lower()}_{words}"


def _answer(model: type[BaseModel], references: References) -> Json:
    description = (model.__doc__ or "").strip().splitlines()[0]
    if model is NoContent:
        return {"description": description}
    if model is PlainText:
        return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}
    schema = to_openapi_30(references[(model, "serialization")])
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors(path: str, described: Operation, *, is_public: bool) -> Json:
    statuses = {400, 429, 503} if path.startswith("/api/") else set()
    if not is_public:
        statuses |= {401, 403}
    if "<" in path:
        statuses.add(404)
    if described.body is not None:
        statuses |= {413, 415}
    if described.form is not None:
        statuses.add(413)
    statuses |= set(described.errors)
    schema = {"$ref": REFERENCE.format(model=ErrorAnswer.__name__)}
    return {
        str(status): {"description": ERROR_WORDS[status], "content": {"application/json": {"schema": schema}}}
        for status in sorted(statuses - set(described.answers))
    }


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": DEVICE_SCHEMA if name == DEVICE else IDENTIFIER_SCHEMA}
        for name in re.findall(r"<(?:\w+:)?(\w+)>", path)
    ]


def _header_parameters(described: Operation) -> list[Json]:
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in described.headers.items()
    ]


def _query_parameters(described: Operation) -> list[Json]:
    if described.query is None:
        return []
    schema = described.query.model_json_schema(ref_template=REFERENCE)
    parameters = []
    for name, field in schema["properties"].items():
        shown = to_openapi_30(field)
        parameter: Json = {"name": name, "in": "query", "required": name in schema.get("required", [])}
        parameter["description"] = shown.pop("description", "")
        if shown.get("type") == "array":
            # Comma lists: ?severity=critical,high
            parameter |= {"style": "form", "explode": False}
            shown.pop("default", None)
        shown.pop("nullable", None)
        parameters.append({**parameter, "schema": shown})
    return parameters


def to_openapi_30(schema: Any) -> Any:  # any part of a JSON Schema
    """Return a JSON Schema 2020-12 as OpenAPI 3.0 writes it."""
    if isinstance(schema, list):
        return [to_openapi_30(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    shown = {
        key: value if key in ("enum", "required", "default", "examples") else to_openapi_30(value)
        for key, value in schema.items()
    }
    if isinstance(shown.get("title"), str):
        del shown["title"]
    if "examples" in shown and isinstance(shown["examples"], list):
        shown["example"] = shown.pop("examples")[0]
    if "const" in shown:
        shown["enum"] = [shown.pop("const")]
    if shown.get("type") == "null":
        shown = {"type": "string", "nullable": True, "enum": [None]}
    if "exclusiveMinimum" in shown and not isinstance(shown["exclusiveMinimum"], bool):
        shown |= {"minimum": shown["exclusiveMinimum"], "exclusiveMinimum": True}
    if "anyOf" in shown:
        shown = _join_nullable(shown)
    if shown.get("default", ...) is None:
        del shown["default"]
    return shown


def _join_nullable(shown: Json) -> Json:
    """Turn ``anyOf: [X, null]`` into a nullable X."""
    options = [option for option in shown["anyOf"] if option.get("enum") != [None]]
    if len(options) == len(shown["anyOf"]):
        return shown
    rest = {key: value for key, value in shown.items() if key != "anyOf"}
    if len(options) > 1:
        return {**rest, "anyOf": options, "nullable": True}
    if "$ref" in options[0]:
        # nullable counts only beside a type, which a reference has not.
        return {**rest, "anyOf": [*options, {"type": "string", "nullable": True, "enum": [None]}]}
    if "enum" in options[0]:
        options[0] = {**options[0], "enum": [*options[0]["enum"], None]}
    return {**options[0], **rest, "nullable": True}
