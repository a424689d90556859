"""What SMS cost: the provider knows it only some time after a message was sent."""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

from foundation.database import Database
from foundation.errors import Unavailable
from foundation.queries import load_queries
from notifications.channel import Sent

logger = logging.getLogger(__name__)


@runtime_checkable
class PricedChannel(Protocol):
    """A channel whose provider tells what became of a message."""

    def fetch_sent(self, provider_id: str) -> Sent:
        """Return what has become of a message; raises Unavailable where the provider cannot be asked."""


class SmsPrices:
    """Asks for the prices that are missing."""

    def __init__(self, database: Database, channel: PricedChannel) -> None:
        self._database = database
        self._channel = channel
        self._queries = load_queries("sms_prices", rows_are_dicts=True)

    def run_once(self) -> int:
        """Ask about messages of the last half hour and return how many prices came; a refusal ends the round."""
        with self._database.autocommit() as connection:
            unpriced = list(self._queries.list_unpriced(connection))
        found = 0
        for row in unpriced:
            try:
                sent = self._channel.fetch_sent(row["provider_id"])
            except Unavailable as error:
                logger.info("prices of SMS wait: %s", error.message)
                break
            if sent.price is not None:
                self._record(row["notification_id"], sent)
                found += 1
        return found

    def _record(self, notification_id: int, sent: Sent) -> None:
        with self._database.autocommit() as connection:
            self._queries.record_price(
                connection,
                notification_id=notification_id,
                segments=sent.segments,
                price=sent.price,
                price_unit=sent.price_unit,
            )
