"""What the application does without: streams, sessions, hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flask import Flask, session
from werkzeug.test import EnvironBuilder

from api.application import WholeResponse

Headers = Callable[..., dict[str, str]]


def call(app: Flask, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[str, Any, Any]:
    """Call the application as a WSGI server does; return status, headers and what it is handed for a body."""
    begun: list[Any] = []
    builder = EnvironBuilder(path=path, method=method, headers=headers)
    body: Iterable[bytes] = app(builder.get_environ(), lambda *start: begun.extend(start))  # type: ignore[arg-type]
    return begun[0], dict(begun[1]), body


@pytest.mark.parametrize("path", ["/api/v1/alerts", "/metrics", "/api/v1/openapi.json", "/api/v1/alerts/1", "/nowhere"])
def test_a_body_is_handed_over_in_one_piece(app: Flask, headers: Headers, path: str) -> None:
    # Anything but a list of bytes is streamed by the server, which costs a request several turns of threads.
    _, sent, body = call(app, path, headers=headers())
    assert isinstance(body, list)
    assert [type(piece) for piece in body] == [bytes]
    assert sent["Content-Length"] == str(len(body[0]))
    assert len(body[0]) > 2


def test_head_has_the_headers_and_no_body(app: Flask, headers: Headers) -> None:
    _, sent, body = call(app, "/health", "HEAD")
    _, expected, whole = call(app, "/health")
    assert b"".join(body) == b""
    assert sent["Content-Length"] == expected["Content-Length"] == str(len(whole[0]))


def test_no_content_has_no_length() -> None:
    begun: list[Any] = []
    body = WholeResponse(status=204)(EnvironBuilder().get_environ(), lambda *start: begun.extend(start))  # type: ignore[arg-type]
    assert b"".join(body) == b""
    assert "Content-Length" not in dict(begun[1])


@pytest.mark.parametrize("host", ["plant.example:8443", "a b", "", "x" * 300, "ä", "[::1]:80"])
def test_any_host_finds_the_same_views(app: Flask, host: str) -> None:
    status, _, _ = call(app, "/health", headers={"Host": host})
    assert status == "200 OK"


def test_a_redirect_stays_on_the_host(app: Flask) -> None:
    status, sent, _ = call(app, "/api//v1/alerts?limit=3", headers={"Host": "plant.example"})
    assert status.startswith("308")
    assert sent["Location"] == "http://plant.example/api/v1/alerts?limit=3"


def test_nobody_can_write_the_session_that_all_share(app: Flask) -> None:
    with app.test_request_context("/health"):
        assert dict(session) == {}
        with pytest.raises(RuntimeError, match="secret"):
            session["user"] = 1
