"""The part of Twilio's Messages resource that the service uses, in front of the inbox.

https://www.twilio.com/docs/messaging/api/message-resource says what the answers look like, and
https://www.twilio.com/docs/usage/webhooks/webhooks-security how the status callbacks are signed.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

import requests
from flask import Blueprint, request

from demo.inbox import Inbox, Sms
from notifications.sms_text import LONGEST_TEXT, measure_text

API_VERSION = "2010-04-01"
MESSAGES = f"/{API_VERSION}/Accounts/<account_sid>/Messages"
STEP_SECONDS = 0.5
"""How long a text takes from one status to the next."""
REPORT_SECONDS = 5.0
CARRIERS = 4
PAGE_SIZE = 50
REQUIRED = {"To": 21604, "From": 21603, "Body": 21602}

Answer = tuple[dict[str, Any], int]


@dataclass(frozen=True)
class Account:
    """The credentials that the service is given, and the number that its texts come from."""

    sid: str
    auth_token: str
    from_number: str

    @classmethod
    def invent(cls, from_number: str) -> Account:
        """Return an account that nobody else has."""
        return cls(f"AC{secrets.token_hex(16)}", secrets.token_hex(16), from_number)


class Carrier:
    """Brings texts to the phone: each is sent and then delivered, and the sender hears of both."""

    def __init__(self, inbox: Inbox, account: Account, step_seconds: float = STEP_SECONDS) -> None:
        self._inbox = inbox
        self._account = account
        self._step_seconds = step_seconds
        self._threads = ThreadPoolExecutor(CARRIERS, "carrier")
        self._is_stopping = threading.Event()

    def carry(self, sms: Sms) -> None:
        """Begin to carry a text; returns at once."""
        self._threads.submit(self._carry, sms)

    def stop(self) -> None:
        """Leave the texts where they are."""
        self._is_stopping.set()
        self._threads.shutdown(cancel_futures=True)

    def _carry(self, sms: Sms) -> None:
        for status in ("sent", "delivered"):
            if self._is_stopping.wait(self._step_seconds):
                return
            self._inbox.change_status(sms.sid, status)
            if sms.callback is not None:
                self._report(sms, status, sms.callback)

    def _report(self, sms: Sms, status: str, callback: str) -> None:
        form = {
            "AccountSid": self._account.sid,
            "ApiVersion": API_VERSION,
            "From": sms.sender,
            "MessageSid": sms.sid,
            "MessageStatus": status,
            "SmsSid": sms.sid,
            "SmsStatus": status,
            "To": sms.arrival.to,
        }
        # Only now: the SDK takes its time to load, and the inbox is up before it is needed.
        from twilio.request_validator import RequestValidator

        signature = RequestValidator(self._account.auth_token).compute_signature(callback, form)
        with requests.Session() as session:
            session.trust_env = False
            try:
                session.post(
                    callback,
                    data=form,
                    headers={"X-Twilio-Signature": signature},
                    timeout=REPORT_SECONDS,
                    allow_redirects=False,
                )
            except requests.RequestException:
                # As with Twilio: the text has arrived, whether its sender listens or not.
                return


def make_gateway(inbox: Inbox, account: Account, carrier: Carrier) -> Blueprint:
    """Return the resource: create, list and fetch messages, for the holder of the account alone."""
    gateway = Blueprint("sms_gateway", __name__)

    @gateway.before_request
    def check_login() -> Answer | None:
        given, sid = request.authorization, (request.view_args or {}).get("account_sid")
        pairs = [
            (sid, account.sid),
            (given and given.username, account.sid),
            (given and given.password, account.auth_token),
        ]
        is_good = all(hmac.compare_digest((value or "").encode(), expected.encode()) for value, expected in pairs)
        return None if is_good else refuse(HTTPStatus.UNAUTHORIZED, 20003, "Authenticate")

    @gateway.post(f"{MESSAGES}.json")
    def create_message(account_sid: str) -> Answer:
        form = request.form
        for name, code in REQUIRED.items():
            if not form.get(name):
                return refuse(HTTPStatus.BAD_REQUEST, code, f"'{name}' is required")
        if len(form["Body"]) > LONGEST_TEXT:
            return refuse(HTTPStatus.BAD_REQUEST, 21617, f"The body exceeds {LONGEST_TEXT} characters")
        segments = measure_text(form["Body"]).segments
        sid = f"SM{secrets.token_hex(16)}"
        sms = inbox.take_sms(sid, form["To"], form["From"], form["Body"], segments, form.get("StatusCallback"))
        carrier.carry(sms)
        return show_message(sms, account_sid), HTTPStatus.CREATED

    @gateway.get(f"{MESSAGES}.json")
    def list_messages(account_sid: str) -> Answer:
        to, size = request.args.get("To"), request.args.get("PageSize", PAGE_SIZE, int)
        found = [show_message(sms, account_sid) for sms in inbox.list_sms() if to in (None, sms.arrival.to)]
        # The service never asks for more than one page.
        return {"messages": found[:size], "page": 0, "page_size": size, "next_page_uri": None}, HTTPStatus.OK

    @gateway.get(f"{MESSAGES}/<sid>.json")
    def fetch_message(account_sid: str, sid: str) -> Answer:
        found = [sms for sms in inbox.list_sms() if sms.sid == sid]
        if not found:
            return refuse(HTTPStatus.NOT_FOUND, 20404, f"The requested resource {request.path} was not found")
        return show_message(found[0], account_sid), HTTPStatus.OK

    return gateway


def refuse(status: HTTPStatus, code: int, message: str) -> Answer:
    """Return Twilio's envelope of an error."""
    more_info = f"https://www.twilio.com/docs/errors/{code}"
    return {"code": code, "message": message, "more_info": more_info, "status": status}, status


def show_message(sms: Sms, account_sid: str) -> dict[str, Any]:
    """Return a message as Twilio shows it; once it is delivered it has a price, which is nothing."""
    arrived_at = format_datetime(sms.arrival.arrived_at)
    return {
        "account_sid": account_sid,
        "api_version": API_VERSION,
        "body": sms.body,
        "date_created": arrived_at,
        "date_sent": None if sms.status == "queued" else arrived_at,
        "date_updated": arrived_at,
        "direction": "outbound-api",
        "error_code": None,
        "error_message": None,
        "from": sms.sender,
        "messaging_service_sid": None,
        "num_media": "0",
        "num_segments": str(sms.segments),
        "price": "0.00000" if sms.status == "delivered" else None,
        "price_unit": "USD",
        "sid": sms.sid,
        "status": sms.status,
        "subresource_uris": {},
        "to": sms.arrival.to,
        "uri": f"/{API_VERSION}/Accounts/{account_sid}/Messages/{sms.sid}.json",
    }
