"""What Twilio's reports change: what became of an SMS that it had taken in.

A report can come before the worker has recorded that the message was sent, or although the answer was lost. One about
another message than the notification's own, which was sent when an answer had been lost, only counts as good news.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from foundation.database import Connection, Database
from foundation.queries import load_queries
from notifications.sms_ledger import Ledger
from notifications.twilio_errors import OPTED_OUT, describe_delivery
from notifications.twilio_status import DELIVERED, StatusReport, advance_status, to_notification_status

logger = logging.getLogger(__name__)


class DeliveryReports:
    """Records reports, which come more than once and in any order."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._queries = load_queries("delivery_reports")

    def record(self, report: StatusReport) -> bool:
        """Record a report; return whether it changed anything.

        A failure counts for the tier in the same transaction: where nothing else of it can arrive, the next one is due.

        Raises:
            Unavailable: the database is away or busy.
        """
        notification_id = report.notification_id
        if notification_id is None:
            return False
        number = self._database.run(lambda connection: self._apply(connection, notification_id, report))
        if number is None:
            return False
        if report.error_code == OPTED_OUT:
            self._ledger.mark_opted_out(number)
        return True

    def _apply(self, connection: Connection, notification_id: int, report: StatusReport) -> str | None:
        """Return the number that the SMS went to, None where the report changes nothing."""
        if self._queries.lock_escalation(connection, notification_id=notification_id) is None:
            return None
        known: Mapping[str, Any] = self._queries.lock_notification(connection, notification_id=notification_id)
        is_own = known["provider_id"] in (None, report.provider_id)
        if not is_own and report.status not in DELIVERED:
            return None
        if advance_status(known["provider_status"] if is_own else None, report.status) is None:
            return None
        status = to_notification_status(report.status)
        is_failure = status == "failed"
        self._queries.record_report(
            connection,
            notification_id=notification_id,
            status=status,
            provider_id=report.provider_id,
            provider_status=report.status,
            error=describe_delivery(report.status, report.error_code) if is_failure else None,
            segments=report.segments,
            price=report.price,
            price_unit=report.price_unit,
        )
        if is_failure:
            self._queries.hasten_escalation(
                connection, escalation_id=known["escalation_id"], pass_number=known["pass"], tier=known["tier"]
            )
        logger.info("notification %d: %s", notification_id, report.status)
        return str(known["address"])
