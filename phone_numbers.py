"""Phone numbers in E.164: a plus, the country code, digits."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"\+[0-9]{4,15}")


def normalise_phone(value: str) -> str:
    """Return the number in canonical E.164.

    Raises:
        ValueError: it has no country code, holds anything but digits after the plus, or no such number is possible.
    """
    import phonenumbers

    refusal = ValueError("must be a phone number with its country code, such as +33612345678")
    # phonenumbers would also read letters and drop an extension: what is stored must be what was meant.
    if _DIGITS.fullmatch(value) is None:
        raise refusal
    try:
        number = phonenumbers.parse(value)
    except phonenumbers.NumberParseException as error:
        raise refusal from error
    # Not is_possible_number: it also takes numbers that only work when dialled from within their own area.
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise refusal
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
