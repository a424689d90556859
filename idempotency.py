"""Idempotency keys: the same request again gets the first answer back instead of a second alert."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foundation.database import Connection
from foundation.errors import IdempotencyMismatch
from foundation.queries import load_queries

KEPT_HOURS = 24


@dataclass(frozen=True)
class IdempotentRequest:
    """A request that may come again: who sent it, under which key, and the hash of route and body."""

    caller: str
    key: str
    request_hash: str


class IdempotencyKeys:
    """Keeps first answers for 24 hours, per caller, in the transaction that did the work."""

    def __init__(self) -> None:
        self._queries = load_queries("idempotency")

    def begin(self, connection: Connection, request: IdempotentRequest) -> Sequence[Mapping[str, Any]] | None:
        """Claim the key and return None, or return the answer that was kept for it.

        A concurrent request with the same key waits here until the first one has committed.

        Raises:
            IdempotencyMismatch: the key was used with another request.
        """
        parameters = {"caller": request.caller, "key": request.key, "request_hash": request.request_hash}
        if self._queries.claim_key(connection, **parameters, kept_hours=KEPT_HOURS) is not None:
            return None
        kept = self._queries.get_key(connection, caller=request.caller, key=request.key)
        if kept["request_hash"] != request.request_hash:
            raise IdempotencyMismatch("this Idempotency-Key was used with another request")
        answer: Sequence[Mapping[str, Any]] = kept["answer"]
        return answer

    def finish(self, connection: Connection, request: IdempotentRequest, answer: Sequence[Mapping[str, Any]]) -> None:
        """Keep the answer with the key."""
        self._queries.keep_answer(connection, caller=request.caller, key=request.key, answer=json.dumps(answer))
