"""The REST API as a device, an operator, an administrator or a viewer of the demonstration uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from foundation.errors import DomainError, Unavailable

Pause = Callable[[float], bool]
"""Waits for so many seconds, or less when a stop is asked for; returns whether it is."""

REQUEST_TIMEOUT_SECONDS = 15.0
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 5.0
PATIENCE_SECONDS = 120.0
"""How long one request is tried again: a restart of the service, or a failover, takes less."""

PAGE_LIMIT = 200
AWAY_STATUSES = frozenset({429, 502, 503, 504})
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class ServiceRefused(DomainError):
    """The service took a request and said no, in its own words; ``status`` is the HTTP status."""

    code = "service_refused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Stopped(Exception):
    """A stop was asked for while waiting."""


class Answer(NamedTuple):
    """A successful answer: its JSON, and whether an Idempotency-Key brought it back."""

    body: dict[str, Any]
    is_replayed: bool


class BearerToken(AuthBase):
    """Sends a token; an explicit object, because ``requests`` lets a .netrc override a plain header."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put the token into a request."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class ServiceClient:
    """One caller over one kept-alive connection, patient while the service is away.

    Every request may be sent more than once: reports of alerts carry an Idempotency-Key, what has a name is created
    once, the steps of people and the readers change nothing when they come twice; a reading that comes twice is late.
    """

    def __init__(
        self, url: str, token: str, pause: Pause, tell_trouble: Callable[[str | None], None] = lambda _: None
    ) -> None:
        self.url = url
        self.retries = 0
        self._pause = pause
        self._tell_trouble = tell_trouble
        self._session = requests.Session()
        self._session.auth = BearerToken(token)
        # No proxy stands between us and this machine, and looking for one costs more than the request.
        self._session.trust_env = urlsplit(url).hostname not in LOOPBACK_HOSTS

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def report_alert(self, report: Mapping[str, Any], idempotency_key: str) -> Answer:
        """Report an alert and return what was recorded, exactly once however often it had to be sent."""
        return self._send("POST", "/alerts", json=report, headers={"Idempotency-Key": idempotency_key})

    def act_on_group(self, group_id: str, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take a step (acknowledge, investigate, resolve) with the open alerts of a group."""
        return self._send("POST", f"/groups/{group_id}/{action}", json=body).body

    def list_alerts(self, device_id: str) -> Iterator[dict[str, Any]]:
        """Yield the alerts of a device, newest first."""
        return self._list("/alerts", {"device_id": device_id})

    def list_escalations(self, device_id: str) -> Iterator[dict[str, Any]]:
        """Yield the escalations of a device, newest first."""
        return self._list("/escalations", {"device_id": device_id})

    def train_model(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Train a model and return it; sent twice it trains a second version of the same rows."""
        return self._send("POST", "/ml/models/train", json=order).body

    def predict_batch(self, readings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Hand over readings and return what is said of each; sent twice they are late, and nothing is said of them."""
        results: list[dict[str, Any]] = self._send("POST", "/ml/predict/batch", json={"readings": readings}).body[
            "data"
        ]
        return results

    def ensure_named(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return the thing of a collection that has the document's name, created from it where none has."""
        try:
            return self._send("POST", path, json=document).body
        except ServiceRefused as error:
            # Somebody was first: perhaps ourselves, with a request whose answer was lost.
            if error.status != HTTPStatus.CONFLICT:
                raise
            found = next((thing for thing in self._list(path, {}) if thing["name"] == document["name"]), None)
            if found is None:
                raise
            return found

    def _list(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        wanted: dict[str, str | int] = {**query, "limit": PAGE_LIMIT}
        while True:
            page = self._send("GET", path, params=wanted).body
            yield from page["data"]
            if page["next_cursor"] is None:
                return
            wanted["cursor"] = page["next_cursor"]

    def _send(self, method: str, path: str, **request: Any) -> Answer:
        """Send until there is an answer, later and later, for PATIENCE_SECONDS at the most.

        Raises:
            ServiceRefused: an answer of 4xx or 5xx that waiting does not change.
            Unavailable: the service stayed away.
            Stopped: a stop was asked for meanwhile.
        """
        waited_seconds, delay_seconds = 0.0, FIRST_DELAY_SECONDS
        while True:
            answer, trouble, wait_seconds = self._try(method, path, request)
            if answer is not None:
                if waited_seconds:
                    self._tell_trouble(None)
                return answer
            wait_seconds = max(wait_seconds, delay_seconds)
            if waited_seconds + wait_seconds > PATIENCE_SECONDS:
                raise Unavailable(f"{self.url} did not come back within {PATIENCE_SECONDS:.0f} s: {trouble}")
            self._tell_trouble(trouble)
            self.retries += 1
            if self._pause(wait_seconds):
                raise Stopped
            waited_seconds += wait_seconds
            delay_seconds = min(2 * delay_seconds, LONGEST_DELAY_SECONDS)

    def _try(self, method: str, path: str, request: Mapping[str, Any]) -> tuple[Answer | None, str, float]:
        """Return the answer; or None, what the trouble is, and the seconds that the service asks to wait."""
        try:
            response = self._session.request(
                method,
                f"{self.url}/api/v1{path}",
                timeout=REQUEST_TIMEOUT_SECONDS,
                allow_redirects=False,
                **request,
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
            return None, "no answer", 0.0
        if response.status_code in AWAY_STATUSES:
            return None, read_words(response), read_retry_after(response)
        if not response.ok or response.is_redirect:
            raise ServiceRefused(read_words(response), response.status_code)
        try:
            return Answer(response.json(), response.headers.get("Idempotency-Replayed") == "true"), "", 0.0
        except ValueError as error:
            raise ServiceRefused(f"{self.url} does not answer as an alerting service", response.status_code) from error


def read_words(response: requests.Response) -> str:
    """Return what an error answer says, its wrong fields included."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or not body.get("error"):
        return f"HTTP {response.status_code} {response.reason}"
    details = "; ".join(f"{fault['field']}: {fault['message']}" for fault in body.get("details") or ())
    return f"{body['error']} ({details})" if details and details != body["error"] else str(body["error"])


def read_retry_after(response: requests.Response) -> float:
    """Return the seconds that an answer asks to wait; 0 without a number."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0
