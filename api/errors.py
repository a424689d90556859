"""The one table from errors to answers, and the envelope that every error wears."""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException

from foundation.errors import (
    Conflict,
    DomainError,
    Fault,
    IllegalTransition,
    NotAuthenticated,
    NotFound,
    NotSigned,
    PermissionDenied,
    TooManyRequests,
    Unavailable,
    ValidationFailed,
)
from ml.model_errors import ModelError, ModelMissingError, TrainingRowsError, UnknownAlgorithmError

logger = logging.getLogger(__name__)

STATUS_BY_ERROR: dict[type[DomainError], int] = {
    ValidationFailed: 400,
    NotAuthenticated: 401,
    PermissionDenied: 403,
    NotSigned: 403,
    NotFound: 404,
    Conflict: 409,
    TooManyRequests: 429,
    Unavailable: 503,
    ModelMissingError: 404,
    TrainingRowsError: 400,
    UnknownAlgorithmError: 400,
    ModelError: 409,
}

CODE_BY_STATUS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
}

MESSAGE_BY_STATUS = {
    400: "the request cannot be read",
    404: "there is nothing at this address",
    405: "this address does not take this method",
    413: "the body is too large",
}


def register_error_handlers(app: Flask) -> None:
    """Make every error of the app answer with the envelope."""
    app.register_error_handler(DomainError, answer_domain_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_fault)


def envelope(
    status: int,
    code: str,
    message: str,
    faults: tuple[Fault, ...] = (),
    **more: Any,
) -> Response:
    """Return the error answer; ``more`` adds fields such as ``current_state``."""
    body = {
        "data": None,
        "error": message,
        "code": code,
        "details": [{"field": f.field, "message": f.message} for f in faults],
        "request_id": g.get("request_id"),
        **more,
    }
    response = jsonify(body)
    response.status_code = status
    return response


def _status_of(error: DomainError) -> int:
    return next(STATUS_BY_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_BY_ERROR)


def answer_domain_error(error: DomainError) -> Response:
    """Return the answer to an error of the domain."""
    status = _status_of(error)
    if isinstance(error, ValidationFailed):
        return envelope(status, error.code, error.message, error.faults)
    if isinstance(error, IllegalTransition):
        return envelope(
            status, error.code, error.message, current_state=error.current_state, allowed=list(error.allowed)
        )
    response = envelope(status, error.code, error.message)
    if isinstance(error, NotAuthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooManyRequests | Unavailable):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, Unavailable):
        logger.warning("unavailable: %s", error.message, extra={"request_id": g.get("request_id")})
    return response


def _answer_http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:
        return Response(error.get_response().data, status, list(error.get_response().headers))
    message = MESSAGE_BY_STATUS.get(status) or error.description or error.name
    faults: tuple[Fault, ...] = ()
    if status == 413:
        faults = (Fault("body", "is larger than this address takes"),)
    elif status == 400:
        # Refused before any view saw it: a host name, a header or an encoding that cannot be read.
        faults = (Fault("request", "cannot be read"),)
    response = envelope(status, CODE_BY_STATUS.get(status, "error"), message, faults)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _answer_fault(error: Exception) -> Response:
    # The cause goes into the log, never into the answer.
    logger.error("internal error", exc_info=error, extra={"request_id": g.get("request_id")})
    return envelope(500, "internal_error", "internal error")
