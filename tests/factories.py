"""Test data."""

from __future__ import annotations

import uuid
from typing import Any

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
