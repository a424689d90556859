"""The page that shows the inbox, and the inbox as a whole: page, mail server and SMS gateway on loopback.

What stands in a message was written by somebody else. Templates escape it; the HTML of an e-mail is an answer of its
own, shown in a frame that may run nothing and load nothing.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, Response, abort, render_template
from werkzeug.serving import WSGIRequestHandler, make_server

from demo.inbox import Inbox
from demo.mail_server import serve_mail
from demo.sms_gateway import Account, Carrier, make_gateway
from foundation.clock import Clock

LARGEST_REQUEST_BYTES = 64 * 1024
STOP_LOOK_SECONDS = 0.05
FROM_NUMBER = "+12025550199"
EMAIL_FROM = "Advanced Alerting <alerts@example.com>"
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
EMAIL_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
    "sandbox allow-popups allow-popups-to-escape-sandbox"
)
# A link in an e-mail opens a tab of its own, as in any mail program.
EMAIL_HEAD = '<!DOCTYPE html><meta charset="utf-8"><base target="_blank">'


@dataclass(frozen=True)
class OpenInbox:
    """An inbox that takes messages: where people see it, and where a service finds it."""

    inbox: Inbox
    url: str
    smtp_url: str
    account: Account

    def channel_settings(self) -> dict[str, Any]:
        """Return the settings of a service whose pages are to come here."""
        return {
            "smtp_url": self.smtp_url,
            "email_from": EMAIL_FROM,
            "twilio_account_sid": self.account.sid,
            "twilio_auth_token": self.account.auth_token,
            "twilio_from_number": self.account.from_number,
            "twilio_api_base_url": self.url,
        }


@contextmanager
def open_inbox(clock: Clock, names: Mapping[str, str]) -> Iterator[OpenInbox]:
    """Run an inbox for the length of the block; ``names`` says whose addresses are whose."""
    inbox, account = Inbox(clock, names), Account.invent(FROM_NUMBER)
    carrier = Carrier(inbox, account)
    with ExitStack() as stack:
        stack.callback(carrier.stop)
        smtp_url = stack.enter_context(serve_mail(inbox, find_free_port()))
        url = stack.enter_context(_serve(make_inbox_app(inbox, account, carrier)))
        yield OpenInbox(inbox, url, smtp_url, account)


def make_inbox_app(inbox: Inbox, account: Account, carrier: Carrier) -> Flask:
    """Return the page and the SMS gateway as one web application."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST_BYTES
    app.register_blueprint(make_gateway(inbox, account, carrier))
    app.register_blueprint(make_page(inbox))

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response

    return app


def make_page(inbox: Inbox) -> Blueprint:
    """Return the page, the part of it that changes, and each e-mail's HTML."""
    page = Blueprint("inbox_page", __name__)

    @page.get("/")
    def show_page() -> str:
        return render_template("inbox.html", **_contents(inbox))

    @page.get("/messages")
    def show_messages() -> str:
        return render_template("messages.html", **_contents(inbox))

    @page.get("/emails/<int:number>")
    def show_email(number: int) -> Response:
        found = [email for email in inbox.list_emails() if email.arrival.number == number]
        if not found:
            abort(404)
        response = Response(EMAIL_HEAD + found[0].html, mimetype="text/html")
        response.headers["Content-Security-Policy"] = EMAIL_POLICY
        return response

    return page


def _contents(inbox: Inbox) -> dict[str, object]:
    return {"emails": inbox.list_emails(), "texts": inbox.list_sms(), "arrived": inbox.count_arrived()}


def find_free_port() -> int:
    """Return a port of loopback that nobody listens on at this moment."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


class _SilentHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002  # werkzeug's name
        """Leave the terminal to the demonstration."""
        logging.getLogger(__name__).debug(message, *args)


@contextmanager
def _serve(app: Flask) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_SilentHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": STOP_LOOK_SECONDS}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
