"""The text of an SMS: what fits into one segment, and what a text costs.

3GPP TS 23.038: a text of the GSM-7 alphabet has 160 septets in one segment and 153 in each of several; a character
of the extension table takes two, which stay together. Any other text is sent as UCS-2 with 70 and 67 units; one beyond
the basic plane takes two, which stay together.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = frozenset("^{}[]~\\|€")
GSM7 = BASIC | EXTENSION

ONE_SEGMENT = {"GSM-7": 160, "UCS-2": 70}
EACH_OF_SEVERAL = {"GSM-7": 153, "UCS-2": 67}

# A message cut shorter than this says nothing; rather than that the text takes another segment.
LEAST_MESSAGE = 24
LONGEST_DEVICE = 24
LONGEST_TEXT = 1600  # Twilio's limit, in characters

# What machines report and GSM-7 lacks, where Unicode's own decomposition gives nothing.
REPLACEMENTS = str.maketrans({
    "‘": "'", "’": "'", "‚": ",", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "`": "'", "´": "'",
    "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "−": "-", "•": "*", "·": ".", "×": "x", "÷": "/",
    "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "±": "+/-", "→": "->", "←": "<-", "↑": "up", "↓": "down",
    "µ": "u", "μ": "u", "Ω": "Ω", "⁄": "/",
    "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⁻": "-", "⁺": "+",
})  # fmt: skip
_DEGREE = re.compile(r"\s*(?:°|º)\s*(?=[CFK]\b)|°")
# 10³ must not become 103.
_EXPONENT = re.compile(r"(?<=[0-9])(?=[⁰¹²³⁴-⁹⁺⁻])")
_DEGREE_LETTER = {"℃": " C", "℉": " F"}


@dataclass(frozen=True)
class Measure:
    """What a text takes: its encoding (GSM-7, UCS-2), septets or units, and segments."""

    encoding: str
    units: int
    segments: int


def measure_text(text: str) -> Measure:
    """Return the encoding, length and number of segments of a text."""
    encoding = "GSM-7" if GSM7.issuperset(text) else "UCS-2"
    widths = [_width(character, encoding) for character in text]
    units = sum(widths)
    if units <= ONE_SEGMENT[encoding]:
        return Measure(encoding, units, 1)
    return Measure(encoding, units, _count_segments(widths, EACH_OF_SEVERAL[encoding]))


def simplify_text(text: str) -> str:
    """Return a text as one line in which everything that GSM-7 can express is GSM-7.

    "85 °C" becomes "85 C"; accents that the alphabet lacks are dropped; what has no counterpart (Cyrillic, Chinese)
    stays.
    """
    for sign, letters in _DEGREE_LETTER.items():
        text = text.replace(sign, letters)
    text = _EXPONENT.sub("^", _DEGREE.sub(" ", text)).translate(REPLACEMENTS)
    simplified = "".join(_simplify(character) for character in text)
    return " ".join(simplified.split())


def build_sms(severity: str, device: str, message: str, alert_id: int, link: str) -> str:
    """Return the text of a page, in one segment where at least 24 characters of the message fit beside the rest.

    Only device and message are ever cut; the alert's number and the link are whole, and last.
    """
    head = f"{severity.upper()} {_cut(simplify_text(device), LONGEST_DEVICE)}: "
    tail = f" Alert {alert_id} {link}"
    body = simplify_text(message)
    whole = head + body + tail
    most = _room(head, body, tail)
    if len(body) <= most:
        return whole
    return head + _cut(body, most) + tail


def _room(head: str, body: str, tail: str) -> int:
    """Return how many characters the message may have for the fewest segments that leave it enough."""
    least = min(len(body), LEAST_MESSAGE)
    target = measure_text(head + _cut(body, least) + tail).segments
    fitting = least
    low, high = least, min(len(body), max(least, LONGEST_TEXT - len(head) - len(tail)))
    while low <= high:
        middle = (low + high) // 2
        if measure_text(head + _cut(body, middle) + tail).segments <= target:
            fitting, low = middle, middle + 1
        else:
            high = middle - 1
    return fitting


def _cut(text: str, longest: int) -> str:
    """Return at most ``longest`` characters; dots, which any alphabet has, stand for the rest."""
    return text if len(text) <= longest else text[: max(0, longest - 3)].rstrip() + "..."


def _simplify(character: str) -> str:
    if not character.isprintable():
        return " " if unicodedata.category(character) != "Cs" else "?"
    if character in GSM7:
        return character
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return plain if plain and GSM7.issuperset(plain) else character


def _width(character: str, encoding: str) -> int:
    if encoding == "GSM-7":
        return 2 if character in EXTENSION else 1
    return 2 if ord(character) > 0xFFFF else 1


def _count_segments(widths: Iterable[int], size: int) -> int:
    segments, used = 1, 0
    for width in widths:
        if used + width > size:
            segments, used = segments + 1, 0
        used += width
    return segments
