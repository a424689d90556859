"""A small language for nights: policies, what happens at which minute, and the pages that go out.

An event is ``MINUTE what``, events are divided by ``|``. Those of a minute come before the worker's turn of that
minute; ``5+ ack A`` comes after it, ``0..20/5 alert A`` every five minutes. Alerts bear the name of their message: the
same name again is the same message. A page is ``MINUTE PASS.TIER CHANNEL WHOM ALERT``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from alert_state_machine import Actor, Transition
from alert_store import AlertReport
from escalation_engine import EngineResult
from escalation_policies import PolicyDraft
from escalation_rules import Rules, Tier
from foundation.clock import FrozenClock
from notifications.channel import Outcome, Page, PermanentFailure, Sent
from notifications.outbox import Outbox
from on_call_document import parse_schedule
from tests.factories import DEVICE
from wiring import Services

Sql = Callable[..., list[tuple[Any, ...]]]

MACHINE = Actor("gateway", "system")
PERSON = Actor("ana")
MINUTE = timedelta(minutes=1)
HANDOVER_MINUTE = 10
PATIENCE_SECONDS = 60.0

# Who is called what in a scenario; pages to the dead one fail for good.
PEOPLE = {
    "shift": {"email": "shift@example.com"},
    "night": {"email": "night@example.com", "sms": "+33612345670"},
    "phone": {"sms": "+33612345678"},
    "hook": {"webhook": "https://example.com/hook"},
    "dead": {"email": "dead@example.com", "sms": "+33612345679"},
    "ana": {"email": "ana@example.com", "sms": "+33612345671"},
    "ben": {"email": "ben@example.com"},
    "cem": {"email": "cem@example.com", "sms": "+33612345673"},
}
WHOM = {address: name for name, addresses in PEOPLE.items() for address in addresses.values()}
STEPS = {"ack": "acknowledged", "investigate": "investigating", "resolve": "resolved", "recover": "resolved"}


@dataclass(frozen=True)
class Policy:
    """A policy: ``0 email shift | 5 sms+email user:ana, phone``."""

    tiers: str
    repeat: int = 0
    priority: int = 0
    enabled: bool = True
    severities: tuple[str, ...] = ("critical", "high")


@dataclass(frozen=True)
class Scenario:
    """What happens and what is to come of it.

    ``ends`` tells how each escalation ends, in the order they began: ``A completed 30 | B cancelled 12 | C running``.
    """

    name: str
    policy: Policy | str | tuple[Policy, ...]
    events: str
    pages: str
    ends: str
    until: int = 45
    window_minutes: int = 5

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies, oldest first."""
        if isinstance(self.policy, tuple):
            return self.policy
        return (Policy(self.policy) if isinstance(self.policy, str) else self.policy,)


class RecordingChannel:
    """Takes every page in, but for those to the dead, and remembers when."""

    def __init__(self, record: Callable[[Page], None]) -> None:
        self._record = record

    def send(self, page: Page) -> Outcome:
        self._record(page)
        return PermanentFailure("nobody is there") if WHOM[page.address] == "dead" else Sent()


class Night:
    """Plays scenarios on real services with a clock that moves minute by minute."""

    def __init__(self, services: Services, clock: FrozenClock, sql: Sql) -> None:
        self._services = services
        self._clock = clock
        self._sql = sql
        self._began_at = clock.now()
        self._pages: list[tuple[int, Page]] = []
        channel = RecordingChannel(lambda page: self._pages.append((self.minute, page)))
        channels = dict.fromkeys(("email", "sms", "webhook"), channel)
        self._outbox = Outbox(services.database, channels, "https://alerts.example.com", 30.0, lambda: 0.5)
        self._devices = {"1": DEVICE}
        self._alerts: dict[str, int] = {}
        self._policy_ids: list[int] = []
        self._references = self._write_people()

    @property
    def minute(self) -> int:
        """Minutes since the night began."""
        return round((self._clock.now() - self._began_at) / MINUTE)

    def play(self, scenario: Scenario) -> None:
        """Write the policies and let everything happen."""
        for number, policy in enumerate(scenario.policies):
            draft = self._draft(policy, f"policy {number}")
            self._policy_ids.append(self._services.policies.create_policy(draft).policy_id)
        events = list(parse_events(scenario.events))
        absences = {what: span for _, span, what in events if what in ("outage", "unsent")}
        for minute in range(scenario.until + 1):
            self._act(what for when, span, what in events if when == f"{minute}" and not span)
            if minute not in absences.get("outage", ()):
                self._work(sends=minute not in absences.get("unsent", ()))
            self._act(what for when, _, what in events if when == f"{minute}+")
            self._clock.advance(MINUTE)

    def list_pages(self) -> list[str]:
        """Return the pages that were handed to a channel, in the notation of scenarios."""
        places = {row[0]: row[1:] for row in self._sql("SELECT id, pass, tier, channel FROM notifications")}
        shown = []
        for minute, page in sorted(self._pages, key=lambda entry: (entry[0], entry[1].notification_id)):
            number, tier, channel = places[page.notification_id]
            shown.append(f"{minute} {number}.{tier} {channel} {WHOM[page.address]} {page.message}")
        return shown

    def list_ends(self) -> list[str]:
        """Return how each escalation ended, in the notation of scenarios."""
        rows = self._sql(
            """SELECT a.message, e.status::text, e.ended_at FROM escalations AS e JOIN alerts AS a ON a.id = e.alert_id
               ORDER BY e.id"""
        )
        return [f"{name} {self._show_end(status, ended_at)}" for name, status, ended_at in rows]

    def _show_end(self, status: str, ended_at: datetime | None) -> str:
        return "running" if ended_at is None else f"{status} {round((ended_at - self._began_at) / MINUTE)}"

    def _work(self, *, sends: bool) -> None:
        """Let the worker do what is due, until nothing more is."""
        while True:
            taken = self._services.escalations.run_once()
            claimed = self._outbox.run_once() if sends else 0
            assert self._outbox.wait_until_idle(PATIENCE_SECONDS)
            if taken == EngineResult() and not claimed:
                return

    def _act(self, events: Iterator[str]) -> None:
        for event in events:
            verb, _, rest = event.partition(" ")
            if verb in ("alert", "batch"):
                self._raise([self._report(text) for text in rest.split(", ")], is_batch=verb == "batch")
            elif verb in STEPS:
                actor = MACHINE if verb == "recover" else PERSON
                step = Transition(STEPS[verb], advance=verb == "resolve")
                self._services.lifecycle.transition(self._alerts[rest], step, actor)
            elif verb == "escalate":
                alert_id = self._alerts[rest]
                self._services.database.run(lambda c, i=alert_id: self._services.escalations.escalate_now(c, i))
            else:
                self._change_policy(verb, rest)

    def _change_policy(self, verb: str, rest: str) -> None:
        policies, policy_id = self._services.policies, self._policy_ids[0]
        draft = policies.get_policy(policy_id).draft
        match verb:
            case "edit":
                policies.replace_policy(policy_id, self._draft(Policy(rest), draft.name))
            case "disable":
                policies.replace_policy(policy_id, replace(draft, enabled=False))
            case "delete":
                policies.delete_policy(policy_id)
            case _:
                raise ValueError(f"no such event: {verb} {rest}")

    def _raise(self, reports: list[AlertReport], *, is_batch: bool) -> None:
        lifecycle = self._services.lifecycle
        if is_batch:
            answers = lifecycle.raise_alerts(reports, MACHINE).answers
        else:
            answers = [lifecycle.raise_alert(report, MACHINE).answers[0] for report in reports]
        for report, answer in zip(reports, answers, strict=True):
            self._alerts[report.message] = int(answer["alert_id"])

    def _report(self, text: str) -> AlertReport:
        """Return the report of ``A``, ``A high``, ``A quiet``, ``A late 90`` or ``A on 2``."""
        name, *words = text.split()
        late = int(words[words.index("late") + 1]) if "late" in words else 0
        device = words[words.index("on") + 1] if "on" in words else "1"
        return AlertReport(
            # After the first one: a batch takes its keys in sorted order.
            self._devices.setdefault(device, f"f0000000-0000-4000-8000-{int(device):012d}"),
            next((word for word in words if word in ("critical", "high", "medium", "low", "info")), "critical"),
            name,
            {},
            occurred_at=self._clock.now() - late * MINUTE if late else None,
            escalate="quiet" not in words,
        )

    def _draft(self, policy: Policy, name: str) -> PolicyDraft:
        tiers = tuple(self._tier(text) for text in policy.tiers.split(" | "))
        rules = Rules(policy.severities, tiers, policy.repeat)
        return PolicyDraft(name, rules, enabled=policy.enabled, priority=policy.priority)

    def _tier(self, text: str) -> Tier:
        minute, channels, whom = text.split(" ", 2)
        reached = tuple(channels.split("+"))
        recipients: list[str] = []
        for name in whom.split(", "):
            if name in self._references:
                recipients.append(self._references[name])
            else:
                recipients += [PEOPLE[name][channel] for channel in reached if channel in PEOPLE[name]]
        return Tier(int(minute), reached, tuple(recipients))

    def _write_people(self) -> dict[str, str]:
        """Keep users and schedules: Ana and Ben have accounts, and Ana hands over to Cem at minute 10."""
        references = {}
        for name in ("ana", "ben"):
            [(user_id,)] = self._sql(
                "INSERT INTO users (email, name, role, phone) VALUES (%s, %s, 'operator', %s) RETURNING id",
                PEOPLE[name]["email"], name, PEOPLE[name].get("sms"),
            )  # fmt: skip
            references[f"user:{name}"] = f"user:{user_id}"
        handover_at = self._began_at + HANDOVER_MINUTE * MINUTE
        roster = [
            {"user_id": 1000 + number, "name": name, "email": PEOPLE[name]["email"], "phone": PEOPLE[name]["sms"]}
            for number, name in enumerate(("cem", "ana"))
        ]
        for name, enabled in (("oncall", True), ("nobody", False)):
            document = {
                "name": name,
                "rotation_type": "daily",
                "rotation_start": handover_at.replace(tzinfo=None),
                "rotation_interval_days": 1,
                "timezone": "UTC",
                "enabled": enabled,
                "users": {"users": roster},
            }
            schedule = self._services.on_call.create_schedule(parse_schedule(document))
            references[name] = f"oncall:{schedule.schedule_id}"
        return references


def parse_events(text: str) -> Iterator[tuple[str, range, str]]:
    """Yield (minute, span, what): a span for ``outage 5-125`` and ``unsent 0-10``, its end excluded."""
    for event in text.split(" | "):
        if span := re.fullmatch(r"(outage|unsent) (\d+)-(\d+)", event):
            yield "", range(int(span[2]), int(span[3])), span[1]
        elif series := re.fullmatch(r"(\d+)\.\.(\d+)/(\d+) (.*)", event):
            for minute in range(int(series[1]), int(series[2]) + 1, int(series[3])):
                yield str(minute), range(0), series[4]
        else:
            minute_text, what = event.split(" ", 1)
            yield minute_text, range(0), what


def parse_list(text: str) -> list[str]:
    """Return the entries of a table's cell."""
    return text.split(" | ") if text else []
