"""RATE_LIMIT: so many requests per token and web process."""

from __future__ import annotations

import hashlib
import time

from flask import Flask, Response, request
from flask_limiter import Limiter, RateLimitExceeded

from api.errors import answer_domain_error
from foundation.errors import TooManyRequests

UNLIMITED_ENDPOINTS = (
    "operations_api.get_health",
    "operations_api.get_readiness",
    "operations_api.get_metrics",
    # Twilio calls from few addresses, once or more for each SMS, and does not call again.
    "notification_api.take_twilio_report",
)


def limit_requests(app: Flask, limit: str) -> None:
    """Refuse what goes over ``limit`` (``600/minute``) with 429; an empty limit is none.

    Counted per token, or per client address where there is none, in the memory of this process.
    """
    if not limit:
        return
    limiter = Limiter(
        _identify_caller,
        app=app,
        application_limits=[limit],
        storage_uri="memory://",
        default_limits_exempt_when=lambda: request.endpoint in UNLIMITED_ENDPOINTS,
        application_limits_exempt_when=lambda: request.endpoint in UNLIMITED_ENDPOINTS,
    )

    @app.errorhandler(RateLimitExceeded)
    def refuse(_: RateLimitExceeded) -> Response:
        current = limiter.current_limit
        wait = max(1, int(current.reset_at - time.time()) + 1) if current else 1
        return answer_domain_error(TooManyRequests("too many requests with this token", wait))


def _identify_caller() -> str:
    token = request.headers.get("Authorization")
    return hashlib.sha256(token.encode()).hexdigest() if token else request.remote_addr or "unknown"
