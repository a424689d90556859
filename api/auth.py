"""Who may call a view: roles, the caller of a request, and the decorators that check it.

::

    @alert_bp.post("/alerts")
    @require_jwt
    @require_permission("alerts:create")
    @operation(...)
    def create_alert(body: AlertReport) -> Answer:
        g.caller  # the Caller

``docs/authentication.md`` says what each role may and how soon a change takes effect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flask import current_app, g, request

from api.routing import PUBLIC
from foundation.errors import NotAuthenticated, PermissionDenied

if TYPE_CHECKING:
    from api.tokens import TokenVerifier
    from wiring import Services

View = TypeVar("View", bound=Callable[..., Any])

SELF = "self"
"""The permission that every authenticated caller has: to see and change one's own account."""

_READ = frozenset(
    {
        "alerts:read",
        "groups:read",
        "sla:read",
        "escalation:read",
        "on_call:read",
        "ml:read",
        "notifications:read",
        "devices:read",
    }
)
_OPERATE = _READ | {
    "alerts:create",
    "alerts:acknowledge",
    "alerts:investigate",
    "alerts:resolve",
    "alerts:note",
    "alerts:escalate",
    "ml:predict",
}
_ENGINEER = _OPERATE | {"ml:train", "on_call:write"}

ROLES: dict[str, frozenset[str]] = {
    "viewer": _READ,
    "device": frozenset({"alerts:create", "ml:predict"}),
    "operator": _OPERATE,
    "engineer": _ENGINEER,
    "admin": _ENGINEER | {"sla:write", "escalation:write", "users:read", "users:write"},
}
"""The permissions of each role; a role that is not here has none."""


@dataclass(frozen=True)
class Caller:
    """Who a verified token speaks for.

    ``permissions`` are the role's, or the token's own list. ``user_id`` is the subject read as an identifier,
    None where it is none. ``session_number`` is set on tokens from a login only: they follow the state of
    their user. ``is_local`` tells tokens signed with the service's secret from an identity provider's.
    """

    subject: str
    role: str
    permissions: frozenset[str]
    user_id: int | None
    name: str
    session_number: int | None = None
    is_local: bool = False

    def may(self, permission: str) -> bool:
        """Return whether the caller has a permission."""
        return permission in self.permissions or permission == SELF


def require_jwt(view: View) -> View:
    """Let only requests with a valid bearer token through; the caller is in ``g.caller`` then.

    Raises:
        NotAuthenticated: there is no token, it does not hold, or the session it belongs to has ended.
        Unavailable: the identity provider or the database cannot be asked.
    """

    @functools.wraps(view)
    def check_token(*arguments: Any, **named: Any) -> Any:
        verifier: TokenVerifier = current_app.extensions["token_verifier"]
        caller = verifier.verify(_read_bearer_token())
        g.caller = caller if caller.session_number is None else _follow_account(caller, caller.session_number)
        return view(*arguments, **named)

    return cast("View", check_token)


def require_permission(name: str) -> Callable[[View], View]:
    """Let only callers with the permission ``name`` through; stands below ``require_jwt``.

    Raises:
        PermissionDenied: the token is valid, its caller lacks the permission.
    """

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def check_permission(*arguments: Any, **named: Any) -> Any:
            caller: Caller | None = g.get("caller")
            if caller is None:
                # Without require_jwt above nobody is known: refuse rather than let everyone in.
                raise NotAuthenticated("this needs a bearer token")
            if not caller.may(name):
                raise PermissionDenied(name)
            return view(*arguments, **named)

        check_permission.permission = name  # type: ignore[attr-defined]  # read by ApiBlueprint and the specification
        return cast("View", check_permission)

    return decorate


def public(view: View) -> View:
    """Mark a view as open to everybody."""
    view.permission = PUBLIC  # type: ignore[attr-defined]  # read by ApiBlueprint and the specification
    return view


def _read_bearer_token() -> str:
    scheme, _, token = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticated("this needs a bearer token: send Authorization: Bearer <token>")
    return str(token).strip()


def _follow_account(caller: Caller, session_number: int) -> Caller:
    """Return the caller with the role that the user has now."""
    services: Services = current_app.extensions["services"]
    session = None if caller.user_id is None else services.accounts.find_session(caller.user_id)
    if session is None or session.number != session_number:
        raise NotAuthenticated("the session has ended: log in again")
    if session.role == caller.role:
        return caller
    return replace(caller, role=session.role, permissions=ROLES.get(session.role, frozenset()))
