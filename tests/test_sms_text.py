"""The text of an SMS: how it is counted, what becomes of it, and that it fits where it can."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notifications.sms_text import (
    BASIC,
    EACH_OF_SEVERAL,
    EXTENSION,
    GSM7,
    LEAST_MESSAGE,
    LONGEST_DEVICE,
    ONE_SEGMENT,
    Measure,
    build_sms,
    measure_text,
    simplify_text,
)

LINK = "https://alerts.example.com/alerts/812#n41"
GSM_TEXT = st.text(alphabet=sorted(GSM7))
WIDE_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
SEVERITIES = st.sampled_from(["critical", "high", "medium", "low", "info"])


def count_like_a_phone(text: str) -> Measure:
    """Count over the encoded bytes, as the network sees them."""
    if all(character in GSM7 for character in text):
        encoding, units = "GSM-7", [2 if character in "^{}[]~\\|€" else 1 for character in text]
    else:
        encoding, units = "UCS-2", [len(character.encode("utf-16-be")) // 2 for character in text]
    if sum(units) <= ONE_SEGMENT[encoding]:
        return Measure(encoding, sum(units), 1)
    segments = [0]
    for unit in units:
        if segments[-1] + unit > EACH_OF_SEVERAL[encoding]:
            segments.append(0)
        segments[-1] += unit
    return Measure(encoding, sum(units), len(segments))


class TestMeasuring:
    def test_the_alphabet_has_127_characters_and_9_of_two_septets(self) -> None:
        # 128 places, of which one is the escape to the second table.
        assert len(BASIC) == 127
        assert frozenset("^{}[]~\\|€") == EXTENSION
        assert not BASIC & EXTENSION

    @pytest.mark.parametrize(
        ("text", "encoding", "units", "segments"),
        [
            ("", "GSM-7", 0, 1),
            ("a" * 160, "GSM-7", 160, 1),
            ("a" * 161, "GSM-7", 161, 2),
            ("a" * 306, "GSM-7", 306, 2),
            ("a" * 307, "GSM-7", 307, 3),
            ("€" * 80, "GSM-7", 160, 1),
            ("€" * 81, "GSM-7", 162, 2),
            # 152 septets and a pair that does not fit beside them: the first segment stays one short.
            ("a" * 152 + "€" + "a" * 152, "GSM-7", 306, 3),
            ("a" * 153 + "€" + "a" * 151, "GSM-7", 306, 2),
            ("é" * 160, "GSM-7", 160, 1),
            ("ê", "UCS-2", 1, 1),
            ("°", "UCS-2", 1, 1),
            ("ж" * 70, "UCS-2", 70, 1),
            ("ж" * 71, "UCS-2", 71, 2),
            ("ж" * 134, "UCS-2", 134, 2),
            ("ж" * 135, "UCS-2", 135, 3),
            ("🔥" * 35, "UCS-2", 70, 1),
            ("ж" * 66 + "🔥" + "ж" * 66, "UCS-2", 134, 3),
            ("{ж", "UCS-2", 2, 1),
        ],
    )
    def test_known_counts(self, text: str, encoding: str, units: int, segments: int) -> None:
        assert measure_text(text) == Measure(encoding, units, segments)

    @given(GSM_TEXT | WIDE_TEXT)
    def test_it_counts_as_a_phone_does(self, text: str) -> None:
        assert measure_text(text) == count_like_a_phone(text)

    @given(st.text(alphabet="a€", min_size=100, max_size=500) | st.text(alphabet="ж🔥", min_size=40, max_size=300))
    def test_it_counts_long_texts_as_a_phone_does(self, text: str) -> None:
        assert measure_text(text) == count_like_a_phone(text)


class TestSimplifying:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("85°C", "85 C"),
            ("85 °C", "85 C"),
            ("85.5\u00a0°C!", "85.5 C!"),
            ("185℉", "185 F"),
            ("turned by 90°", "turned by 90"),
            ("90° off", "90 off"),
            ("“hot” – it’s 5 µm…", '"hot" - it\'s 5 um...'),
            ("Große Hitze à l'étage", "Große Hitze à l'étage"),
            ("tête, garçon, Łódź", "tete, garcon, Łodz"),
            ("m³/h, 1½ bar", "m3/h, 1 1/2 bar"),
            ("10³ and 10⁻⁶", "10^3 and 10^-6"),
            ("10 kΩ", "10 kΩ"),
            ("≥ 5 ± 1", ">= 5 +/- 1"),
            ("line 1\r\n\tline 2\x00\u2028end", "line 1 line 2 end"),
            ("котёл №2", "котёл No2"),
            ("a\ud800b", "a?b"),
        ],
    )
    def test_known_texts(self, text: str, expected: str) -> None:
        assert simplify_text(text) == expected

    @given(GSM_TEXT)
    def test_what_is_gsm_7_stays_but_for_white_space(self, text: str) -> None:
        assert simplify_text(text) == " ".join(text.replace("\n", " ").replace("\r", " ").split())

    @given(st.text())
    def test_it_is_one_printable_line_and_done_at_once(self, text: str) -> None:
        simple = simplify_text(text)
        assert simple.isprintable()
        assert simple == simple.strip()
        assert simplify_text(simple) == simple
        simple.encode()


class TestBuilding:
    def test_a_page_fits_one_segment(self) -> None:
        text = build_sms("critical", "Press 4", "Temperature is 85 °C", 812, LINK)
        assert text == f"CRITICAL Press 4: Temperature is 85 C Alert 812 {LINK}"
        assert measure_text(text).segments == 1

    def test_a_long_message_is_cut_to_fill_one_segment(self) -> None:
        text = build_sms("high", "Press 4", "Vibration is far beyond what the bearing can take " * 4, 812, LINK)
        assert text.startswith("HIGH Press 4: Vibration is far beyond")
        assert text.endswith(f"... Alert 812 {LINK}")
        assert measure_text(text).segments == 1
        assert measure_text(text).units >= 158

    def test_a_message_of_another_script_takes_the_segments_it_needs(self) -> None:
        text = build_sms("critical", "Котёл 2", "Давление в котле выше нормы, остановите подачу", 812, LINK)
        assert "Давление в котле выше" in text
        assert text.endswith(LINK)
        assert measure_text(text) == Measure("UCS-2", measure_text(text).units, 2)

    def test_a_link_beyond_one_segment_stays_whole(self) -> None:
        link = "https://alerts.example.com/" + "a" * 200
        text = build_sms("low", "Press 4", "Too hot", 812, link)
        assert text == f"LOW Press 4: Too hot Alert 812 {link}"

    @given(SEVERITIES, WIDE_TEXT, WIDE_TEXT, st.integers(1, 2**63 - 1), st.integers(0, 120))
    @example("critical", "€" * 40, "€" * 400, 1, 0)
    @example("critical", "d", "a" * 90 + "ж", 1, 0)
    def test_link_and_number_are_whole_and_last(
        self, severity: str, device: str, message: str, alert_id: int, length: int
    ) -> None:
        link = "https://a.example/" + "x" * length
        text = build_sms(severity, device, message, alert_id, link)
        assert text.startswith(f"{severity.upper()} ")
        assert text.endswith(f" Alert {alert_id} {link}")
        assert "°" not in text
        assert len(text) <= 1600

    @given(st.text(alphabet=sorted(GSM7), max_size=40), st.text(alphabet=sorted(GSM7), max_size=400))
    def test_gsm_7_always_fits_one_segment(self, device: str, message: str) -> None:
        text = build_sms("critical", device, message, 812, LINK)
        assert measure_text(text).encoding == "GSM-7"
        assert measure_text(text).segments == 1

    @given(st.text(alphabet="aж€ 🔥", max_size=30), st.text(alphabet="aж€ 🔥", max_size=400))
    def test_nothing_is_cut_that_would_have_fitted(self, device: str, message: str) -> None:
        text = build_sms("critical", device, message, 812, LINK)
        shown = simplify_text(device)
        if len(shown) > LONGEST_DEVICE:
            shown = shown[: LONGEST_DEVICE - 3].rstrip() + "..."
        whole = f"CRITICAL {shown}: {simplify_text(message)} Alert 812 {LINK}"
        if measure_text(whole).segments == 1 or len(simplify_text(message)) <= LEAST_MESSAGE:
            assert text == whole
        else:
            assert measure_text(text).segments <= measure_text(whole).segments
            assert len(text) <= len(whole)
