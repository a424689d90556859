"""The errors of the product, which know no HTTP.

::

    DomainError                  code
    ├── ValidationFailed         validation_failed        input that breaks a rule; names every field
    ├── NotFound                 not_found                no such thing
    ├── Conflict                 conflict                 the thing exists, or is not in a state for this
    │   ├── IllegalTransition    illegal_transition       carries current_state and allowed
    │   └── IdempotencyMismatch  idempotency_key_reused   another body under a used key
    ├── NotAuthenticated         not_authenticated        no token, or one that does not hold
    ├── PermissionDenied         permission_denied        names the permission that is missing
    ├── NotSigned                not_signed               a callback without a good signature
    ├── TooManyRequests          too_many_requests        carries retry_after_seconds
    └── Unavailable              unavailable              a neighbour (database, identity provider) is away or busy
    SettingsError                                         a wrong setting: one line, ends the start

``api/errors.py`` holds the one table from these to status codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One wrong field: its place (``rules.tiers[1].recipients[0]``) and what is wrong with it."""

    field: str
    message: str


class DomainError(Exception):
    """Base of all errors that a caller can do something about."""

    code = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ValidationFailed(DomainError):
    """Input breaks a rule; ``faults`` names every wrong field at once."""

    code = "validation_failed"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        first = self.faults[0]
        super().__init__(f"{first.field}: {first.message}")

    @classmethod
    def of(cls, field: str, message: str) -> ValidationFailed:
        """Return the error for a single wrong field."""
        return cls([Fault(field, message)])


class NotFound(DomainError):
    """The thing named by an identifier does not exist."""

    code = "not_found"

    def __init__(self, kind: str, identifier: object) -> None:
        super().__init__(f"{kind} {identifier} does not exist")


class Conflict(DomainError):
    """The thing exists already, or is not in a state for this."""

    code = "conflict"


class IllegalTransition(Conflict):
    """The alert cannot take this step from the state it is in."""

    code = "illegal_transition"

    def __init__(self, current_state: str, target_state: str, allowed: Sequence[str]) -> None:
        super().__init__(f"an alert in state {current_state} cannot become {target_state}")
        self.current_state = current_state
        self.allowed = tuple(allowed)


class IdempotencyMismatch(Conflict):
    """An Idempotency-Key was used before with another body."""

    code = "idempotency_key_reused"


class NotAuthenticated(DomainError):
    """There is no token, or one that does not hold."""

    code = "not_authenticated"


class PermissionDenied(DomainError):
    """The caller lacks a permission."""

    code = "permission_denied"

    def __init__(self, permission: str) -> None:
        super().__init__(f"this needs the permission {permission}")
        self.permission = permission


class NotSigned(DomainError):
    """A callback does not come from who alone may send it."""

    code = "not_signed"


class TooManyRequests(DomainError):
    """The caller has to wait."""

    code = "too_many_requests"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(DomainError):
    """A neighbour is away or busy; the same request may succeed a little later."""

    code = "unavailable"

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SettingsError(Exception):
    """A wrong setting, said in one line that names it."""
