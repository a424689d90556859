"""What a person sees: progress while the demonstration plays, a table when it is over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from demo.replay import CrewStep, Event, Outcome
from demo.survey import CLOCK_WORDS, Survey

SEVERITY_STYLES = {
    "critical": "bold red",
    "high": "red",
    "medium": "yellow",
    "low": "cyan",
    "info": "blue",
}
CLOCK_STYLES = {"met": "green", "open": "default", "at risk": "yellow", "breached": "bold red"}
CHANNEL_WORDS = {"email": "e-mail", "sms": "SMS"}
ACTION_WORDS = {"acknowledge": "acknowledged", "investigate": "investigating", "resolve": "resolved"}


@dataclass(frozen=True)
class Played:
    """What was played, for the title and the first rows of the table."""

    title: str
    period: str
    speed: float
    bad_rows: int = 0
    first_bad_row: str = ""


class ProgressView:
    """A bar over all readings; with ``names`` (of devices) it also tells of each new group and each step above it."""

    def __init__(self, console: Console, total: int, names: Mapping[str, str] | None = None) -> None:
        self._console = console
        self._names = names
        self._alerts = 0
        self._groups: set[str] = set()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[found]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._task = self._progress.add_task("Playing", total=total, found="")

    def __enter__(self) -> ProgressView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def watch(self, event: Event, done: Mapping[str, Any] | None) -> None:
        """Show one event that is done."""
        if isinstance(event, CrewStep):
            self._tell_step(event, done or {})
            return
        if done is not None:
            self._alerts += 1
            if done["group_id"] not in self._groups:
                self._groups.add(done["group_id"])
                self._tell_group(event, done)
        self._progress.update(self._task, advance=1, found=f"{self._alerts:,} alerts in {len(self._groups):,} groups")

    def tell_trouble(self, trouble: str | None) -> None:
        """Show that the service is away and tried again, or with None that it is back."""
        description = "Playing" if trouble is None else f"Trying again: {trouble}"
        self._progress.update(self._task, description=description)

    def _tell_group(self, event: Event, alert: Mapping[str, Any]) -> None:
        if self._names is not None:
            line = Text(f"  {event.at:%H:%M}  ", style="dim")
            line.append(f"{self._names[event.device_id]:<11}", style="bold default not dim")
            line.append(f"{alert['severity']:<9}", style=f"{SEVERITY_STYLES[alert['severity']]} not dim")
            line.append(alert["message"], style="default not dim")
            line.append(f"  group {alert['group_id']}")
            self._console.print(line, soft_wrap=True)

    def _tell_step(self, step: CrewStep, done: Mapping[str, Any]) -> None:
        if self._names is not None and done["changed"]:
            line = Text(f"  {step.at:%H:%M}  ", style="dim")
            line.append(f"{self._names[step.device_id]:<11}", style="bold default not dim")
            line.append(f"the crew: {ACTION_WORDS[step.action]}, ", style="green not dim")
            line.append(f"“{step.body['notes']}”", style="italic default not dim")
            line.append(f"  {done['changed']} alerts")
            self._console.print(line, soft_wrap=True)


def make_table(
    played: Played, outcome: Outcome, survey: Survey | None, arrived: Mapping[str, int] | None = None
) -> Table:
    """Return the table of a demonstration.

    Without a survey (the token may not read) its rows are left out, and so are the pages without ``arrived``, the count
    of those that came to the inbox by their channel.
    """
    table = Table(
        box=box.ROUNDED,
        border_style="dim",
        title=Text(played.title, style="bold"),
        show_header=False,
        title_justify="left",
        min_width=60,
    )
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    alerts, groups = len(outcome.alert_ids), len(outcome.group_ids)
    table.add_row("Readings", f"{outcome.readings:,}", "stopped" if outcome.is_stopped else Text(played.period))
    if played.bad_rows:
        table.add_row("Bad rows", f"{played.bad_rows:,}", Text(f"passed over; {played.first_bad_row}"))
    table.add_row("Alerts", f"{alerts:,}", describe_share(alerts, outcome))
    table.add_row("Groups", f"{groups:,}", "what people have to look at")
    table.add_row("Duplicates", f"{outcome.duplicates:,}", "same message as an open alert of the group")
    table.add_row("Noise reduction", f"{outcome.noise_reduction_pct:.1f} %", "100 × (1 - groups / alerts)")
    if survey is not None:
        _add_survey(table, survey)
    if arrived is not None:
        for channel, name in CHANNEL_WORDS.items():
            table.add_row(f"Pages by {name}", f"{arrived.get(channel, 0):,}", "in the inbox up to now")
        table.add_section()
    table.add_row("Time", f"{outcome.seconds:.1f} s", describe_rate(played.speed, alerts, outcome.seconds))
    return table


def describe_share(alerts: int, outcome: Outcome) -> str:
    """Return what there is to say about the number of alerts."""
    share = f"{100 * alerts / outcome.readings:.1f} % of the readings" if outcome.readings else ""
    return f"{share}; {outcome.replayed:,} were recorded before" if outcome.replayed else share


def describe_rate(speed: float, alerts: int, seconds: float) -> str:
    """Return how fast it went: the speed that was asked for, or else what the service took."""
    if speed:
        return f"{speed:g} times as fast as it happened"
    return f"{alerts / seconds:,.0f} alerts a second, one after the other" if alerts and seconds else ""


def _add_survey(table: Table, survey: Survey) -> None:
    table.add_section()
    for state in ("new", "acknowledged", "investigating", "resolved"):
        if survey.states[state]:
            table.add_row(f"State {state}", f"{survey.states[state]:,}", "")
    if survey.missing:
        table.add_row(
            "Not in the list", f"{survey.missing:,}", "taken by the service, and not found again", style="bold red"
        )
    table.add_section()
    for name, counts in (("SLA to acknowledge", survey.acknowledge), ("SLA to resolve", survey.resolve)):
        table.add_row(name, f"{counts.total():,}", describe_clocks(counts))
    table.add_section()


def describe_clocks(counts: Counter[Any]) -> Text:
    """Return all four counts of a clock, those above zero in their colours."""
    words = [
        Text(f"{counts[word]:,} {word}", style=CLOCK_STYLES[word] if counts[word] else "dim") for word in CLOCK_WORDS
    ]
    return Text(", ").join(words)
