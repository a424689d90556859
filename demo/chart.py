"""A chart of readings with their alerts and labelled windows, as an SVG file that any browser shows.

Every column of pixels shows its smallest and largest reading, so that no spike is lost, however long the file is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from xml.sax.saxutils import escape

from demo.detection import AlertGroup, Verdict
from demo.labels import Window
from demo.telemetry import Reading

WIDTH, HEIGHT = 1200, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 1180, 84, 372
MOST_TIME_TICKS, MOST_VALUE_TICKS = 10, 6
DAY = 86_400
TIME_STEPS = (60, 300, 900, 3600, 10_800, 21_600, 43_200, *(DAY * days for days in (1, 2, 7, 14, 28, 91, 182, 364)))
SEVERITY_COLOURS = {"low": "#0277bd", "medium": "#ef6c00", "high": "#c62828", "critical": "#6a1b9a"}
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 }
.title { font-size: 18px; font-weight: 600 } .axis { fill: #666 } .grid { stroke: #e4e4e4 }
.line { fill: none; stroke: #546e7a; stroke-width: 1 }
.training { fill: #eceff1 } .found { fill: #2e7d32 } .missed { fill: #f9a825 } .window { fill-opacity: .22 }
.opening { stroke-dasharray: 3 3 } .false { fill: none; stroke-width: 2 }
"""


@dataclass(frozen=True)
class ChartText:
    """What stands above the chart."""

    title: str
    subtitle: str


@dataclass(frozen=True)
class Scale:
    """From times and values to places in the picture."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> Scale:
        """Return the scale that all readings fit into."""
        times = [reading.at.timestamp() for reading in readings]
        values = [reading.value for reading in readings]
        margin = (max(values) - min(values)) * 0.05 or abs(values[0]) * 0.05 or 1.0
        first = min(times)
        return cls(first, max(*times, first + 1.0), min(values) - margin, max(values) + margin)

    def x(self, seconds: float) -> float:
        """Return where a time stands, never beside the chart."""
        share = (seconds - self.first) / (self.last - self.first)
        return LEFT + (RIGHT - LEFT) * min(1.0, max(0.0, share))

    def y(self, value: float) -> float:
        """Return where a value stands."""
        return BOTTOM - (BOTTOM - TOP) * (value - self.low) / (self.high - self.low)


def draw_chart(
    text: ChartText,
    training: Sequence[Reading],
    streamed: Sequence[Reading],
    groups: Iterable[AlertGroup],
    verdict: Verdict,
) -> str:
    """Return the SVG; without labels ``verdict`` is an empty one, and no alert is called false."""
    readings = sorted([*training, *streamed], key=lambda reading: reading.at)
    scale = Scale.of(readings)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img"><title>{escape(text.title)}</title><desc>{escape(text.subtitle)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="30">{escape(text.title)}</text>',
        f'<text x="{LEFT}" y="52">{escape(text.subtitle)}</text>',
        *_draw_spans(scale, training, verdict),
        *_draw_grid(scale),
        f'<path class="line" d="{_trace(scale, readings)}"/>',
        *(part for group in groups for part in _draw_group(scale, group, is_false=group in verdict.false)),
        *_draw_legend(has_labels=bool(verdict.windows)),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _draw_spans(scale: Scale, training: Sequence[Reading], verdict: Verdict) -> Iterator[str]:
    if training:
        yield _draw_span(scale, Window(training[0].at, training[-1].at), "training", "training rows")
    for kind, windows in (("found", verdict.found), ("missed", verdict.missed)):
        for window in windows:
            yield _draw_span(scale, window, f"window {kind}", f"labelled fault, {kind}")


def _draw_span(scale: Scale, window: Window, kind: str, what: str) -> str:
    left, right = scale.x(window.start_at.timestamp()), scale.x(window.end_at.timestamp())
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{TOP}" width="{max(1.0, right - left):.1f}" height="{BOTTOM - TOP}">'
        f"<title>{what}: {_show(window.start_at)} to {_show(window.end_at)}</title></rect>"
    )


def _draw_grid(scale: Scale) -> Iterator[str]:
    for value in _list_value_ticks(scale):
        y = scale.y(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="axis" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    step, seconds = _list_time_ticks(scale)
    form = "%d %b %Y" if step >= DAY else "%d %b %H:%M"
    for at in seconds:
        label = datetime.fromtimestamp(at, UTC).strftime(form)
        yield f'<line class="grid" x1="{scale.x(at):.1f}" x2="{scale.x(at):.1f}" y1="{TOP}" y2="{BOTTOM + 5}"/>'
        yield f'<text class="axis" x="{scale.x(at):.1f}" y="{BOTTOM + 22}" text-anchor="middle">{label}</text>'


def _list_value_ticks(scale: Scale) -> list[float]:
    span = scale.high - scale.low
    power = 10.0 ** math.floor(math.log10(span / MOST_VALUE_TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= MOST_VALUE_TICKS)
    first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
    return [number * step for number in range(first, last + 1)]


def _list_time_ticks(scale: Scale) -> tuple[int, list[int]]:
    span = scale.last - scale.first
    step = next((step for step in TIME_STEPS if span / step <= MOST_TIME_TICKS), math.ceil(span / MOST_TIME_TICKS))
    first, last = math.ceil(scale.first / step), math.floor(scale.last / step)
    return step, [number * step for number in range(first, last + 1)]


def _trace(scale: Scale, readings: Sequence[Reading]) -> str:
    points = []
    for _, column in groupby(readings, key=lambda reading: int(scale.x(reading.at.timestamp()))):
        shown = list(column)
        extremes = {min(shown, key=_value_of), max(shown, key=_value_of)}
        points += [
            f"{scale.x(reading.at.timestamp()):.1f} {scale.y(reading.value):.1f}"
            for reading in sorted(extremes, key=lambda reading: reading.at)
        ]
    return "M" + "L".join(points)


def _value_of(reading: Reading) -> float:
    return reading.value


def _draw_group(scale: Scale, group: AlertGroup, *, is_false: bool) -> Iterator[str]:
    first, surest = group.opened_by, group.surest
    x, y, colour = scale.x(first.at.timestamp()), scale.y(first.value), SEVERITY_COLOURS[surest.severity]
    told = (
        f"{'false alert' if is_false else 'alert'} {first.alert_id}: {_show(first.at)}, value {first.value:g}, "
        f"{len(group.alerts)} alerts in the group, highest confidence {surest.confidence:.0%} ({surest.severity})"
    )
    yield f'<g class="group"><title>{escape(told)}</title>'
    yield f'<line class="opening" stroke="{colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM}"/>'
    if is_false:
        yield _draw_cross(x, y, colour)
    else:
        yield f'<circle class="alert" cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    yield "</g>"


def _draw_cross(x: float, y: float, colour: str) -> str:
    return f'<path class="false" stroke="{colour}" d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>'


def _draw_legend(*, has_labels: bool) -> Iterator[str]:
    y, x = HEIGHT - 20, LEFT
    keys = [(f'<rect class="training" x="{{x}}" y="{y - 11}" width="14" height="14"/>', "training rows")]
    if has_labels:
        for kind in ("found", "missed"):
            swatch = f'<rect class="window {kind} key" x="{{x}}" y="{y - 11}" width="14" height="14"/>'
            keys.append((swatch, f"labelled fault, {kind}"))
    for severity, colour in SEVERITY_COLOURS.items():
        keys.append((f'<circle cx="{{x7}}" cy="{y - 4}" r="5" fill="{colour}"/>', f"alert, {severity}"))
    if has_labels:
        keys.append((f'<path class="false" stroke="#333" d="M{{x2}} {y - 9}l10 10m0 -10l-10 10"/>', "false alert"))
    for shape, words in keys:
        yield shape.format(x=x, x2=x + 2, x7=x + 7)
        yield f'<text x="{x + 20}" y="{y}">{words}</text>'
        x += 40 + 7 * len(words)


def _show(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
