"""Logging in, one's own account, and the users of the service, under /api/v1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import g, request

from accounts import Accounts, User
from alert_api import page_of, services
from api.account_schemas import (
    CurrentCaller,
    LoginAnswer,
    LoginRequest,
    NewUser,
    OwnChanges,
    ShownUser,
    UserChanges,
    UserPage,
)
from api.auth import ROLES, SELF, Caller, public, require_jwt, require_permission
from api.routing import Answer, ApiBlueprint, operation
from api.schemas import PageQuery
from api.serialising import show_page, show_time
from api.tokens import issue_token
from foundation.errors import NotFound, PermissionDenied

LOGIN_HOURS = 12
"""How long a token from a login holds: one shift with its handover."""

auth_bp = ApiBlueprint("auth_api", __name__, url_prefix="/api/v1")
users_bp = ApiBlueprint("users_api", __name__, url_prefix="/api/v1")


def _accounts() -> Accounts:
    return services().accounts


@auth_bp.post("/auth/login")
@public
@operation(
    "Log in",
    tag="Authentication",
    description="Five failures for an e-mail or fifty from an address close it until they are 15 minutes old.",
    body=LoginRequest,
    answers={200: LoginAnswer},
    errors=(401, 429),
)
def log_in(body: LoginRequest) -> Answer:
    """Exchange e-mail and password for a token."""
    user = _accounts().authenticate(body.email, body.password, request.remote_addr or "")
    token = issue_token(
        services().settings,
        subject=str(user.user_id),
        role=user.role,
        hours=LOGIN_HOURS,
        name=user.name,
        session_number=user.session_number,
    )
    answer = {"access_token": token, "token_type": "Bearer", "expires_in": LOGIN_HOURS * 3600}
    return {**answer, "user": show_user(vars(user))}, 200, {"Cache-Control": "no-store"}


@auth_bp.get("/auth/me")
@require_jwt
@require_permission(SELF)
@operation("Read who the token speaks for", tag="Authentication", answers={200: CurrentCaller})
def get_me() -> Answer:
    """Read the caller and the account behind it."""
    return show_caller(g.caller, find_own_account(g.caller)), 200


@auth_bp.put("/auth/me")
@require_jwt
@require_permission(SELF)
@operation(
    "Change one's own e-mail, phone, time zone or password",
    tag="Authentication",
    description="Fields left out stay. A new password ends all sessions begun with the old one, this one "
    "included. A token that may do less than its user changes nothing.",
    body=OwnChanges,
    answers={200: CurrentCaller},
    errors=(404, 409),
)
def update_me(body: OwnChanges) -> Answer:
    """Change the account behind the token."""
    account = find_own_account(g.caller)
    if account is None:
        raise NotFound("user", g.caller.subject)
    missing = ROLES[account.role] - g.caller.permissions
    if missing:
        # Else a token made weaker on purpose could set a password and come back with everything.
        raise PermissionDenied(min(missing))
    return show_caller(g.caller, _accounts().update_user(account.user_id, body.to_changes())), 200


@users_bp.get("/users")
@require_jwt
@require_permission("users:read")
@operation("List users, newest first", tag="Users", query=PageQuery, answers={200: UserPage})
def list_users(query: PageQuery) -> Answer:
    """List users."""
    return show_page(_accounts().list_users(page_of(query)), show_user), 200


@users_bp.post("/users")
@require_jwt
@require_permission("users:write")
@operation("Add a user", tag="Users", body=NewUser, answers={201: ShownUser}, errors=(409,))
def create_user(body: NewUser) -> Answer:
    """Add a user."""
    user = _accounts().create_user(**body.model_dump())
    return show_user(vars(user)), 201, {"Location": f"/api/v1/users/{user.user_id}"}


@users_bp.get("/users/<user_id>")
@require_jwt
@require_permission("users:read")
@operation("Read a user", tag="Users", answers={200: ShownUser})
def get_user(user_id: int) -> Answer:
    """Read one user."""
    return show_user(vars(_accounts().get_user(user_id))), 200


@users_bp.put("/users/<user_id>")
@require_jwt
@require_permission("users:write")
@operation(
    "Change a user",
    tag="Users",
    description="Fields left out stay. A new role counts within ten seconds for tokens from a login; a new "
    "password ends them. The last administrator keeps the role.",
    body=UserChanges,
    answers={200: ShownUser},
    errors=(409,),
)
def update_user(user_id: int, body: UserChanges) -> Answer:
    """Change one user."""
    return show_user(vars(_accounts().update_user(user_id, body.to_changes()))), 200


@users_bp.delete("/users/<user_id>")
@require_jwt
@require_permission("users:write")
@operation(
    "Delete a user",
    tag="Users",
    description="Answers the user as it was. Tokens from a login end within ten seconds; alerts keep the "
    "identifier. Neither the last administrator nor one's own account can be deleted.",
    answers={200: ShownUser},
    errors=(409,),
)
def delete_user(user_id: int) -> Answer:
    """Delete one user."""
    own = find_own_account(g.caller)
    return show_user(vars(_accounts().delete_user(user_id, own.user_id if own else None))), 200


def find_own_account(caller: Caller) -> User | None:
    """Return the account behind a token; the numbers of an identity provider are not ours."""
    if caller.user_id is None or not caller.is_local:
        return None
    return _accounts().find_user(caller.user_id)


def show_user(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a user as the API shows it."""
    shown = {name: row[name] for name in ("email", "name", "role", "phone", "time_zone")}
    times = {name: show_time(row[name]) for name in ("opted_out_of_sms_at", "created_at", "updated_at")}
    return {"user_id": str(row["user_id"]), **shown, **times}


def show_caller(caller: Caller, account: User | None) -> dict[str, Any]:
    """Return a caller with the account behind it; the role is the token's."""
    nothing = dict.fromkeys(
        ("user_id", "email", "phone", "opted_out_of_sms_at", "time_zone", "created_at", "updated_at")
    )
    fields = {**nothing, "name": caller.name} if account is None else show_user(vars(account))
    permissions = sorted(caller.permissions)
    return {**fields, "subject": caller.subject, "role": caller.role, "permissions": permissions}
