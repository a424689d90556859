"""The webhook channel against real receivers on loopback: signatures, redirects, refused addresses, slow servers."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from foundation.clock import Clock, FrozenClock
from foundation.settings import Settings
from notifications.channel import Outcome, Page, PermanentFailure, Sent, TemporaryFailure, parse_retry_after
from notifications.public_addresses import is_public_address
from notifications.webhook import WebhookChannel
from tests.certificates import make_certificate

OUTSIDE = "127.0.0.2"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PAGE = Page(
    notification_id=41,
    alert_id=812,
    severity="critical",
    device_id="3a9ccfce-9773-4c72-b905-6a850e961587",
    device_name="Press 4",
    metric="temperature",
    message="Temperature threshold exceeded: 85.5 °C",
    occurred_at=datetime(2026, 3, 2, 7, 59, 30, tzinfo=UTC),
    link="https://alerts.example.com/alerts/812",
    address="",
)

# Long enough that only the channel's own deadline ends it, short enough that a test without one fails soon.
LONGEST_TRICKLE = 300

Answer = tuple[int, dict[str, str]]


@dataclasses.dataclass
class Receiver:
    """Keeps what was posted; ``answers`` by path, 204 elsewhere."""

    url: str
    requests: list[tuple[str, str, dict[str, str], bytes]] = dataclasses.field(default_factory=list)
    answers: dict[str, Answer] = dataclasses.field(default_factory=dict)
    body: bytes = b""


@contextmanager
def run_receiver(host: str = "127.0.0.1", certificate_folder: Path | None = None) -> Iterator[Receiver]:
    """Run a receiver on a free port."""
    receiver = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests.append((self.command, self.path, dict(self.headers.items()), body))
            status, headers = receiver.answers.get(self.path, (204, {}))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(receiver.body)))
            self.end_headers()
            self.wfile.write(receiver.body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, *args: Any) -> None:
            """A client that hangs up early is what some tests are about."""

    server = Server((host, 0), Handler)
    scheme = "http"
    if certificate_folder is not None:
        context = make_certificate(certificate_folder).make_server_context()
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    receiver.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def run_raw(behave: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Run a server that does with each connection what ``behave`` says, until the event is set."""
    ended = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.recv(65536)
                    behave(connection, ended)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            ended.set()
            thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with run_receiver() as running:
        yield running


def make_channel(
    timeout_seconds: float = 10.0, allow_private: bool = True, clock: Clock | None = None
) -> WebhookChannel:
    settings = Settings(_env_file=None, webhook_secret=SECRET, webhook_allow_private=allow_private)
    return WebhookChannel(settings, clock or Clock(), timeout_seconds)


def make_guarded_channel() -> WebhookChannel:
    """Return a channel to which 127.0.0.2 is the internet, and all else the network that must stay closed."""
    settings = Settings(_env_file=None, webhook_secret=SECRET)
    return WebhookChannel(settings, Clock(), is_public=lambda address: address == OUTSIDE)


def post(address: str, timeout_seconds: float = 10.0) -> Outcome:
    return make_channel(timeout_seconds).send(dataclasses.replace(PAGE, address=address))


class TestContent:
    def test_a_page_arrives_as_json(self, receiver: Receiver) -> None:
        assert isinstance(post(f"{receiver.url}/hook?key=a%20b&x=é"), Sent)
        [(method, path, headers, body)] = receiver.requests
        assert (method, path) == ("POST", "/hook?key=a%20b&x=%C3%A9")
        assert headers["Content-Type"] == "application/json"
        assert headers["Host"] == receiver.url.removeprefix("http://")
        assert json.loads(body) == {
            "type": "alert.notification",
            "timestamp": "2026-03-02T07:59:30+00:00",
            "data": {
                "notification_id": "41",
                "alert_id": "812",
                "severity": "critical",
                "device_id": "3a9ccfce-9773-4c72-b905-6a850e961587",
                "device_name": "Press 4",
                "metric": "temperature",
                "message": "Temperature threshold exceeded: 85.5 °C",
                "occurred_at": "2026-03-02T07:59:30+00:00",
                "link": "https://alerts.example.com/alerts/812",
            },
        }

    def test_the_signature_holds(self, receiver: Receiver) -> None:
        post(receiver.url)
        [(_, _, headers, body)] = receiver.requests
        assert Webhook(SECRET).verify(body, headers)["data"]["alert_id"] == "812"
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body.replace(b"812", b"813"), headers)
        with pytest.raises(WebhookVerificationError):
            Webhook("whsec_" + "A" * 32).verify(body, headers)

    def test_a_page_sent_again_has_the_same_id_and_a_fresh_time(self, receiver: Receiver) -> None:
        for at in (datetime(2026, 3, 2, 8, 0, tzinfo=UTC), datetime(2026, 3, 2, 8, 1, tzinfo=UTC)):
            make_channel(clock=FrozenClock(at)).send(dataclasses.replace(PAGE, address=receiver.url))
        first, second = (request[2] for request in receiver.requests)
        assert first["webhook-id"] == second["webhook-id"] == "notification-41"
        assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 60
        assert first["webhook-signature"] != second["webhook-signature"]

    def test_tls_with_a_certificate_that_is_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with run_receiver(certificate_folder=tmp_path) as receiver:
            untrusted = post(receiver.url)
            assert isinstance(untrusted, TemporaryFailure)
            assert "certificate" in untrusted.reason
            assert receiver.requests == []
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
            assert isinstance(post(receiver.url), Sent)
            assert isinstance(post(receiver.url.replace("127.0.0.1", "localhost")), Sent)

    def test_a_certificate_of_another_name_is_not_trusted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with run_receiver("127.0.0.2", tmp_path) as receiver:
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
            assert isinstance(post(receiver.url), TemporaryFailure)
            assert receiver.requests == []

    def test_no_proxy_is_used(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert isinstance(post(receiver.url), Sent)


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    def test_every_2xx_is_sent(self, receiver: Receiver, status: int) -> None:
        receiver.answers["/"] = (status, {})
        assert post(f"{receiver.url}/") == Sent(reason=f"the webhook answered {status}")

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
    def test_429_and_5xx_are_temporary(self, receiver: Receiver, status: int) -> None:
        receiver.answers["/"] = (status, {"Retry-After": "17"})
        outcome = post(f"{receiver.url}/")
        assert isinstance(outcome, TemporaryFailure)
        assert str(status) in outcome.reason
        assert outcome.retry_after_seconds == 17

    @pytest.mark.parametrize("status", [300, 303, 304, 400, 401, 403, 404, 410, 418])
    def test_all_else_is_permanent(self, receiver: Receiver, status: int) -> None:
        receiver.answers["/"] = (status, {"Location": f"{receiver.url}/elsewhere"})
        outcome = post(f"{receiver.url}/")
        assert isinstance(outcome, PermanentFailure)
        assert outcome.code == str(status)
        assert len(receiver.requests) == 1

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("120", 120.0),
            (" 0 ", 0.0),
            ("Mon, 02 Mar 2026 08:01:30 GMT", 90.0),
            ("Mon, 02 Mar 2026 07:00:00 GMT", 0.0),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("٣", None),
            ("9" * 400, None),
            ("", None),
            (None, None),
        ],
    )
    def test_retry_after(self, text: str | None, expected: float | None) -> None:
        assert parse_retry_after(text, datetime(2026, 3, 2, 8, 0, tzinfo=UTC)) == expected

    def test_an_endless_answer_is_not_read(self, receiver: Receiver) -> None:
        receiver.body = b"x" * 50_000_000
        receiver.answers["/"] = (200, {})
        assert isinstance(post(f"{receiver.url}/"), Sent)


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_the_page_is_posted_again(self, receiver: Receiver, status: int) -> None:
        receiver.answers["/"] = (status, {"Location": "next"})
        assert isinstance(post(f"{receiver.url}/"), Sent)
        assert [(method, path) for method, path, _, _ in receiver.requests] == [("POST", "/"), ("POST", "/next")]
        assert receiver.requests[0][3] == receiver.requests[1][3]
        Webhook(SECRET).verify(receiver.requests[1][3], receiver.requests[1][2])

    def test_three_are_followed_and_no_more(self, receiver: Receiver) -> None:
        for number in range(4):
            receiver.answers[f"/{number}"] = (307, {"Location": f"/{number + 1}"})
        assert isinstance(post(f"{receiver.url}/1"), Sent)
        assert isinstance(post(f"{receiver.url}/0"), PermanentFailure)
        assert [path for _, path, _, _ in receiver.requests] == ["/1", "/2", "/3", "/4", "/0", "/1", "/2", "/3"]

    @pytest.mark.parametrize(
        "location", ["ftp://127.0.0.1/", "file:///etc/passwd", "http://u:p@127.0.0.1/", "http://[::1", "http://:0/"]
    )
    def test_to_what_is_no_web_address_is_permanent(self, receiver: Receiver, location: str) -> None:
        receiver.answers["/"] = (307, {"Location": location})
        assert isinstance(post(f"{receiver.url}/"), PermanentFailure)
        assert len(receiver.requests) == 1

    def test_from_https_to_http_is_refused(
        self, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with run_receiver(certificate_folder=tmp_path) as secure:
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
            secure.answers["/"] = (307, {"Location": receiver.url})
            outcome = post(f"{secure.url}/")
        assert isinstance(outcome, PermanentFailure)
        assert receiver.requests == []

    def test_one_without_a_location_is_permanent(self, receiver: Receiver) -> None:
        receiver.answers["/"] = (307, {})
        assert isinstance(post(f"{receiver.url}/"), PermanentFailure)


class TestPrivateAddresses:
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"]
    )
    def test_loopback_is_refused_however_it_is_written(self, receiver: Receiver, host: str) -> None:
        port = receiver.url.rpartition(":")[2]
        channel = make_channel(allow_private=False)
        outcome = channel.send(dataclasses.replace(PAGE, address=f"http://{host}:{port}/"))
        assert isinstance(outcome, PermanentFailure)
        assert "WEBHOOK_ALLOW_PRIVATE" in outcome.reason
        assert receiver.requests == []

    @pytest.mark.parametrize(
        "address", ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://[fe80::1]/"]
    )
    def test_private_networks_are_refused_without_a_connection(self, address: str) -> None:
        outcome = make_channel(allow_private=False).send(dataclasses.replace(PAGE, address=address))
        assert isinstance(outcome, PermanentFailure)

    def test_a_name_is_judged_by_the_address_that_is_connected_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with run_receiver(OUTSIDE) as receiver:
            # A name whose address changes with every look: the second one would lead inside.
            port = int(receiver.url.rpartition(":")[2])
            changing = iter([OUTSIDE, "127.0.0.1"])

            def look_up(host: str, *arguments: Any, **named: Any) -> list[Any]:
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(changing), port))]

            monkeypatch.setattr(socket, "getaddrinfo", look_up)
            channel = make_guarded_channel()
            page = dataclasses.replace(PAGE, address=f"http://rebind.example:{port}/")
            outcomes = [channel.send(page), channel.send(page)]
        assert [type(outcome) for outcome in outcomes] == [Sent, PermanentFailure]
        assert [headers["Host"] for _, _, headers, _ in receiver.requests] == [f"rebind.example:{port}"]

    def test_of_several_addresses_only_the_public_ones_are_tried(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = int(receiver.url.rpartition(":")[2])

        def look_up(host: str, *arguments: Any, **named: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port)) for found in (OUTSIDE, "127.0.0.1")]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        outcome = make_guarded_channel().send(dataclasses.replace(PAGE, address=f"http://two.example:{port}/"))
        # Nobody listens outside, and inside is not tried instead.
        assert isinstance(outcome, TemporaryFailure)
        assert receiver.requests == []

    def test_a_redirect_into_the_private_network_is_refused(self) -> None:
        with run_receiver(OUTSIDE) as outside, run_receiver() as inside:
            channel = make_guarded_channel()
            page = dataclasses.replace(PAGE, address=f"{outside.url}/")
            assert isinstance(channel.send(page), Sent)
            outside.answers["/"] = (307, {"Location": f"{inside.url}/secret"})
            outcome = channel.send(page)
        assert isinstance(outcome, PermanentFailure)
        assert "WEBHOOK_ALLOW_PRIVATE" in outcome.reason
        assert len(outside.requests) == 2
        assert inside.requests == []

    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            ("93.184.215.14", True),
            ("8.8.8.8", True),
            ("2606:4700::1111", True),
            ("::ffff:8.8.8.8", True),
            ("64:ff9b::8.8.8.8", True),
            ("2002:808:808::1", True),
            ("127.0.0.1", False),
            ("127.255.255.254", False),
            ("10.1.2.3", False),
            ("172.16.0.1", False),
            ("172.31.255.255", False),
            ("192.168.1.1", False),
            ("169.254.169.254", False),
            ("100.64.0.1", False),
            ("0.0.0.0", False),
            ("224.0.0.1", False),
            ("240.0.0.1", False),
            ("255.255.255.255", False),
            ("192.0.2.1", False),
            ("::1", False),
            ("::", False),
            ("fe80::1%eth0", False),
            ("fc00::1", False),
            ("ff02::1", False),
            ("::ffff:127.0.0.1", False),
            ("::ffff:10.0.0.1", False),
            ("::127.0.0.1", False),
            ("64:ff9b::10.0.0.1", False),
            ("64:ff9b:1::1", False),
            ("2002:7f00:1::1", False),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
            ("2001:db8::1", False),
        ],
    )
    def test_which_addresses_are_public(self, address: str, expected: bool) -> None:
        assert is_public_address(address) is expected


class TestBrokenConnections:
    def test_a_closed_door_is_temporary(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            port = listener.getsockname()[1]
        outcome = post(f"http://127.0.0.1:{port}/")
        assert isinstance(outcome, TemporaryFailure)
        assert "Connection refused" in outcome.reason

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".example", "a%00b"])
    def test_a_name_that_leads_nowhere_is_temporary(self, host: str) -> None:
        assert isinstance(post(f"http://{host}/"), TemporaryFailure)

    @pytest.mark.parametrize(
        "address", ["", "example.com", "ftp://example.com/", "http://", "http://[::1", "http://a:x/"]
    )
    def test_what_is_no_address_is_permanent(self, address: str) -> None:
        assert isinstance(post(address), PermanentFailure)

    def test_silence_is_bounded(self) -> None:
        def say_nothing(connection: socket.socket, ended: threading.Event) -> None:
            ended.wait(30)

        with run_raw(say_nothing) as address:
            assert post(address, 0.2) == TemporaryFailure("the webhook did not answer in time", may_have_gone_out=True)

    def test_a_trickle_is_bounded(self) -> None:
        def trickle(connection: socket.socket, ended: threading.Event) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            for _ in range(LONGEST_TRICKLE):
                connection.sendall(b"X")
                if ended.wait(0.02):
                    return

        with run_raw(trickle) as address:
            assert post(address, 0.3) == TemporaryFailure("the webhook did not answer in time", may_have_gone_out=True)

    def test_a_slow_body_costs_nothing(self) -> None:
        def answer(connection: socket.socket, ended: threading.Event) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
            ended.wait(30)

        with run_raw(answer) as address:
            assert isinstance(post(address, 5), Sent)

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000,
            b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200,
        ],
        ids=["nothing", "nonsense", "no status", "endless header", "too many headers"],
    )
    def test_what_is_no_answer_is_temporary(self, answer: bytes) -> None:
        with run_raw(lambda connection, _: connection.sendall(answer)) as address:
            assert isinstance(post(address), TemporaryFailure)

    def test_the_next_address_of_a_name_is_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with run_receiver() as receiver:
            port = int(receiver.url.rpartition(":")[2])
            real = socket.getaddrinfo

            def look_up(host: str, *arguments: Any, **named: Any) -> list[Any]:
                found = real("127.0.0.1", port, type=socket.SOCK_STREAM)
                return [(*entry[:4], (address, port)) for address in ("127.0.0.3", "127.0.0.1") for entry in found]

            monkeypatch.setattr(socket, "getaddrinfo", look_up)
            assert isinstance(post(f"http://two.example:{port}/"), Sent)

    def test_ipv6(self) -> None:
        try:
            with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)):
                pass
        except OSError:
            pytest.skip("this machine has no IPv6")
        with run_receiver("::1") as receiver:
            assert isinstance(post(receiver.url), Sent)
            assert receiver.requests[0][2]["Host"] == receiver.url.removeprefix("http://")


def test_without_a_secret_there_is_no_channel() -> None:
    with pytest.raises(ValueError, match="WEBHOOK_SECRET"):
        WebhookChannel(Settings(_env_file=None), Clock())
