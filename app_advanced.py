"""The entry: ``create_app()`` for a WSGI server, and the command line.

``python app_advanced.py`` runs everything together; ``python app_advanced.py --help`` lists the rest.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports of the web: the supervising process and most commands need none of them.
    from commands import main

    raise SystemExit(main())

import threading
from typing import TYPE_CHECKING

from flask import Flask, Response, request
from werkzeug.middleware.proxy_fix import ProxyFix

from alert_api import alert_bp
from api.account_api import auth_bp, users_bp
from api.application import Application
from api.errors import register_error_handlers
from api.escalation_api import escalation_bp
from api.notification_api import notification_bp
from api.observability import AlertCollector, observe_pool, observe_requests
from api.on_call_api import on_call_bp
from api.openapi import document
from api.operations_api import operations_bp
from api.rate_limit import limit_requests
from api.routing import BODY_LIMIT_BYTES
from api.sla_api import sla_bp
from api.tokens import TokenVerifier
from foundation.settings import Settings, load_settings
from ml_api import ml_bp
from wiring import Services, build_services

if TYPE_CHECKING:
    app: Flask

BLUEPRINTS = (operations_bp, auth_bp, users_bp, alert_bp, sla_bp, escalation_bp, notification_bp, on_call_bp, ml_bp)
DOCS_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:"
)


def create_app(settings: Settings | None = None, services: Services | None = None) -> Flask:
    """Return the web application over a database that has been migrated; it connects at the first request."""
    if services is None:
        services = build_services(settings or load_settings())
    application = Application("advanced_alerting", static_folder=None, root_path=__file__.rpartition("/")[0] or ".")
    application.template_folder = "api/templates"
    application.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT_BYTES
    attach_services(application, services)
    application.url_map.strict_slashes = False
    observe_requests(application)
    register_error_handlers(application)
    for blueprint in BLUEPRINTS:
        application.register_blueprint(blueprint)
    limit_requests(application, services.settings.rate_limit)
    _allow_origins(application, services.settings.cors_origins)
    document(application)
    _harden(application)
    _trust_proxies(application, services.settings.trusted_proxies)
    return application


def attach_services(application: Flask, services: Services) -> None:
    """Hand the services to the views."""
    application.extensions["services"] = services
    application.extensions["turns"] = threading.BoundedSemaphore(services.settings.web_threads)
    application.extensions["token_verifier"] = TokenVerifier(services.settings)
    application.extensions["alert_collector"] = AlertCollector(
        services.database,
        services.store.count_by_class,
        services.readiness,
        services.model_parts.registry.count_false_positives,
    )
    observe_pool(services.database)


def _allow_origins(application: Flask, origins: tuple[str, ...]) -> None:
    if origins:
        from flask_cors import CORS

        CORS(
            application,
            origins=list(origins),
            expose_headers=["X-Request-ID", "Idempotency-Replayed", "Retry-After"],
        )


def _trust_proxies(application: Flask, count: int) -> None:
    # The address alone: where people reach us is PUBLIC_URL's to say.
    if count:
        application.wsgi_app = ProxyFix(  # type: ignore[method-assign]  # as Flask's documentation has it
            application.wsgi_app, x_for=count, x_proto=0
        )


def _harden(application: Flask) -> None:
    @application.after_request
    def add_headers(response: Response) -> Response:
        response.headers.add("X-Content-Type-Options", "nosniff")
        if request.path.startswith("/api/v1/docs"):
            response.headers["Content-Security-Policy"] = DOCS_POLICY
        return response


def __getattr__(name: str) -> Flask:
    """Make ``app`` at its first use: importing this module needs no database and no settings."""
    if name == "app":
        globals()["app"] = made = create_app()
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
