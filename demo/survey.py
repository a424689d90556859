"""What the service says afterwards about the alerts of a demonstration: their states and SLA clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from demo.client import ServiceClient

ClockWord = Literal["met", "open", "at risk", "breached"]
CLOCK_WORDS: tuple[ClockWord, ...] = ("met", "open", "at risk", "breached")


@dataclass
class Survey:
    """Counts over the alerts that were asked for; ``missing`` were reported and are not in the list.

    Duplicates have no SLA of their own: the clocks count originals alone, as compliance does.
    """

    states: Counter[str] = field(default_factory=Counter)
    acknowledge: Counter[ClockWord] = field(default_factory=Counter)
    resolve: Counter[ClockWord] = field(default_factory=Counter)
    missing: int = 0


def read_survey(client: ServiceClient, device_ids: Iterable[str], alert_ids: Set[str]) -> Survey:
    """Return the survey of these alerts of these devices.

    Raises:
        ServiceRefused: the token may not read alerts.
        Unavailable: the service stayed away.
        Stopped: a stop was asked for meanwhile.
    """
    survey, missing = Survey(), set(alert_ids)
    for device_id in device_ids:
        for alert in client.list_alerts(device_id):
            # Newest first: once all are found, what is left belongs to earlier runs.
            if not missing:
                return survey
            if alert["alert_id"] in missing:
                missing.remove(alert["alert_id"])
                count_alert(survey, alert)
    survey.missing = len(missing)
    return survey


def count_alert(survey: Survey, alert: Mapping[str, Any]) -> None:
    """Add one alert, as lists show it, to the counts."""
    survey.states[alert["state"]] += 1
    if not alert["is_duplicate"]:
        survey.acknowledge[classify_clock(alert["sla"], "tta")] += 1
        survey.resolve[classify_clock(alert["sla"], "ttr")] += 1


def classify_clock(sla: Mapping[str, Any], clock: Literal["tta", "ttr"]) -> ClockWord:
    """Return how one of the two clocks of an alert stands; every clock is exactly one of these."""
    if sla[f"{clock}_breached"]:
        return "breached"
    if sla[f"actual_{clock}"] is not None:
        return "met"
    return "at risk" if sla[f"{clock}_at_risk"] else "open"
