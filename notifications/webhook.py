"""Webhooks: a page as signed JSON, posted to an address that somebody wrote into a policy.

Signature headers as https://www.standardwebhooks.com describes them. Since anybody who may write policies names the
address, the service refuses to be led into its own network: private addresses are refused, on the address that is
connected to and on every redirect. A proxy of the environment is not used, for it would make that check void.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from standardwebhooks import Webhook

from foundation.clock import Clock
from foundation.settings import Settings
from notifications.channel import (
    SEND_TIMEOUT_SECONDS,
    Outcome,
    Page,
    PermanentFailure,
    Sent,
    TemporaryFailure,
    parse_retry_after,
)
from notifications.public_addresses import is_public_address
from notifications.timed_sockets import AddressRefused, Deadline, connect, make_tls_context

MOST_REDIRECTS = 3
# Those after which the page is posted again; a 303 would turn it into a GET that says nothing.
REDIRECTS = frozenset({301, 302, 307, 308})
EVENT_TYPE = "alert.notification"
SAFE_IN_ADDRESS = "/%:@!$&'()*+,;=~-._?"


@dataclass(frozen=True)
class Answer:
    """What is read of an answer: never its body, whose size and pace are the other side's."""

    status: int
    location: str | None
    retry_after: str | None


class LinkRefused(Exception):
    """An address that a page must not be posted to."""


class WebhookChannel:
    """Posts pages."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        timeout_seconds: float = SEND_TIMEOUT_SECONDS,
        is_public: Callable[[str], bool] = is_public_address,
    ) -> None:
        """Take what signs and what is refused from the settings; ``is_public`` says what counts as the internet.

        Raises:
            ValueError: there is no WEBHOOK_SECRET.
        """
        if not settings.webhook_secret:
            raise ValueError("WEBHOOK_SECRET is not set")
        self._signer = Webhook(settings.webhook_secret)
        self._is_allowed = None if settings.webhook_allow_private else is_public
        self._clock = clock
        self._timeout_seconds = timeout_seconds

    def send(self, page: Page) -> Outcome:
        """Post a page and follow at most 3 redirects, all within 10 s."""
        body = json.dumps(describe_page(page), ensure_ascii=False)
        headers = self._sign(page, body)
        deadline = Deadline(self._timeout_seconds)
        try:
            answer = self._post(page.address, body.encode(), headers, deadline)
        except LinkRefused as refusal:
            return PermanentFailure(str(refusal))
        except TimeoutError:
            return TemporaryFailure("the webhook did not answer in time", may_have_gone_out=True)
        except (OSError, http.client.HTTPException) as error:
            return TemporaryFailure(f"the webhook cannot be reached ({_describe(error)})", may_have_gone_out=True)
        return self._judge(answer)

    def _sign(self, page: Page, body: str) -> dict[str, str]:
        # The same at every attempt, so that the receiver can tell a repetition from a second page.
        message_id = f"notification-{page.notification_id}"
        now = self._clock.now()
        return {
            "Content-Type": "application/json",
            "User-Agent": "advanced-alerting",
            "Connection": "close",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message_id, now, body),
        }

    def _post(self, address: str, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> Answer:
        for _ in range(MOST_REDIRECTS + 1):
            answer = self._post_once(_split(address), body, headers, deadline)
            if answer.status not in REDIRECTS or answer.location is None:
                return answer
            address = _follow(address, answer.location)
        raise LinkRefused(f"the webhook redirects more than {MOST_REDIRECTS} times")

    def _post_once(self, link: SplitResult, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> Answer:
        host = link.hostname or ""
        is_tls = link.scheme == "https"
        port = link.port or (443 if is_tls else 80)
        try:
            connection = connect(host, port, deadline, self._is_allowed)
        except AddressRefused:
            raise LinkRefused(
                f"the webhook's host {host} has a private address, and WEBHOOK_ALLOW_PRIVATE is not set"
            ) from None
        exchange = http.client.HTTPConnection(host, port)
        exchange.sock = connection
        try:
            if is_tls:
                exchange.sock = make_tls_context(deadline).wrap_socket(connection, server_hostname=host)
            exchange.request("POST", _target(link), body, {"Host": link.netloc, **headers})
            with exchange.getresponse() as response:
                return Answer(response.status, response.getheader("Location"), response.getheader("Retry-After"))
        finally:
            exchange.close()
            connection.close()

    def _judge(self, answer: Answer) -> Outcome:
        status = answer.status
        if 200 <= status < 300:
            return Sent(reason=f"the webhook answered {status}")
        reason = f"the webhook answered {status} {http.client.responses.get(status, '')}".rstrip()
        if status == http.client.TOO_MANY_REQUESTS or status >= 500:
            return TemporaryFailure(reason, parse_retry_after(answer.retry_after, self._clock.now()))
        return PermanentFailure(reason, code=str(status))


def describe_page(page: Page) -> dict[str, object]:
    """Return the JSON body: ``type``, ``timestamp`` and ``data``, as Standard Webhooks suggests."""
    return {
        "type": EVENT_TYPE,
        "timestamp": page.occurred_at.isoformat(),
        "data": {
            "notification_id": str(page.notification_id),
            "alert_id": str(page.alert_id),
            "severity": page.severity,
            "device_id": page.device_id,
            "device_name": page.device_name,
            "metric": page.metric,
            "message": page.message,
            "occurred_at": page.occurred_at.isoformat(),
            "link": page.link,
        },
    }


def _split(address: str) -> SplitResult:
    try:
        link = urlsplit(address)
        is_good = link.scheme in ("http", "https") and bool(link.hostname) and link.port != 0
    except ValueError:
        is_good = False
    if not is_good or "@" in link.netloc or not link.netloc.isascii():
        raise LinkRefused("the webhook's address is no http or https address without a user")
    return link


def _follow(address: str, location: str) -> str:
    try:
        following = urljoin(address, location)
    except ValueError:
        raise LinkRefused("the webhook redirects to what is no address") from None
    if address.lower().startswith("https:") and not following.lower().startswith("https:"):
        raise LinkRefused("the webhook redirects from https to an address that is not")
    return following


def _target(link: SplitResult) -> str:
    path = quote(link.path or "/", safe=SAFE_IN_ADDRESS)
    return f"{path}?{quote(link.query, safe=SAFE_IN_ADDRESS)}" if link.query else path


def _describe(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
