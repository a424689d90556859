"""Who users are and who is on call, at one instant."""

from __future__ import annotations

import logging
from datetime import datetime

from accounts import Accounts
from escalation_recipients import Contact
from foundation.database import Connection
from foundation.errors import NotFound, ValidationFailed
from on_call_manager import OnCallManager

logger = logging.getLogger(__name__)


class InstantDirectory:
    """Users and schedules as they stand, at one instant of the rotation; each is looked up once.

    On the caller's connection: who holds locks must not wait for a second one.
    """

    def __init__(self, connection: Connection, accounts: Accounts, on_call: OnCallManager, at: datetime) -> None:
        self._connection = connection
        self._accounts = accounts
        self._on_call = on_call
        self._at = at
        self._users: dict[int, Contact | None] = {}
        self._on_duty: dict[int, Contact | None] = {}

    def find_user(self, user_id: int) -> Contact | None:
        """Return the contact of an account."""
        if user_id not in self._users:
            user = self._accounts.read_user(self._connection, user_id)
            self._users[user_id] = None if user is None else Contact(user.name, user.email, user.phone, user.user_id)
        return self._users[user_id]

    def find_on_call(self, schedule_id: int) -> Contact | None:
        """Return who is on call; what the schedule's entry leaves open comes from the account."""
        if schedule_id not in self._on_duty:
            self._on_duty[schedule_id] = self._compute_on_call(schedule_id)
        return self._on_duty[schedule_id]

    def _compute_on_call(self, schedule_id: int) -> Contact | None:
        try:
            current = self._on_call.find_on_call(self._connection, schedule_id, self._at)
        except NotFound:
            return None
        except ValidationFailed as error:
            # Damaged by hand: it must not hold up the others that are to be paged.
            logger.error("nobody is on call on schedule %d, which cannot be read: %s", schedule_id, error.message)
            return None
        if current is None:
            return None
        entry = current.shift.user
        account = self.find_user(entry.user_id) or Contact(None, None, None)
        return Contact(
            entry.name or account.name, entry.email or account.email, entry.phone or account.phone, entry.user_id
        )
