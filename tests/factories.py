"""Test data."""

from __future__ import annotations

import uuid
from typing import Any

# What an outbox that reaches everybody would do.
SEND_EVERYTHING = """UPDATE notifications SET status = 'sent', sent_at = created_at, due_at = NULL
                     WHERE due_at IS NOT NULL"""

DEVICE = "3a9ccfce-9773-4c72-b905-6a850e961587"


def make_device() -> str:
    """Return a device that no other test knows."""
    return str(uuid.uuid4())


def make_report(**fields: Any) -> dict[str, Any]:
    """Return the body of a report; ``fields`` win."""
    return {
        "device_id": DEVICE,
        "severity": "critical",
        "message": "Temperature threshold exceeded",
        "metadata": {"temperature": 85.5},
        **fields,
    }


MAIL = {"delay_minutes": 0, "channels": ["email"], "recipients": ["shift@example.com"]}
SMS = {"delay_minutes": 5, "channels": ["sms"], "recipients": ["+33612345678"]}
HOOK = {"delay_minutes": 15, "channels": ["webhook"], "recipients": ["https://example.com/hook"]}


def make_policy(*tiers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the body of a policy, by default for critical alerts with mail, SMS and webhook; ``fields`` win."""
    rules = {"severity_match": fields.pop("severity_match", ["critical"]), "tiers": list(tiers or (MAIL, SMS, HOOK))}
    if "repeat" in fields:
        rules["repeat"] = fields.pop("repeat")
    return {"name": "Critical line", "rules": rules, **fields}
