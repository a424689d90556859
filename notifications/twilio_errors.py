"""Twilio's error codes in words, and which of them a second attempt can cure.

https://www.twilio.com/docs/api/errors. Those of a number are known at sending; those from 30000 come with a callback.
"""

from __future__ import annotations

from notifications.channel import Outcome, PermanentFailure, TemporaryFailure, make_one_line

AUTHENTICATION_FAILED = 20003
TOO_MANY_REQUESTS = 20429
INVALID_STATUS_CALLBACK = 21609
OPTED_OUT = 21610

LONGEST_REASON = 200

NUMBER_FAULTS = {
    21211: "is not a valid phone number",
    21214: "cannot be reached",
    21265: "is a short code",
    21408: "lies in a region that the Twilio account may not send to",
    OPTED_OUT: "has opted out of these messages; texting START brings them back",
    21612: "cannot be reached from TWILIO_FROM_NUMBER",
    21614: "is not a mobile number",
}
SETTING_FAULTS = {
    AUTHENTICATION_FAILED: "Twilio refuses TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN",
    20404: "Twilio does not know TWILIO_ACCOUNT_SID",
    21212: "TWILIO_FROM_NUMBER is not a valid sender",
    21603: "TWILIO_FROM_NUMBER is missing",
    21606: "TWILIO_FROM_NUMBER is no number of the Twilio account that can send SMS",
    21608: "the Twilio account is a trial and may not send to numbers that it has not verified",
}
DELIVERY_FAULTS = {
    21610: "the recipient has opted out",
    30001: "Twilio's queue is full",
    30002: "the Twilio account is suspended",
    30003: "the phone is switched off or out of reach",
    30004: "the recipient or the carrier blocks the message",
    30005: "the number is unknown or no longer in service",
    30006: "the number is a landline, or its carrier cannot be reached",
    30007: "the carrier filtered the message out",
    30008: "the carrier gave no cause",
    30036: "it could not leave Twilio in time",
}


def classify_error(status: int, code: int | None, message: str, retry_after_seconds: float | None = None) -> Outcome:
    """Return what an error answer means; ``message`` is Twilio's own text, used where the code is unknown.

    Of a 5xx nobody can say whether the message was taken in before.
    """
    if status == 429 or code == TOO_MANY_REQUESTS:
        return TemporaryFailure("Twilio asks to send more slowly (429)", retry_after_seconds)
    if status >= 500:
        return TemporaryFailure(f"Twilio answered {status}", retry_after_seconds, may_have_gone_out=True)
    word = None if code is None or code == status else str(code)
    if code in NUMBER_FAULTS:
        return PermanentFailure(f"the number {NUMBER_FAULTS[code]} (Twilio error {code})", code=word)
    if code in SETTING_FAULTS or status in (401, 403):
        reason = SETTING_FAULTS.get(code or 0, SETTING_FAULTS[AUTHENTICATION_FAILED])
        return PermanentFailure(f"{reason} (Twilio error {code})", code=word, is_setting_fault=True)
    told = make_one_line(message, LONGEST_REASON) or "without a word"
    return PermanentFailure(f"Twilio refused the message: {told} ({word or status})", code=word)


def describe_delivery(status: str, code: int | None) -> str:
    """Return why a message that Twilio had taken in did not arrive."""
    cause = DELIVERY_FAULTS.get(code or 0)
    number = f" (Twilio error {code})" if code is not None else ""
    return f"{status}: {cause}{number}" if cause else f"{status}{number}"
