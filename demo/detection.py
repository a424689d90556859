"""A file of readings through the anomaly model of the service: trained on its first rows, asked about the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from demo.client import Pause, ServiceClient, ServiceRefused, Stopped
from demo.labels import Window
from demo.telemetry import Reading, Telemetry, read_telemetry
from foundation.clock import Clock
from foundation.errors import SettingsError
from ml.answers import ANOMALY
from ml.detector import ALERT_ROWS

MOST_TRAINING_ROWS = 750
TRAINING_SHARE_PCT = 15
BATCH_SIZE = 500


@dataclass(frozen=True)
class Detection:
    """What is to be detected where; ``windows`` is None where nobody has labelled the readings."""

    telemetry: Telemetry
    file_name: str
    device_id: str
    metric: str
    windows: tuple[Window, ...] | None
    chart_path: Path

    @property
    def training(self) -> Sequence[Reading]:
        """The first rows: at most 15 % of the file, and at most 750."""
        return self.telemetry.readings[: self._training_rows]

    @property
    def streamed(self) -> Sequence[Reading]:
        """All later rows."""
        return self.telemetry.readings[self._training_rows :]

    @property
    def _training_rows(self) -> int:
        return min(len(self.telemetry.readings) * TRAINING_SHARE_PCT // 100, MOST_TRAINING_ROWS)


def read_detectable(path: Path, now: datetime) -> Telemetry:
    """Return the readings of a file, as ``read_telemetry`` does, where they are enough for a model.

    Raises:
        SettingsError: the file is of no use, or too short.
    """
    telemetry = read_telemetry(path, now)
    if len(telemetry.readings) <= ALERT_ROWS:
        raise SettingsError(f"--ml: {path} is too short: a model raises no alert before {ALERT_ROWS} rows")
    return telemetry


@dataclass(frozen=True)
class RaisedAlert:
    """An alert of the model."""

    alert_id: str
    group_id: str
    at: datetime
    value: float
    confidence: float
    severity: str


@dataclass(frozen=True)
class AlertGroup:
    """The alerts of one group in order of time: what people are told once."""

    alerts: tuple[RaisedAlert, ...]

    @property
    def opened_by(self) -> RaisedAlert:
        """Its first alert."""
        return self.alerts[0]

    @property
    def surest(self) -> RaisedAlert:
        """The alert with the highest confidence."""
        return max(self.alerts, key=lambda alert: alert.confidence)


@dataclass
class Findings:
    """What the service answered and what it lists afterwards."""

    model_id: str = ""
    readings: int = 0
    anomalies: int = 0
    groups: tuple[AlertGroup, ...] = ()
    escalations: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def alerts(self) -> int:
        """How many alerts there are."""
        return sum(len(group.alerts) for group in self.groups)

    @property
    def seconds(self) -> float:
        """How long training and playing took."""
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class Verdict:
    """The groups against the labels: a window is found when a group begins in it; other groups are false alerts.

    ``found`` has the first group of each window that was found; a further one in the same window is neither found nor
    false. Windows that end within the training rows are none of ours.
    """

    found: Mapping[Window, AlertGroup] = field(default_factory=dict)
    missed: tuple[Window, ...] = ()
    false: tuple[AlertGroup, ...] = ()

    @property
    def windows(self) -> int:
        """How many windows there are to find."""
        return len(self.found) + len(self.missed)


def judge(groups: Iterable[AlertGroup], windows: Iterable[Window], streamed: Sequence[Reading]) -> Verdict:
    """Return what the groups are worth by the labels."""
    live = [window for window in windows if streamed and window.end_at >= streamed[0].at]
    found: dict[Window, AlertGroup] = {}
    false = []
    for group in groups:
        window = next((window for window in live if window.holds(group.opened_by.at)), None)
        if window is None:
            false.append(group)
        else:
            found.setdefault(window, group)
    return Verdict(found, tuple(window for window in live if window not in found), tuple(false))


@dataclass(frozen=True)
class Clients:
    """Who takes part: who trains, the gateway that has the readings, and who looks afterwards."""

    trainer: ServiceClient
    device: ServiceClient
    viewer: ServiceClient


class Detector:
    """Trains, asks, and reads back what came of it; ``watch`` is told how many readings more are done."""

    def __init__(self, clients: Clients, clock: Clock, pause: Pause, watch: Callable[[int, Findings], None]) -> None:
        self._clients = clients
        self._clock = clock
        self._pause = pause
        self._watch = watch

    def detect(self, detection: Detection) -> Findings:
        """Play the whole file.

        Raises:
            ServiceRefused: the service refused the training or a reading; the message says which.
            Unavailable: the service stayed away.
            Stopped: a stop was asked for meanwhile.
        """
        findings = Findings(started_at=self._clock.now())
        series = {"device_id": detection.device_id, "metric": detection.metric}
        training = [{"timestamp": reading.at.isoformat(), "value": reading.value} for reading in detection.training]
        findings.model_id = self._clients.trainer.train_model({**series, "rows": training})["model_id"]
        self._count(findings, len(training))
        for start in range(0, len(detection.streamed), BATCH_SIZE):
            self._predict(series, detection.streamed[start : start + BATCH_SIZE], findings)
        findings.ended_at = self._clock.now()
        findings.groups = gather_groups(self._clients.viewer.list_alerts(detection.device_id))
        findings.escalations = sum(1 for _ in self._clients.viewer.list_escalations(detection.device_id))
        return findings

    def _predict(self, series: Mapping[str, str], batch: Sequence[Reading], findings: Findings) -> None:
        if self._pause(0):
            raise Stopped
        bodies = [{**series, "timestamp": reading.at.isoformat(), "value": reading.value} for reading in batch]
        for reading, result in zip(batch, self._clients.device.predict_batch(bodies), strict=True):
            if result["error"] is not None:
                raise ServiceRefused(f"line {reading.line}: {result['error']['error']}", 400)
            findings.anomalies += result["is_anomaly"] == ANOMALY
        self._count(findings, len(batch))

    def _count(self, findings: Findings, readings: int) -> None:
        findings.readings += readings
        self._watch(readings, findings)


def gather_groups(listed: Iterable[Mapping[str, Any]]) -> tuple[AlertGroup, ...]:
    """Return alerts, as lists show them, in their groups, all in order of time."""
    alerts = [
        RaisedAlert(
            alert_id=alert["alert_id"],
            group_id=alert["group_id"],
            at=datetime.fromisoformat(alert["occurred_at"]),
            value=alert["metadata"]["value"],
            confidence=alert["metadata"]["confidence"],
            severity=alert["severity"],
        )
        for alert in listed
    ]
    alerts.sort(key=lambda alert: (int(alert.group_id), alert.at, int(alert.alert_id)))
    groups = [AlertGroup(tuple(found)) for _, found in groupby(alerts, key=lambda alert: alert.group_id)]
    return tuple(sorted(groups, key=lambda group: group.opened_by.at))
