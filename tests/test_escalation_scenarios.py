"""Nights on a fast-forwarded clock: what happens, and whom it wakes. ``tests/scenarios.py`` explains the notation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from foundation.clock import FrozenClock
from foundation.settings import Settings
from tests.scenarios import Night, Policy, Scenario, parse_list
from wiring import build_services

LINE = "0 email shift | 5 sms phone | 15 webhook hook"
MAIL = "0 email shift"

SCENARIOS = [
    # --- tiers and passes
    Scenario(
        "tier after tier, until the last had time to answer",
        LINE,
        events="0 alert A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30",
    ),
    Scenario(
        "first tier may wait",
        "2 email shift | 4 sms phone",
        events="0 alert A",
        pages="2 1.1 email shift A | 4 1.2 sms phone A",
        ends="A completed 8",
    ),
    Scenario(
        "one tier at once is over after a minute",
        MAIL,
        events="0 alert A",
        pages="0 1.1 email shift A",
        ends="A completed 1",
    ),
    Scenario(
        "two passes",
        Policy("0 email shift | 5 sms phone", repeat=1),
        events="0 alert A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 10 2.1 email shift A | 15 2.2 sms phone A",
        ends="A completed 20",
    ),
    Scenario(
        "one tier at once repeats every minute",
        Policy(MAIL, repeat=3),
        events="0 alert A",
        pages="0 1.1 email shift A | 1 2.1 email shift A | 2 3.1 email shift A | 3 4.1 email shift A",
        ends="A completed 4",
    ),
    Scenario(
        "one late tier repeats",
        Policy("3 email shift", repeat=1),
        events="0 alert A",
        pages="3 1.1 email shift A | 9 2.1 email shift A",
        ends="A completed 12",
    ),
    Scenario(
        "tiers of the same minute",
        "0 email shift | 0 sms phone | 5 webhook hook | 5 email night",
        events="0 alert A",
        pages="0 1.1 email shift A | 0 1.2 sms phone A | 5 1.3 webhook hook A | 5 1.4 email night A",
        ends="A completed 10",
    ),
    Scenario(
        "several channels and people in a tier",
        "0 email+sms+webhook night, hook | 5 sms phone, night",
        events="0 alert A | 6 ack A",
        pages="0 1.1 email night A | 0 1.1 sms night A | 0 1.1 webhook hook A | 5 1.2 sms phone A | 5 1.2 sms night A",
        ends="A cancelled 6",
    ),
    # --- acknowledgement at each point
    Scenario(
        "acknowledged before the worker came",
        LINE,
        events="0 alert A | 0 ack A",
        pages="",
        ends="A cancelled 0",
    ),
    Scenario(
        "acknowledged after the first tier",
        LINE,
        events="0 alert A | 0+ ack A",
        pages="0 1.1 email shift A",
        ends="A cancelled 0",
    ),
    Scenario(
        "acknowledged between tiers",
        LINE,
        events="0 alert A | 3 ack A",
        pages="0 1.1 email shift A",
        ends="A cancelled 3",
    ),
    Scenario(
        "acknowledged in the very minute of a tier, before it",
        LINE,
        events="0 alert A | 5 ack A",
        pages="0 1.1 email shift A",
        ends="A cancelled 5",
    ),
    Scenario(
        "acknowledged in the very minute of a tier, after it",
        LINE,
        events="0 alert A | 5+ ack A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A",
        ends="A cancelled 5",
    ),
    Scenario(
        "acknowledged after the last tier",
        LINE,
        events="0 alert A | 29 ack A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A cancelled 29",
    ),
    Scenario(
        "acknowledged in the very minute of the end, before it",
        LINE,
        events="0 alert A | 30 ack A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A cancelled 30",
    ),
    Scenario(
        "acknowledged after the end",
        LINE,
        events="0 alert A | 30+ ack A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30",
    ),
    Scenario(
        "acknowledged in the second pass",
        Policy("0 email shift | 5 sms phone", repeat=5),
        events="0 alert A | 12 ack A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 10 2.1 email shift A",
        ends="A cancelled 12",
    ),
    Scenario(
        "acknowledged before a first tier that waits",
        "10 email shift",
        events="0 alert A | 9 ack A",
        pages="",
        ends="A cancelled 9",
    ),
    Scenario(
        "acknowledged by way of a duplicate",
        LINE,
        events="0 alert A | 2 alert A | 3 ack A",
        pages="0 1.1 email shift A",
        ends="A cancelled 3",
    ),
    # --- the other steps
    Scenario(
        "resolved outright",
        LINE,
        events="0 alert A | 3 resolve A",
        pages="0 1.1 email shift A",
        ends="A cancelled 3",
    ),
    Scenario(
        "source recovers",
        LINE,
        events="0 alert A | 3 recover A",
        pages="0 1.1 email shift A",
        ends="A cancelled 3",
    ),
    Scenario(
        "whole life of an alert",
        LINE,
        events="0 alert A | 6 ack A | 8 investigate A | 20 resolve A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A",
        ends="A cancelled 6",
    ),
    Scenario(
        "investigation cancels what somebody asked for meanwhile",
        LINE,
        events="0 alert A | 3 ack A | 10 escalate A | 12 investigate A",
        pages="0 1.1 email shift A | 10 1.2 sms phone A",
        ends="A cancelled 3 | A cancelled 12",
    ),
    # --- on-call and users
    Scenario(
        "on-call hands over between tiers",
        "0 sms oncall | 9 email oncall | 15 sms oncall",
        events="0 alert A",
        pages="0 1.1 sms ana A | 9 1.2 email ana A | 15 1.3 sms cem A",
        ends="A completed 30",
    ),
    Scenario(
        "handover in the very minute of a tier",
        "0 sms oncall | 10 sms oncall",
        events="0 alert A",
        pages="0 1.1 sms ana A | 10 1.2 sms cem A",
        ends="A completed 20",
    ),
    Scenario(
        "nobody on call: the next tier at once, those after keep their minutes",
        "0 sms nobody | 5 sms phone | 15 webhook hook",
        events="0 alert A",
        pages="0 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30",
    ),
    Scenario(
        "nobody on call in two tiers",
        "0 email shift | 5 sms nobody | 15 email nobody | 20 sms phone | 30 webhook hook",
        events="0 alert A | 31 ack A",
        pages="0 1.1 email shift A | 5 1.4 sms phone A | 30 1.5 webhook hook A",
        ends="A cancelled 31",
    ),
    Scenario(
        "user is reached through what they have",
        "0 email+sms user:ana, user:ben | 5 sms phone",
        events="0 alert A | 3 ack A",
        pages="0 1.1 email ana A | 0 1.1 sms ana A | 0 1.1 email ben A",
        ends="A cancelled 3",
    ),
    Scenario(
        "user without a phone cannot be reached by SMS",
        "0 sms user:ben | 5 email user:ben",
        events="0 alert A",
        pages="0 1.2 email ben A",
        ends="A completed 10",
    ),
    Scenario(
        "whoever is listed twice is paged once per channel",
        "0 email+sms user:ana, ana, oncall",
        events="0 alert A",
        pages="0 1.1 email ana A | 0 1.1 sms ana A",
        ends="A completed 1",
    ),
    # --- pages that fail
    Scenario(
        "every notification failed: the next tier at once, those after keep their minutes",
        "0 email+sms dead | 5 sms phone | 15 webhook hook",
        events="0 alert A",
        pages="0 1.1 email dead A | 0 1.1 sms dead A | 0 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30",
    ),
    Scenario(
        "one that got through is enough",
        "0 email dead, shift | 5 sms phone",
        events="0 alert A",
        pages="0 1.1 email dead A | 0 1.1 email shift A | 5 1.2 sms phone A",
        ends="A completed 10",
    ),
    Scenario(
        "failure and nobody on call, one after the other",
        "0 email dead | 5 sms nobody | 10 sms dead | 20 webhook hook | 25 email shift",
        events="0 alert A | 26 ack A",
        pages="0 1.1 email dead A | 0 1.3 sms dead A | 0 1.4 webhook hook A | 25 1.5 email shift A",
        ends="A cancelled 26",
    ),
    Scenario(
        "last tier of a pass fails: the next pass at once, its other tiers at their minutes",
        Policy("0 email shift | 5 sms dead", repeat=1),
        events="0 alert A",
        pages="0 1.1 email shift A | 5 1.2 sms dead A | 5 2.1 email shift A | 15 2.2 sms dead A",
        ends="A completed 20",
    ),
    Scenario(
        "nobody can be reached in any pass",
        Policy("0 sms nobody | 5 sms user:ben", repeat=2),
        events="0 alert A",
        pages="",
        ends="A completed 30",
    ),
    Scenario(
        "every notification of every pass fails",
        Policy("0 sms dead | 5 email dead", repeat=1),
        events="0 alert A",
        pages="0 1.1 sms dead A | 0 1.2 email dead A | 0 2.1 sms dead A | 0 2.2 email dead A",
        ends="A completed 20",
    ),
    # --- next tier by hand
    Scenario(
        "next tier by hand, those after keep their minutes",
        LINE,
        events="0 alert A | 2 escalate A",
        pages="0 1.1 email shift A | 2 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30",
    ),
    Scenario(
        "both tiers by hand",
        LINE,
        events="0 alert A | 2 escalate A | 3 escalate A",
        pages="0 1.1 email shift A | 2 1.2 sms phone A | 3 1.3 webhook hook A",
        ends="A completed 30",
    ),
    Scenario(
        "by hand where an acknowledgement had ended it: goes on with the next tier",
        LINE,
        events="0 alert A | 3 ack A | 10 escalate A",
        pages="0 1.1 email shift A | 10 1.2 sms phone A | 25 1.3 webhook hook A",
        ends="A cancelled 3 | A completed 40",
    ),
    Scenario(
        "by hand where none ran",
        "5 email shift | 15 webhook hook",
        events="0 alert A quiet | 7 escalate A",
        pages="7 1.1 email shift A | 22 1.2 webhook hook A",
        ends="A completed 37",
    ),
    # --- policies
    Scenario(
        "policy edited meanwhile: it keeps its rules, the next one has the new ones",
        LINE,
        events="0 alert A | 2 edit 0 sms night | 20 alert B on 2",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A | 20 1.1 sms night B",
        ends="A completed 30 | B completed 21",
    ),
    Scenario(
        "policy edited before the first tier",
        "5 email shift | 10 sms phone",
        events="0 alert A | 2 edit 0 sms night",
        pages="5 1.1 email shift A | 10 1.2 sms phone A",
        ends="A completed 20",
    ),
    Scenario(
        "policy deleted meanwhile",
        LINE,
        events="0 alert A | 2 delete policy | 20 alert B on 2",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30",
    ),
    Scenario(
        "policy disabled meanwhile",
        LINE,
        events="0 alert A | 2 disable policy | 20 alert B on 2",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30",
    ),
    Scenario(
        "highest priority, then the older, none that is off or for other severities",
        (
            Policy("0 email shift"),
            Policy("0 sms phone", priority=2),
            Policy("0 email night", priority=2),
            Policy("0 webhook hook", priority=9, enabled=False),
            Policy("0 sms night", priority=9, severities=("info",)),
        ),
        events="0 alert A | 0 alert B info",
        pages="0 1.1 sms phone A | 0 1.1 sms night B",
        ends="A completed 1 | B completed 1",
    ),
    Scenario(
        "no policy for the severity",
        LINE,
        events="0 alert A low",
        pages="",
        ends="",
    ),
    Scenario(
        "no policy at all",
        (),
        events="0 alert A | 3 ack A | 5 resolve A",
        pages="",
        ends="",
    ),
    # --- outages
    Scenario(
        "outage of two hours: the current tier once, none of the missed ones",
        "0 email shift | 30 sms phone | 60 sms night | 90 email night | 120 webhook hook | 180 sms oncall",
        events="0 alert A | outage 5-125",
        pages="0 1.1 email shift A | 125 1.5 webhook hook A | 180 1.6 sms cem A",
        ends="A running",
        until=200,
    ),
    Scenario(
        "outage of two hours over many passes",
        Policy("0 email shift | 5 sms phone", repeat=20),
        events="0 alert A | outage 3-123 | 127 ack A",
        pages="0 1.1 email shift A | 123 13.1 email shift A | 125 13.2 sms phone A",
        ends="A cancelled 127",
        until=140,
    ),
    Scenario(
        "outage longer than everything: the last tier, and a minute to answer it",
        LINE,
        events="0 alert A | outage 1-125",
        pages="0 1.1 email shift A | 125 1.3 webhook hook A",
        ends="A completed 126",
        until=130,
    ),
    Scenario(
        "outage after the last tier",
        LINE,
        events="0 alert A | outage 20-125",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 125",
        until=130,
    ),
    Scenario(
        "alert during an outage",
        LINE,
        events="2 alert A | outage 0-4",
        pages="4 1.1 email shift A | 7 1.2 sms phone A | 17 1.3 webhook hook A",
        ends="A completed 32",
    ),
    Scenario(
        "acknowledged during an outage",
        LINE,
        events="2 alert A | outage 0-20 | 15 ack A",
        pages="",
        ends="A cancelled 15",
    ),
    Scenario(
        "outage that ends among tiers of one minute",
        "0 email shift | 10 sms phone | 10 webhook hook | 20 email night",
        events="0 alert A | outage 1-15",
        pages="0 1.1 email shift A | 15 1.2 sms phone A | 15 1.3 webhook hook A | 20 1.4 email night A",
        ends="A completed 40",
    ),
    Scenario(
        "pages left unsent by an outage are overtaken",
        LINE,
        events="0 alert A | unsent 0-130 | outage 1-130",
        pages="130 1.3 webhook hook A",
        ends="A completed 131",
        until=135,
    ),
    Scenario(
        "pages left unsent go out where no later tier is due",
        LINE,
        events="0 alert A | unsent 0-3",
        pages="3 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30",
    ),
    # --- more of the same
    Scenario(
        "duplicates page nobody again",
        LINE,
        events="0..20/4 alert A | 22 ack A | 24 alert A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A cancelled 22",
    ),
    Scenario(
        "another message while it escalates",
        LINE,
        events="0 alert A | 3 alert B | 6 ack B",
        pages="0 1.1 email shift A | 5 1.2 sms phone A",
        ends="A cancelled 6",
    ),
    Scenario(
        "another message after the acknowledgement",
        LINE,
        events="0 alert A | 3 ack A | 4 alert B | 5 investigate A | 6 alert C",
        pages="0 1.1 email shift A",
        ends="A cancelled 3",
    ),
    Scenario(
        "another message after it ran out",
        MAIL,
        events="0 alert A | 4 alert B",
        pages="0 1.1 email shift A | 4 1.1 email shift B",
        ends="A completed 1 | B completed 5",
    ),
    Scenario(
        "another message of another device",
        MAIL,
        events="0 alert A | 0 alert A on 2",
        pages="0 1.1 email shift A | 0 1.1 email shift A",
        ends="A completed 1 | A completed 1",
    ),
    Scenario(
        "duplicate of what ran out, too early to page anew",
        MAIL,
        events="0 alert A | 60 alert A",
        pages="0 1.1 email shift A",
        ends="A completed 1",
        until=70,
        window_minutes=240,
    ),
    Scenario(
        "duplicate of what ran out an hour ago",
        MAIL,
        events="0 alert A | 61 alert A | 90 alert A",
        pages="0 1.1 email shift A | 61 1.1 email shift A",
        ends="A completed 1 | A completed 62",
        until=95,
        window_minutes=240,
    ),
    Scenario(
        "an hour of peace each time",
        MAIL,
        events="0..125/4 alert A",
        pages="0 1.1 email shift A | 64 1.1 email shift A",
        ends="A completed 1 | A completed 65",
        until=124,
    ),
    Scenario(
        "duplicate of what ran out, but was acknowledged since",
        MAIL,
        events="0 alert A | 30 ack A | 61 alert A | 65 alert B",
        pages="0 1.1 email shift A",
        ends="A completed 1",
        until=70,
        window_minutes=240,
    ),
    Scenario(
        "late or quiet duplicates of what ran out",
        MAIL,
        events="0 alert A | 61 alert A quiet | 62 alert A late 61 | 63 alert A",
        pages="0 1.1 email shift A | 63 1.1 email shift A",
        ends="A completed 1 | A completed 64",
        until=70,
        window_minutes=240,
    ),
    Scenario(
        "another policy for the page anew",
        MAIL,
        events="0 alert A | 30 edit 0 sms night | 61 alert A",
        pages="0 1.1 email shift A | 61 1.1 sms night A",
        ends="A completed 1 | A completed 62",
        until=70,
        window_minutes=240,
    ),
    # --- severity
    Scenario(
        "rising severity pages for itself",
        LINE,
        events="0 alert A high | 3 alert A | 4 ack A",
        pages="0 1.1 email shift A | 3 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30 | A cancelled 4",
    ),
    Scenario(
        "acknowledgement of the milder one leaves the graver one",
        LINE,
        events="0 alert A high | 3 alert B | 4 ack A",
        pages="0 1.1 email shift A | 3 1.1 email shift B | 8 1.2 sms phone B | 18 1.3 webhook hook B",
        ends="A cancelled 4 | B completed 33",
    ),
    # --- resolution that leaves something
    Scenario(
        "resolution leaves a new alert: it is paged for",
        LINE,
        events="0 alert A | 2 alert B | 3 ack A | 12 resolve A",
        pages="0 1.1 email shift A | 12 1.1 email shift B | 17 1.2 sms phone B | 27 1.3 webhook hook B",
        ends="A cancelled 3 | B completed 42",
    ),
    Scenario(
        "resolution leaves two new alerts: the older is paged for",
        MAIL,
        events="0 alert A | 0+ ack A | 2 alert B | 2 alert C | 12 resolve A",
        pages="0 1.1 email shift A | 12 1.1 email shift B",
        ends="A cancelled 0 | B completed 13",
    ),
    Scenario(
        "source recovers and leaves a new alert",
        LINE,
        events="0 alert A | 2 alert B | 3 recover A | 4 ack B",
        pages="0 1.1 email shift A | 3 1.1 email shift B",
        ends="A cancelled 3 | B cancelled 4",
    ),
    Scenario(
        "resolution leaves a quiet alert",
        LINE,
        events="0 alert A | 2 alert B quiet | 3 ack A | 12 resolve A",
        pages="0 1.1 email shift A",
        ends="A cancelled 3",
    ),
    Scenario(
        "resolution leaves an alert that had come late",
        LINE,
        events="0 alert A | 2 alert B late 61 | 3 ack A | 12 resolve A",
        pages="0 1.1 email shift A",
        ends="A cancelled 3",
    ),
    Scenario(
        "resolution leaves an alert of hours ago that had come in time",
        MAIL,
        events="0 alert A | 2 ack A | 3 alert B | 100 resolve A",
        pages="0 1.1 email shift A | 100 1.1 email shift B",
        ends="A completed 1 | B completed 101",
        until=105,
    ),
    Scenario(
        "resolution leaves what somebody has in hand",
        LINE,
        events="0 alert A | 2 alert B | 3 ack A | 4 ack B | 12 resolve A | 20 resolve B",
        pages="0 1.1 email shift A",
        ends="A cancelled 3",
    ),
    Scenario(
        "resolution leaves nothing; the same message again is news",
        MAIL,
        events="0 alert A | 0+ ack A | 5 resolve A | 6 alert A",
        pages="0 1.1 email shift A | 6 1.1 email shift A",
        ends="A cancelled 0 | A completed 7",
    ),
    # --- late and quiet
    Scenario(
        "late upload",
        LINE,
        events="0 alert A late 61 | 1 alert B late 600",
        pages="",
        ends="",
    ),
    Scenario(
        "an hour late is not over an hour",
        MAIL,
        events="0 alert A late 60",
        pages="0 1.1 email shift A",
        ends="A completed 1",
    ),
    Scenario(
        "alert that is not to escalate, then one that is",
        MAIL,
        events="0 alert A quiet | 2 alert B",
        pages="2 1.1 email shift B",
        ends="B completed 3",
    ),
    Scenario(
        "batch of late, quiet and duplicate ones",
        MAIL,
        events="0 batch A late 61 on 2, B quiet, C, C, D, A on 3",
        pages="0 1.1 email shift C | 0 1.1 email shift A",
        ends="C completed 1 | A completed 1",
    ),
    Scenario(
        "batch with nothing that may page",
        MAIL,
        events="0 batch A late 61, A late 61, B quiet",
        pages="",
        ends="",
    ),
    # --- groups of one key
    Scenario(
        "window of the group closes meanwhile: the new group has its page already",
        LINE,
        events="0 alert A | 7 alert B | 14 alert C",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A",
        ends="A completed 30",
    ),
    Scenario(
        "acknowledged in the new group",
        LINE,
        events="0 alert A | 7 alert B | 9 ack B",
        pages="0 1.1 email shift A | 5 1.2 sms phone A",
        ends="A cancelled 9",
    ),
    Scenario(
        "new group after the end",
        MAIL,
        events="0 alert A | 7 alert A",
        pages="0 1.1 email shift A | 7 1.1 email shift A",
        ends="A completed 1 | A completed 8",
    ),
    Scenario(
        "new group while the old one is acknowledged",
        MAIL,
        events="0 alert A | 0+ ack A | 7 alert B",
        pages="0 1.1 email shift A | 7 1.1 email shift B",
        ends="A cancelled 0 | B completed 8",
    ),
    Scenario(
        "the escalation of an old group counts for the peace of the new one",
        LINE,
        events="0 alert A | 7..97/5 alert B | 93 ack B",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 15 1.3 webhook hook A | 92 1.1 email shift B",
        ends="A completed 30 | B cancelled 93",
        until=100,
    ),
    Scenario(
        "resolution of the old group's alert leaves a new alert in the new group",
        LINE,
        events="0 alert A | 7 alert B | 8 ack A | 12 resolve A | 13 ack B",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 12 1.1 email shift B",
        ends="A cancelled 8 | B cancelled 13",
    ),
    Scenario(
        "resolution of the new group's alert leaves a new alert in the old group",
        LINE,
        events="0 alert A | 7 alert B | 8 ack B | 12 resolve B | 13 ack A",
        pages="0 1.1 email shift A | 5 1.2 sms phone A | 12 1.1 email shift A",
        ends="A cancelled 8 | A cancelled 13",
    ),
]


def test_scenarios_have_names_of_their_own() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenario(
    scenario: Scenario, settings: Settings, clock: FrozenClock, sql: Callable[..., list[tuple[Any, ...]]]
) -> None:
    services = build_services(settings.model_copy(update={"group_window_seconds": 60 * scenario.window_minutes}), clock)
    try:
        night = Night(services, clock, sql)
        night.play(scenario)
        assert night.list_pages() == parse_list(scenario.pages)
        assert night.list_ends() == parse_list(scenario.ends)
    finally:
        services.database.close()
