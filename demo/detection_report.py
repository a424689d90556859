"""What a person sees of a detection: a bar while it plays, then two tables and a chart."""

from __future__ import annotations

import math
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from demo.chart import ChartText, draw_chart
from demo.detection import AlertGroup, Detection, Findings, Verdict
from demo.report import SEVERITY_STYLES
from ml_alert_integration import ESCALATE_FROM

TIME_FORMAT = "%Y-%m-%d %H:%M"
MOST_GROUPS = 20


class DetectionView:
    """A bar over all readings."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[found]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._task = self._progress.add_task("Training", total=total, found="")

    def __enter__(self) -> DetectionView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def watch(self, readings: int, findings: Findings) -> None:
        """Show that some readings more are done."""
        found = f"{findings.anomalies:,} anomalies"
        self._progress.update(self._task, advance=readings, found=found, description="Playing")

    def tell_trouble(self, trouble: str | None) -> None:
        """Show that the service is away and tried again, or with None that it is back."""
        self._progress.update(self._task, description="Playing" if trouble is None else f"Trying again: {trouble}")


def make_detection_table(detection: Detection, findings: Findings, verdict: Verdict | None) -> Table:
    """Return the table of what the model made of a file; without labels there is no verdict."""
    first, last = detection.streamed[0].at, detection.streamed[-1].at
    waking = sum(group.surest.confidence >= ESCALATE_FROM for group in findings.groups)
    table = Table(
        box=box.ROUNDED,
        border_style="dim",
        title=Text(f"{detection.file_name}: anomalies of {detection.metric}", style="bold"),
        show_header=False,
        title_justify="left",
        min_width=60,
    )
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    table.add_row("Training rows", f"{len(detection.training):,}", f"the first of the file; model {findings.model_id}")
    table.add_row("Readings", f"{len(detection.streamed):,}", f"{first:{TIME_FORMAT}} to {last:{TIME_FORMAT}} UTC")
    if detection.telemetry.faults:
        fault = detection.telemetry.faults[0]
        remark = Text(f"passed over; line {fault.line}: {fault.message}")
        table.add_row("Bad rows", f"{len(detection.telemetry.faults):,}", remark)
    table.add_row("Anomalies", f"{findings.anomalies:,}", "readings at confidence 0.50 or more")
    table.add_row("Alerts", f"{findings.alerts:,}", "at confidence 0.70 or more")
    table.add_row(
        "Groups", f"{len(findings.groups):,}", f"what people are told once; {waking} reached {ESCALATE_FROM:.2f}"
    )
    table.add_row("Escalations", f"{findings.escalations:,}", "readings over an hour old page nobody")
    if verdict is not None:
        table.add_section()
        _add_verdict(table, verdict)
    table.add_section()
    rate = f"{findings.readings / findings.seconds:,.0f} readings a second" if findings.seconds else ""
    table.add_row("Time", f"{findings.seconds:.1f} s", rate)
    return table


def _add_verdict(table: Table, verdict: Verdict) -> None:
    told = len(verdict.found) + len(verdict.false)
    precision = f"; precision {len(verdict.found) / told:.2f}" if told else ""
    table.add_row(
        "Faults found", f"{len(verdict.found)} of {verdict.windows}", "labelled windows that a group begins in"
    )
    missed = ", ".join(f"{window.start_at:{TIME_FORMAT}}" for window in verdict.missed)
    table.add_row("Faults missed", f"{len(verdict.missed)}", missed and f"from {missed}")
    table.add_row("False alerts", f"{len(verdict.false)}", f"groups that begin outside every window{precision}")


def make_group_table(groups: tuple[AlertGroup, ...], verdict: Verdict | None) -> Table:
    """Return a table with a row for each group, the first twenty of them."""
    table = Table(box=box.SIMPLE_HEAD, border_style="dim", title_justify="left")
    for heading in (
        "Began at (UTC)",
        "Value",
        "Alerts",
        "Confidence",
        "Severity",
        *(["By the labels"] if verdict else []),
    ):
        table.add_column(heading, justify="right" if heading in ("Value", "Alerts", "Confidence") else "left")
    for group in groups[:MOST_GROUPS]:
        first, surest = group.opened_by, group.surest
        # Cut, not rounded: 0.7996 wakes nobody.
        confidence = math.floor(1000 * surest.confidence) / 1000
        cells = [f"{first.at:{TIME_FORMAT}}", f"{first.value:.4g}", f"{len(group.alerts)}", f"{confidence:.3f}"]
        severity = Text(surest.severity, style=SEVERITY_STYLES[surest.severity])
        table.add_row(*cells, severity, *([describe_group(group, verdict)] if verdict else []))
    if len(groups) > MOST_GROUPS:
        table.caption = f"and {len(groups) - MOST_GROUPS} more"
    return table


def describe_group(group: AlertGroup, verdict: Verdict) -> Text:
    """Return what a group is by the labels."""
    if group in verdict.false:
        return Text("false alert", style="red")
    for window, first in verdict.found.items():
        if first is group:
            return Text(f"fault from {window.start_at:{TIME_FORMAT}}", style="green")
    return Text("the same fault again", style="dim")


def write_chart(detection: Detection, findings: Findings, verdict: Verdict | None) -> None:
    """Draw the chart of a detection into its file.

    Raises:
        OSError: the file cannot be written.
    """
    words = f"{findings.alerts:,} alerts in {len(findings.groups):,} groups"
    if verdict is not None:
        found = f"{len(verdict.found)} of {verdict.windows} labelled faults found"
        words = f"{found}, {len(verdict.false)} false alerts ({words})"
    text = ChartText(f"{detection.file_name}: anomalies of {detection.metric}", words)
    chart = draw_chart(text, detection.training, detection.streamed, findings.groups, verdict or Verdict())
    detection.chart_path.write_text(chart, encoding="utf-8")
