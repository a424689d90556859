"""A double of Twilio's Messages resource over HTTP on loopback: keeps what it takes in, misbehaves on demand.

``tests/test_twilio_double.py`` holds it against Twilio's own description of the resource.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit
from urllib.request import Request, urlopen

from twilio.request_validator import RequestValidator

from notifications.sms_text import measure_text

ACCOUNT_SID = "AC" + "0123456789abcdef" * 2
AUTH_TOKEN = "fedcba9876543210" * 2
FROM_NUMBER = "+15005550006"

# Numbers that mean an error, as Twilio's own test credentials have them.
REFUSED_NUMBERS = {
    "+15005550001": (21211, "Invalid 'To' Phone Number: +1500555XXXX"),
    "+15005550002": (21612, "Message cannot be sent with the current combination of 'To' and 'From' parameters"),
    "+15005550003": (21408, "Permission to send an SMS has not been enabled for the region"),
    "+15005550004": (21610, "Attempt to send to unsubscribed recipient"),
    "+15005550009": (21614, "'To' number is not a valid mobile number"),
}
MESSAGES_PATH = re.compile(r"/2010-04-01/Accounts/([^/]+)/Messages(?:/([^/]+))?\.json")


@dataclass
class Reply:
    """One answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


# Given the connection, and what takes the message in and makes the answer that would be right.
Behaviour = Callable[["Handler", Callable[[], Reply]], None]


@dataclass
class TwilioDouble:
    """What the double knows. ``messages`` are resources, newest first; ``requests`` what came in, oldest first."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    callbacks: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    behaviours: deque[Behaviour] = field(default_factory=deque)
    refuses_local_callbacks: bool = False
    auth_token: str = AUTH_TOKEN
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sends(self) -> list[dict[str, str]]:
        """The parameters of every POST that came in."""
        return [parameters for method, _, parameters in self.requests if method == "POST"]

    def misbehave(self, *behaviours: Behaviour) -> None:
        """Answer the next requests otherwise, one behaviour each."""
        self.behaviours.extend(behaviours)

    def report(self, sid: str, status: str, error_code: int | None = None, *, token: str | None = None) -> int:
        """Send a signed status callback for a message, as Twilio would; return the answer's status."""
        message = self.find(sid)
        message["status"], message["error_code"] = status, error_code
        if status == "delivered":
            message["price"] = "-0.00750"
        form = {
            "AccountSid": ACCOUNT_SID,
            "ApiVersion": "2010-04-01",
            "From": message["from"],
            "MessageSid": sid,
            "MessageStatus": status,
            "SmsSid": sid,
            "SmsStatus": status,
            "To": message["to"],
        }
        if error_code is not None:
            form["ErrorCode"] = str(error_code)
        address = self.callbacks[sid]
        signature = RequestValidator(token or self.auth_token).compute_signature(address, form)
        request = Request(address, urlencode(form).encode(), {"X-Twilio-Signature": signature})
        try:
            with urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except HTTPError as refusal:
            with refusal:
                return refusal.code

    def find(self, sid: str) -> dict[str, Any]:
        """Return a message by its sid."""
        return next(message for message in self.messages if message["sid"] == sid)

    def take_in(self, parameters: dict[str, str]) -> dict[str, Any]:
        """Keep a message and return its resource."""
        sid = "SM" + secrets.token_hex(16)
        path = f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages/{sid}"
        now = format_datetime(datetime.now(UTC))
        message = {
            "account_sid": ACCOUNT_SID,
            "api_version": "2010-04-01",
            "body": parameters["Body"],
            "date_created": now,
            "date_sent": None,
            "date_updated": now,
            "direction": "outbound-api",
            "error_code": None,
            "error_message": None,
            "from": parameters["From"],
            "messaging_service_sid": None,
            "num_media": "0",
            "num_segments": str(measure_text(parameters["Body"]).segments),
            "price": None,
            "price_unit": "USD",
            "sid": sid,
            "status": "queued",
            "subresource_uris": {"media": f"{path}/Media.json"},
            "to": parameters["To"],
            "uri": f"{path}.json",
        }
        with self.lock:
            self.messages.insert(0, message)
            if "StatusCallback" in parameters:
                self.callbacks[sid] = parameters["StatusCallback"]
        return message

    def answer(self, method: str, path: str, authorization: str | None, parameters: dict[str, str]) -> Reply:
        """Return the answer of a double that behaves."""
        match = MESSAGES_PATH.fullmatch(path)
        if match is None:
            return error_reply(404, 20404, f"The requested resource {path} was not found")
        expected = base64.b64encode(f"{ACCOUNT_SID}:{self.auth_token}".encode()).decode()
        if authorization != f"Basic {expected}" or match[1] != ACCOUNT_SID:
            return error_reply(401, 20003, "Authenticate")
        if method == "POST" and match[2] is None:
            return self._create(parameters)
        if method == "GET":
            return self._list(parameters) if match[2] is None else self._fetch(match[2])
        return error_reply(405, 20004, "Method not allowed")

    def _create(self, parameters: dict[str, str]) -> Reply:
        for name, code in (("To", 21604), ("From", 21603), ("Body", 21602)):
            if not parameters.get(name):
                return error_reply(400, code, f"'{name}' is required")
        if len(parameters["Body"]) > 1600:
            return error_reply(400, 21617, "The concatenated message body exceeds the 1600 character limit")
        if not 1 <= int(parameters.get("ValidityPeriod", "36000")) <= 36000:
            return error_reply(400, 21624, "The ValidityPeriod is invalid")
        host = urlsplit(parameters.get("StatusCallback", "")).hostname
        if self.refuses_local_callbacks and host in ("127.0.0.1", "localhost"):
            return error_reply(400, 21609, f"The StatusCallback URL {parameters['StatusCallback']} is not a valid URL")
        if parameters["To"] in REFUSED_NUMBERS:
            return error_reply(400, *REFUSED_NUMBERS[parameters["To"]])
        if re.fullmatch(r"\+[1-9][0-9]{6,14}", parameters["To"]) is None:
            return error_reply(400, 21211, f"The 'To' number {parameters['To']} is not a valid phone number.")
        return json_reply(201, self.take_in(parameters))

    def _list(self, parameters: dict[str, str]) -> Reply:
        wanted = {"to": parameters.get("To"), "from": parameters.get("From")}
        with self.lock:
            found = [m for m in self.messages if all(value in (None, m[name]) for name, value in wanted.items())]
        size, page = int(parameters.get("PageSize", "50")), int(parameters.get("Page", "0"))
        base = f"/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json"

        def uri(number: int) -> str:
            return f"{base}?{urlencode({**parameters, 'PageSize': size, 'Page': number})}"

        shown = found[page * size : (page + 1) * size]
        has_more = len(found) > (page + 1) * size
        return json_reply(
            200,
            {
                "end": page * size + max(0, len(shown) - 1),
                "first_page_uri": uri(0),
                "next_page_uri": uri(page + 1) if has_more else None,
                "page": page,
                "page_size": size,
                "previous_page_uri": uri(page - 1) if page else None,
                "start": page * size,
                "uri": uri(page),
                "messages": shown,
            },
        )

    def _fetch(self, sid: str) -> Reply:
        with self.lock:
            found = [message for message in self.messages if message["sid"] == sid]
        if not found:
            return error_reply(404, 20404, f"The requested resource {sid} was not found")
        return json_reply(200, found[0])


class Handler(BaseHTTPRequestHandler):
    """One connection to the double."""

    protocol_version = "HTTP/1.1"
    double: TwilioDouble

    def do_POST(self) -> None:
        """Take a message in."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._serve(dict(parse_qsl(body, keep_blank_values=True)))

    def do_GET(self) -> None:
        """List or fetch messages."""
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        self._serve({name: values[0] for name, values in query.items()})

    def _serve(self, parameters: dict[str, str]) -> None:
        path = urlsplit(self.path).path
        with self.double.lock:
            self.double.requests.append((self.command, path, parameters))
            behaviour = self.double.behaviours.popleft() if self.double.behaviours else None

        def take_in() -> Reply:
            return self.double.answer(self.command, path, self.headers["Authorization"], parameters)

        if behaviour is None:
            self.reply(take_in())
        else:
            behaviour(self, take_in)

    def reply(self, reply: Reply) -> None:
        """Send an answer."""
        self.send_response(reply.status)
        for name, value in {"Content-Type": reply.content_type, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def reset(self) -> None:
        """End the connection with a reset, without an answer."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def json_reply(status: int, document: object) -> Reply:
    """Return an answer in JSON."""
    return Reply(status, json.dumps(document).encode())


def error_reply(status: int, code: int, message: str) -> Reply:
    """Return Twilio's envelope of an error."""
    return json_reply(
        status,
        {"code": code, "message": message, "more_info": f"https://www.twilio.com/docs/errors/{code}", "status": status},
    )


def answer_with(reply: Reply) -> Behaviour:
    """Answer so, and take nothing in."""
    return lambda handler, _: handler.reply(reply)


def refuse(status: int, code: int, message: str = "refused", **headers: str) -> Behaviour:
    """Refuse with an error in Twilio's envelope."""
    reply = error_reply(status, code, message)
    reply.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return answer_with(reply)


def fall_over() -> Behaviour:
    """Answer as a load balancer does whose servers are gone: 503 in HTML."""
    return answer_with(Reply(503, b"<html><body><h1>503 Service Unavailable</h1></body></html>", "text/html"))


def reset() -> Behaviour:
    """Break the connection off before anything was taken in."""
    return lambda handler, _: handler.reset()


def lose_answer() -> Behaviour:
    """Take the message in and break the connection off before the answer."""

    def behave(handler: Handler, take_in: Callable[[], Reply]) -> None:
        take_in()
        handler.reset()

    return behave


def take_silently(body: bytes = b"") -> Behaviour:
    """Take the message in and answer 201 without the resource."""

    def behave(handler: Handler, take_in: Callable[[], Reply]) -> None:
        take_in()
        handler.reply(Reply(201, body))

    return behave


def hang() -> Behaviour:
    """Say nothing until the test is over, at most a minute."""

    def behave(handler: Handler, take_in: Callable[[], Reply]) -> None:
        handler.double.released.wait(60)
        handler.reset()

    return behave


def dawdle(before_seconds: float, after_seconds: float) -> Behaviour:
    """Behave, but slowly: some time before a message is taken in, some before it is said."""

    def behave(handler: Handler, take_in: Callable[[], Reply]) -> None:
        time.sleep(before_seconds)
        reply = take_in()
        time.sleep(after_seconds)
        handler.reply(reply)

    return behave


@contextmanager
def run_double() -> Iterator[TwilioDouble]:
    """Run a double on a free port of loopback."""
    double = TwilioDouble()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"double": double}))
    server.daemon_threads = True
    double.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        double.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
