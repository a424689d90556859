"""How a view becomes an operation of the API.

A view is about ten lines: the decorators above it parse, check and document. ``ApiBlueprint`` refuses at
registration a view without a named permission or without its documentation::

    @alert_bp.post("/alerts")
    @require_jwt
    @require_permission("alerts:create")
    @operation("Report an alert", tag="Alerts", body=AlertReport, answers={201: RaisedAlert})
    def create_alert(body: AlertReport) -> Answer:
        ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from flask import Blueprint, Request, Response, current_app, request
from flask.typing import RouteCallable
from pydantic import BaseModel

from api.application import WholeResponse
from api.parsing import UPLOAD_TYPE, parse_identifier, parse_query, read_body, read_upload
from foundation.errors import NotFound

PUBLIC = "public"
DEVICE = "device_id"
"""The one name in a path that stands for a UUID."""
BODY_LIMIT_BYTES = 1024 * 1024
BATCH_LIMIT_BYTES = 8 * 1024 * 1024
TRAINING_LIMIT_BYTES = 64 * 1024 * 1024

Payload = Mapping[str, Any]
Answer = tuple[Payload, int] | tuple[Payload, int, Mapping[str, str]]
View = Callable[..., Any]


@dataclass(frozen=True)
class Operation:
    """What the specification and the parser know of one view.

    An ``upload`` is a form with a file that may come in the place of the JSON ``body``. A ``form`` is left to the view:
    whether its sender is to be believed depends on what it says. At most WEB_THREADS of the views that ``takes_turns``
    run at a time; one that mostly waits for others like it need not.
    """

    summary: str
    tag: str
    answers: Mapping[int, type[BaseModel]]
    description: str = ""
    body: type[BaseModel] | None = None
    upload: type[BaseModel] | None = None
    body_is_optional: bool = False
    body_limit_bytes: int = BODY_LIMIT_BYTES
    form: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    takes_turns: bool = True


def operation(summary: str, *, tag: str, answers: Mapping[int, type[BaseModel]], **more: Any) -> Callable[[View], View]:
    """Document a view and hand it its parsed ``body`` and ``query``; it returns ``(payload, status)`` or a Response."""
    described = Operation(summary, tag, answers, **more)

    def decorate(view: View) -> View:
        def answer(**arguments: Any) -> Response:
            # The proxies of Flask look up the request at each use.
            asked: Request = request._get_current_object()  # type: ignore[attr-defined]  # it is a proxy
            for name, text in arguments.items():
                arguments[name] = _parse_path_device(text) if name == DEVICE else _parse_path_identifier(name, text)
            if described.query is not None:
                arguments["query"] = parse_query(described.query, asked.args)
            elif asked.query_string:
                parse_query(NoQuery, asked.args)
            if described.upload is not None and asked.mimetype == UPLOAD_TYPE:
                arguments["body"] = read_upload(asked, described.upload, limit_bytes=described.body_limit_bytes)
            elif described.body is not None:
                arguments["body"] = read_body(
                    asked, described.body, limit_bytes=described.body_limit_bytes, optional=described.body_is_optional
                )
            return respond(described, view(**arguments))

        @functools.wraps(view)
        def run(**arguments: Any) -> Response:
            if not described.takes_turns:
                return answer(**arguments)
            with current_app.extensions["turns"]:
                return answer(**arguments)

        run.operation = described  # type: ignore[attr-defined]  # read by ApiBlueprint and the specification
        return run

    return decorate


def _parse_path_identifier(name: str, text: str) -> int:
    """Return the identifier in the path; one that cannot exist (``-1``, ``1e3``, 30 digits) is simply not found."""
    identifier = parse_identifier(text)
    if identifier is None:
        raise NotFound(name.removesuffix("_id").replace("_", " "), text[:40])
    return identifier


def _parse_path_device(text: str) -> str:
    """Return the device in the path; any UUID is one."""
    try:
        return str(UUID(text))
    except ValueError:
        raise NotFound("device", text[:40]) from None


class PlainText(BaseModel):
    """Plain text."""


class NoContent(BaseModel):
    """Taken in; there is nothing to say."""


class NoQuery(BaseModel, extra="forbid"):
    """The query of an address that takes none."""


def respond(described: Operation, answer: Answer | Response) -> Response:
    """Serialise what a view returned, times in ISO 8601 with offset; under test, refuse what its schema refuses."""
    if isinstance(answer, Response):
        return answer
    payload, status, *headers = answer
    if current_app.config.get("CHECK_ANSWERS"):
        described.answers[status].model_validate_json(orjson.dumps(payload))
    return WholeResponse(orjson.dumps(payload), status, headers[0] if headers else None, mimetype="application/json")


class ApiBlueprint(Blueprint):
    """A blueprint whose every route is documented and names its permission."""

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: RouteCallable | None = None,
        provide_automatic_options: bool | None = None,
        **options: Any,
    ) -> None:
        """Register a route; a view without permission or documentation fails here, at import."""
        if getattr(view_func, "permission", None) is None:
            raise TypeError(f"{rule}: the view names no permission")
        if getattr(view_func, "operation", None) is None:
            raise TypeError(f"{rule}: the view is not documented")
        super().add_url_rule(rule, endpoint, view_func, provide_automatic_options, **options)
