"""The Flask application, without what this API never uses: asynchronous views, sessions, hosts, streams.

``docs/decisions/0011-what-a-request-goes-without.md`` says what for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface, SessionMixin
from werkzeug.routing import MapAdapter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class NoSessions(SessionInterface):
    """Callers come with a token: there is one empty session for all of them, which refuses to be written."""

    def __init__(self) -> None:
        self._empty = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Return the empty session."""
        return self._empty

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Keep nothing."""


class WholeResponse(Response):
    """An answer that is handed to the server as the list it is, where it is one piece.

    As an iterator the server would stream it: ask for each piece from another thread, which waits for the interpreter.
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Start the answer and return its body."""
        has_body = self.status_code in range(200, 204) or self.status_code >= 400
        if not has_body or not self.is_sequence or self._on_close or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return list(self.iter_encoded())


class Application(Flask):
    """Flask for plain functions."""

    session_interface = NoSessions()
    response_class = WholeResponse

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is: finding out that it is no coroutine costs 20 us with each request."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what finds the view of a request: by its path alone, whatever host it names."""
        if request is None:
            return super().create_url_adapter(request)
        environ = request.environ
        return MapAdapter(
            self.url_map,
            server_name=environ.get("HTTP_HOST", "localhost"),
            script_name=environ.get("SCRIPT_NAME") or "/",
            subdomain="",
            url_scheme=environ["wsgi.url_scheme"],
            path_info=request.path,
            default_method=request.method,
            query_args=environ.get("QUERY_STRING"),
        )
