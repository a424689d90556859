"""The double of Twilio against Twilio's own description of the Messages resource."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from openapi_schema_validator import OAS30Validator

from tests.twilio_double import ACCOUNT_SID, AUTH_TOKEN, FROM_NUMBER, TwilioDouble, lose_answer, run_double

DESCRIPTION = json.loads(
    (Path(__file__).resolve().parent.parent / "../shared/data/twilio/messages_openapi.json").read_text()
)
LIST_PATH = "/2010-04-01/Accounts/{AccountSid}/Messages.json"
INSTANCE_PATH = "/2010-04-01/Accounts/{AccountSid}/Messages/{Sid}.json"
SCHEMAS = DESCRIPTION["components"]["schemas"]
FORM = {"To": "+33612345678", "From": FROM_NUMBER, "Body": "Boiler 2 is hot", "ValidityPeriod": "300"}


@pytest.fixture
def double() -> Iterator[TwilioDouble]:
    with run_double() as running:
        yield running


def call(
    double: TwilioDouble, path: str, form: dict[str, str] | None = None, token: str = AUTH_TOKEN
) -> tuple[int, Any]:
    """Return status and document of an answer."""
    credentials = base64.b64encode(f"{ACCOUNT_SID}:{token}".encode()).decode()
    request = Request(
        double.url + path.format(AccountSid=ACCOUNT_SID),
        None if form is None else urlencode(form).encode(),
        {"Authorization": f"Basic {credentials}"},
    )
    try:
        with urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def check(document: Any, path: str, method: str, status: int) -> None:
    """Check an answer against the description, and that it has every field and no other."""
    schema = DESCRIPTION["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]
    OAS30Validator({**schema, "components": DESCRIPTION["components"]}).validate(document)
    resources = document.get("messages", [document])
    for resource in resources:
        assert set(resource) == set(SCHEMAS["api.v2010.account.message"]["properties"])


def test_a_message_that_is_taken_in_is_answered_as_described(double: TwilioDouble) -> None:
    status, message = call(double, LIST_PATH, FORM)
    assert status == 201
    check(message, LIST_PATH, "post", 201)
    assert (message["status"], message["to"], message["body"]) == ("queued", FORM["To"], FORM["Body"])
    assert message["num_segments"] == "1"
    assert message["price"] is None


def test_the_example_of_the_description_passes_the_same_check() -> None:
    content = DESCRIPTION["paths"][LIST_PATH]["post"]["responses"]["201"]["content"]["application/json"]
    check(content["examples"]["create"]["value"], LIST_PATH, "post", 201)


@pytest.mark.parametrize("change", [{"sid": "nope"}, {"status": "gone"}, {"error_code": "30003"}, {"unknown": 1}])
def test_the_check_finds_what_is_wrong(double: TwilioDouble, change: dict[str, Any]) -> None:
    _, message = call(double, LIST_PATH, FORM)
    with pytest.raises(Exception, match=r"is too short|is not one of|is not of type|Extra items"):
        check({**message, **change}, LIST_PATH, "post", 201)


def test_one_message_is_fetched_as_described(double: TwilioDouble) -> None:
    _, message = call(double, LIST_PATH, FORM)
    status, fetched = call(double, INSTANCE_PATH.replace("{Sid}", message["sid"]))
    assert (status, fetched) == (200, message)
    check(fetched, INSTANCE_PATH, "get", 200)


def test_messages_are_listed_newest_first_by_recipient_and_page(double: TwilioDouble) -> None:
    for number in range(5):
        call(double, LIST_PATH, {**FORM, "Body": f"text {number}"})
    call(double, LIST_PATH, {**FORM, "To": "+33699999999"})
    query = urlencode({"To": FORM["To"], "PageSize": 2})
    bodies: list[str] = []
    path: str | None = f"{LIST_PATH}?{query}"
    while path:
        status, page = call(double, path)
        assert status == 200
        check(page, LIST_PATH, "get", 200)
        bodies += [message["body"] for message in page["messages"]]
        path = page["next_page_uri"]
    assert bodies == [f"text {number}" for number in (4, 3, 2, 1, 0)]


def test_parameters_are_those_of_the_description(double: TwilioDouble) -> None:
    properties = DESCRIPTION["paths"][LIST_PATH]["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"][
        "schema"
    ]["properties"]
    assert {"To", "From", "Body", "ValidityPeriod", "StatusCallback"} <= set(properties)
    filters = {parameter["name"] for parameter in DESCRIPTION["paths"][LIST_PATH]["get"]["parameters"]}
    assert {"To", "From", "PageSize", "Page"} <= filters


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"To": ""}, 21604),
        ({"From": ""}, 21603),
        ({"Body": ""}, 21602),
        ({"To": "nope"}, 21211),
        ({"To": "+15005550001"}, 21211),
        ({"To": "+15005550004"}, 21610),
        ({"Body": "x" * 1601}, 21617),
        ({"ValidityPeriod": "36001"}, 21624),
    ],
)
def test_refusals_come_in_the_envelope_and_keep_nothing(
    double: TwilioDouble, change: dict[str, str], code: int
) -> None:
    status, error = call(double, LIST_PATH, {**FORM, **change})
    assert (status, error["code"], error["status"]) == (400, code, 400)
    assert set(error) == {"code", "message", "more_info", "status"}
    assert double.messages == []


def test_a_wrong_token_is_refused(double: TwilioDouble) -> None:
    status, error = call(double, LIST_PATH, FORM, token="wrong")
    assert (status, error["code"]) == (401, 20003)
    assert double.messages == []


def test_an_unknown_message_is_not_found(double: TwilioDouble) -> None:
    status, error = call(double, INSTANCE_PATH.replace("{Sid}", "SM" + "0" * 32))
    assert (status, error["code"]) == (404, 20404)


def test_an_answer_that_is_lost_leaves_the_message(double: TwilioDouble) -> None:
    double.misbehave(lose_answer())
    with pytest.raises(OSError):
        call(double, LIST_PATH, FORM)
    assert [message["body"] for message in double.messages] == [FORM["Body"]]


def test_statuses_are_those_of_the_description() -> None:
    from notifications.twilio_status import RANKS

    inbound = {"receiving", "received"}
    assert set(RANKS) == set(SCHEMAS["message_enum_status"]["enum"]) - inbound
