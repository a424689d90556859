"""Who is paged in the demonstration: the policy, the on-call schedule, and whose addresses are whose.

The addresses are nobody's: example.com is kept free by RFC 2606, the numbers 555-0100 to 0199 for fiction.
"""

from __future__ import annotations

from typing import Any

from demo.client import ServiceClient

NAME = "Demo"
ENGINEER = {"name": "Engineer on call", "email": "engineer@example.com", "phone": "+12025550100"}
SHIFT_LEAD = {"name": "Shift lead", "email": "shift-lead@example.com", "phone": "+12025550101"}
# No account has this number: the schedule has the contact itself.
ENGINEER_ID = 1_000_000
NEXT_TIER_MINUTES = 1

NAMES = {person[kind]: person["name"] for person in (ENGINEER, SHIFT_LEAD) for kind in ("email", "phone")}
"""People by their addresses."""

SCHEDULE: dict[str, Any] = {
    "name": NAME,
    "rotation_type": "weekly",
    "rotation_start": "2026-01-05T08:00:00",
    "timezone": "UTC",
    "users": {"users": [{"user_id": ENGINEER_ID, **ENGINEER}]},
}


def engage_crew(client: ServiceClient) -> None:
    """Have critical and high alerts page the engineer on call, and a minute later the shift lead.

    Raises:
        ServiceRefused: the token may not write schedules and policies.
        Unavailable: the service stayed away.
        Stopped: a stop was asked for meanwhile.
    """
    schedule = client.ensure_named("/on-call/schedules", SCHEDULE)
    client.ensure_named("/escalation-policies", make_policy(schedule["schedule_id"]))


def make_policy(schedule_id: str) -> dict[str, Any]:
    """Return the policy, as POST /escalation-policies takes it."""
    channels = ["email", "sms"]
    return {
        "name": NAME,
        "rules": {
            "severity_match": ["critical", "high"],
            "tiers": [
                {"delay_minutes": 0, "channels": channels, "recipients": [f"oncall:{schedule_id}"]},
                {
                    "delay_minutes": NEXT_TIER_MINUTES,
                    "channels": channels,
                    "recipients": [SHIFT_LEAD["email"], SHIFT_LEAD["phone"]],
                },
            ],
        },
    }
