"""From raw requests to validated schemas, every wrong field named at once.

The same pydantic models validate here and describe the API in ``api/openapi.py``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from foundation.errors import Fault, ValidationFailed

Model = TypeVar("Model", bound=BaseModel)

INT64_MAX = 2**63 - 1
_FAULTS_WITHIN = "faults_within"
UPLOAD_TYPE = "multipart/form-data"
IDENTIFIER = re.compile(r"[1-9][0-9]{0,18}")


class Schema(BaseModel):
    """Base of every request and answer: an unknown field is a typo that must not be lost in silence."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, ser_json_inf_nan="null")


def parse_identifier(text: str) -> int | None:
    """Return the identifier that ``text`` spells, or None where no row can have it (``-1``, ``1e3``, 30 digits)."""
    if IDENTIFIER.fullmatch(text) is None or int(text) > INT64_MAX:
        return None
    return int(text)


def read_body(request: Request, model: type[Model], *, limit_bytes: int, optional: bool = False) -> Model:
    """Validate the request's JSON body.

    Raises:
        RequestEntityTooLarge: the body has more than ``limit_bytes``, whatever length it declares.
        UnsupportedMediaType: the body is not said to be JSON.
        ValidationFailed: with every wrong field, or ``body`` for broken JSON.
    """
    # A body of undeclared length is cut at this limit in silence: one byte more than may come tells.
    request.max_content_length = limit_bytes + 1
    if request.content_length is not None:
        # Its end is known: to look for it once more would be another wait for the server.
        request.environ.pop("wsgi.input_terminated", None)
    raw = request.get_data()
    if len(raw) > limit_bytes:
        raise RequestEntityTooLarge
    if optional and not raw:
        return model()
    if not request.is_json:
        raise UnsupportedMediaType("the body must be JSON: send Content-Type: application/json")
    return parse_json(model, raw)


def read_upload(request: Request, model: type[Model], *, limit_bytes: int) -> Model:
    """Validate a form whose files are fields like the others.

    Raises:
        RequestEntityTooLarge: the body has more than ``limit_bytes``.
        ValidationFailed: with every wrong field.
    """
    request.max_content_length = limit_bytes
    files = {name: file.read() for name, file in request.files.items()}
    names = [*(name for name, _ in request.form.items(multi=True)), *(n for n, _ in request.files.items(multi=True))]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValidationFailed(Fault(name, "is given more than once") for name in repeated)
    try:
        return model.model_validate({**request.form.to_dict(), **files})
    except ValidationError as error:
        raise ValidationFailed(describe_faults(error)) from error


def parse_json(model: type[Model], raw: bytes) -> Model:
    """Validate JSON bytes against a schema."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        if error.errors(include_url=False, include_context=False)[0]["type"] == "json_invalid":
            raise ValidationFailed(_explain_broken_json(raw)) from error
        raise ValidationFailed(describe_faults(error)) from error


def parse_query(model: type[Model], arguments: MultiDict[str, str]) -> Model:
    """Validate query parameters; a parameter given twice is refused, for one of the two would be lost."""
    repeated = [name for name, values in arguments.lists() if len(values) > 1]
    if repeated:
        raise ValidationFailed(Fault(name, "is given more than once") for name in repeated)
    try:
        return model.model_validate_strings(arguments.to_dict())
    except ValidationError as error:
        raise ValidationFailed(describe_faults(error)) from error


def describe_faults(error: ValidationError, prefix: str = "") -> list[Fault]:
    """Return one fault per wrong field, in the words of the API."""
    faults: list[Fault] = []
    for item in error.errors(include_url=False, include_input=False):
        field = prefix + _field_path(item["loc"])
        if item["type"] == _FAULTS_WITHIN:
            faults.extend(Fault((field + f.field).removeprefix("."), f.message) for f in item["ctx"]["faults"])
        else:
            faults.append(Fault(field or "body", _say(item["type"], item["msg"])))
    return faults


def faults_within(faults: Sequence[Fault]) -> PydanticCustomError:
    """Return the error for a validator that found faults at places within its value (``.metric``, ``[2].name``)."""
    return PydanticCustomError(_FAULTS_WITHIN, "is not valid", {"faults": list(faults)})


def check_json_value(value: object, path: str) -> Iterator[Fault]:
    """Yield what jsonb cannot hold or other readers cannot read: NUL, lone surrogates, NaN, huge integers."""
    if isinstance(value, str):
        fault = check_text(value)
        if fault:
            yield Fault(path, fault)
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(path, "must be a finite number")
    elif isinstance(value, int) and not -INT64_MAX - 1 <= value <= INT64_MAX:
        yield Fault(path, "must fit into 64 bits")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from check_json_value(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if check_text(key):
                yield Fault(path, "has a key with a NUL character or a lone surrogate")
            else:
                yield from check_json_value(item, f"{path}.{key}")


def check_text(value: str) -> str | None:
    """Return what is wrong with a text for PostgreSQL, or None."""
    if "\x00" in value:
        return "must not contain a NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "must not contain a lone surrogate"
    return None


def _field_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


_PHRASES = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "string_unicode": "must not contain a lone surrogate",
}


def _say(kind: str, message: str) -> str:
    text = _PHRASES.get(kind) or message.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]


def _explain_broken_json(raw: bytes) -> list[Fault]:
    """Name the field of a lone surrogate or an oversized number, which the strict parser can only call broken JSON."""
    try:
        value: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return [Fault("body", "is not valid JSON")]
    faults = list(check_json_value(value, ""))
    return [Fault(f.field.removeprefix(".") or "body", f.message) for f in faults] or [
        Fault("body", "is not valid JSON")
    ]
