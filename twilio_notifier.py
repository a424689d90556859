"""SMS through Twilio.

The SDK is imported when the first message is sent: it takes a fifth of a second and is no business of a web process.
It is not thread-safe, hence one client per thread; it has no timeout of its own, hence ours; it retries nothing, and
must not: a request without an answer may have sent the message. Whether it did, ``find_sent`` tells.
"""

from __future__ import annotations

import logging
import re
import threading
from decimal import Decimal, InvalidOperation
from typing import Any

from foundation.clock import Clock
from foundation.database import Database
from foundation.errors import SettingsError, Unavailable
from foundation.settings import Settings, load_settings
from notifications.channel import (
    SEND_TIMEOUT_SECONDS,
    Outcome,
    Page,
    PermanentFailure,
    RateLimited,
    Sent,
    TemporaryFailure,
    make_one_line,
    parse_retry_after,
)
from notifications.sms_ledger import Ledger, ProcessLedger, SmsLedger
from notifications.sms_text import LONGEST_TEXT, build_sms, measure_text, simplify_text
from notifications.twilio_errors import INVALID_STATUS_CALLBACK, OPTED_OUT, classify_error
from notifications.twilio_status import build_callback_url

VALIDITY_SECONDS = 300
# More than a recipient can have got within an hour, so that a page that went out is among them.
SEARCHED_MESSAGES = 50
CREDENTIALS = ("twilio_account_sid", "twilio_auth_token", "twilio_from_number")

logger = logging.getLogger(__name__)
# The SDK tells every request at INFO, with the recipient in it.
_SDK_LOG = logging.getLogger(f"{__name__}.sdk")
_SDK_LOG.setLevel(logging.WARNING)
_NUMBER = re.compile(r"\+[0-9]{4,15}")


class TwilioNotifier:
    """Sends SMS, at most SMS_MAX_PER_HOUR to one recipient."""

    def __init__(
        self,
        settings: Settings | None = None,
        database: Database | None = None,
        clock: Clock | None = None,
        timeout_seconds: float = SEND_TIMEOUT_SECONDS,
    ) -> None:
        """Take the credentials from the settings, by default those of the environment.

        The messages of the hour are counted in ``database``, by default that of DATABASE_URL; where neither is
        given they are counted within this process.

        Raises:
            ValueError: a credential is missing.
        """
        settings = settings or _load_settings()
        missing = [name.upper() for name in CREDENTIALS if not getattr(settings, name)]
        if missing:
            raise ValueError(f"Missing Twilio credentials in environment: {', '.join(missing)}")
        self.account_sid = settings.twilio_account_sid
        self.from_number = settings.twilio_from_number
        self._auth_token = settings.twilio_auth_token
        self._settings = settings
        self._clock = clock or Clock()
        self._timeout_seconds = timeout_seconds
        self._ledger = _open_ledger(settings, database, self._clock)
        self._thread = threading.local()

    @property
    def client(self) -> Any:
        """The SDK's client of the calling thread."""
        if not hasattr(self._thread, "client"):
            self._thread.client = self._make_client()
        return self._thread.client

    def send_sms(
        self, to_number: str, message: str, alert_id: int | str, *, notification_id: int | None = None
    ) -> dict[str, Any]:
        """Send a text and return ``sid``, ``status``, ``alert_id`` and ``to``, or ``error`` where it was not sent.

        ``to_number`` is E.164. A message beyond Twilio's 1600 characters is cut. ``sid`` is None where Twilio took
        the message in without saying what it calls it. Nothing is raised for what goes wrong outside.
        """
        outcome = self._deliver(to_number, simplify_text(message)[:LONGEST_TEXT], notification_id)
        told: dict[str, Any] = {"alert_id": alert_id, "to": to_number}
        match outcome:
            case Sent():
                return {"sid": outcome.provider_id, "status": outcome.provider_status, **told}
            case RateLimited():
                return {"error": "Rate limit exceeded", **told}
            case _:
                return {"error": outcome.reason, **told}

    def send(self, page: Page) -> Outcome:
        """Send the page as one text; the channel's side of ``send_sms``."""
        link = f"{page.link}{_mark(page.notification_id)}"
        text = build_sms(page.severity, page.device, page.message, page.alert_id, link)
        return self._deliver(page.address, text, page.notification_id)

    def find_sent(self, address: str, notification_id: int) -> Sent | None:
        """Return the message that carried a notification to a number, None where Twilio has taken in none.

        Twilio does not give back the status-callback address, so the notification's id also ends the text's link.

        Raises:
            Unavailable: Twilio cannot be asked now.
        """
        mark = re.compile(re.escape(_mark(notification_id)) + r"(?!\d)")
        messages = self._ask(lambda: self.client.messages.list(to=address, limit=SEARCHED_MESSAGES))
        found = (_read_message(message) for message in messages if mark.search(message.body or ""))
        return next(found, None)

    def fetch_sent(self, provider_id: str) -> Sent:
        """Return what has become of a message; its price is known some time after it was sent.

        Raises:
            Unavailable: Twilio cannot be asked now, or does not know it.
        """
        return _read_message(self._ask(lambda: self.client.messages(provider_id).fetch()))

    def _deliver(self, to_number: str, text: str, notification_id: int | None) -> Outcome:
        if _NUMBER.fullmatch(to_number) is None:
            return PermanentFailure(f"{make_one_line(to_number, 40)} is not a phone number such as +33612345678")
        try:
            place_id = self._ledger.take_place(to_number, notification_id)
        except Unavailable as error:
            return TemporaryFailure(f"the SMS of the hour cannot be counted: {error.message}")
        if place_id is None:
            logger.warning("no SMS to a recipient who has had %d within the hour", self._settings.sms_max_per_hour)
            return RateLimited(f"the recipient has had {self._settings.sms_max_per_hour} SMS within the hour")
        outcome = self._hand_over(to_number, text, notification_id)
        try:
            self._keep_books(to_number, place_id, outcome)
        except Unavailable as error:
            # What Twilio did stands, written down or not.
            logger.warning("the books of the SMS channel could not be kept: %s", error.message)
        return outcome

    def _keep_books(self, to_number: str, place_id: int, outcome: Outcome) -> None:
        if isinstance(outcome, Sent):
            self._ledger.clear_opt_out(to_number)
        elif not (isinstance(outcome, TemporaryFailure) and outcome.may_have_gone_out):
            self._ledger.give_back(place_id)
        if isinstance(outcome, PermanentFailure) and outcome.code == str(OPTED_OUT):
            self._ledger.mark_opted_out(to_number)

    def _hand_over(self, to_number: str, text: str, notification_id: int | None) -> Outcome:
        request = {"to": to_number, "from_": self.from_number, "body": text, "validity_period": VALIDITY_SECONDS}
        callback = build_callback_url(self._settings.base_url, notification_id)
        outcome = self._create({**request, "status_callback": callback})
        if isinstance(outcome, PermanentFailure) and outcome.code == str(INVALID_STATUS_CALLBACK):
            # Better a page that nobody can follow than none: Twilio refuses addresses that it cannot reach.
            logger.warning("Twilio cannot report to %s; set PUBLIC_URL to an address that it reaches", callback)
            outcome = self._create(request)
        return outcome

    def _create(self, request: dict[str, Any]) -> Outcome:
        from requests.exceptions import RequestException
        from twilio.base.exceptions import TwilioRestException, TwilioServiceException

        self._thread.retry_after = None
        try:
            message = self.client.messages.create(**request)
        except TwilioRestException as error:
            return classify_error(error.status, error.code, error.msg, self._read_retry_after())
        except TwilioServiceException as error:
            return classify_error(error.status, error.code, error.detail or error.title, self._read_retry_after())
        except RequestException as error:
            return _classify_broken_exchange(error)
        except ValueError:
            return TemporaryFailure("Twilio's answer cannot be read", may_have_gone_out=True)
        sent = _read_message(message, measure_text(request["body"]).segments)
        logger.info("SMS handed over: sid %s, status %s", sent.provider_id, sent.provider_status)
        return sent

    def _ask(self, question: Any) -> Any:
        from requests.exceptions import RequestException
        from twilio.base.exceptions import TwilioException

        try:
            return question()
        except (TwilioException, RequestException, ValueError) as error:
            raise Unavailable(f"Twilio cannot be asked: {make_one_line(str(error), 200)}") from error

    def _make_client(self) -> Any:
        from twilio.http.http_client import TwilioHttpClient
        from twilio.rest import Client

        http = TwilioHttpClient(
            timeout=self._timeout_seconds, logger=_SDK_LOG, request_hooks={"response": self._note_retry_after}
        )
        client = Client(self.account_sid, self._auth_token, http_client=http)
        if self._settings.twilio_api_base_url:
            client.api.base_url = self._settings.twilio_api_base_url
            # These would rewrite the host's name.
            client.edge = client.region = None
        return client

    # The SDK's exceptions carry no headers.
    def _note_retry_after(self, response: Any, **_: Any) -> None:
        self._thread.retry_after = response.headers.get("Retry-After")

    def _read_retry_after(self) -> float | None:
        return parse_retry_after(self._thread.retry_after, self._clock.now())


def _load_settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise ValueError(str(error)) from error


def _open_ledger(settings: Settings, database: Database | None, clock: Clock) -> Ledger:
    if database is None and settings.database_url:
        database = Database(settings.database_url, clock=clock, pool_size=2)
    if database is None:
        return ProcessLedger(clock, settings.sms_max_per_hour)
    return SmsLedger(database, settings.sms_max_per_hour)


def _mark(notification_id: int) -> str:
    """Return what follows the link of a notification's text; a browser keeps it to itself."""
    return f"#n{notification_id}"


def _read_message(message: Any, segments: int | None = None) -> Sent:
    return Sent(
        provider_id=message.sid,
        provider_status=message.status,
        segments=_read_count(message.num_segments) or segments,
        price=_read_price(message.price),
        price_unit=message.price_unit,
    )


def _read_count(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isdecimal() else None


def _read_price(text: object) -> Decimal | None:
    try:
        return Decimal(text) if isinstance(text, str) else None
    except InvalidOperation:
        return None


def _classify_broken_exchange(error: Exception) -> Outcome:
    from requests.exceptions import ConnectTimeout, SSLError, Timeout
    from urllib3.exceptions import NewConnectionError

    cause = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(error, ConnectTimeout | SSLError) or isinstance(cause, NewConnectionError):
        return TemporaryFailure("Twilio cannot be reached")
    word = "Twilio did not answer in time" if isinstance(error, Timeout) else "the connection to Twilio broke"
    return TemporaryFailure(word, may_have_gone_out=True)
