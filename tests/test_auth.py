"""Logging in, and what a token opens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask, g
from werkzeug.security import generate_password_hash

from account_rules import ROLE_NAMES
from accounts import HASH_METHOD, NOBODYS_HASH, Accounts, User, name_throttles
from api.auth import ROLES, public, require_jwt, require_permission
from api.errors import register_error_handlers
from api.tokens import TokenVerifier, issue_token
from app_advanced import create_app
from foundation.clock import Clock
from foundation.database import Database
from foundation.errors import NotAuthenticated, TooManyRequests, Unavailable

PASSWORD = "correct horse battery"
WRONG = "wrong horse battery"
EMAIL = "ana@example.com"
LOGIN = "/api/v1/auth/login"
ME = "/api/v1/auth/me"

Send = Callable[..., Any]


@pytest.fixture
def add_user(services, sql, clock) -> Callable[..., User]:
    """Add a user whose password costs a thousandth of a real one's."""

    def add(email: str, role: str = "operator") -> User:
        ((user_id,),) = sql(
            "INSERT INTO users (email, name, role, password_hash, created_at, updated_at) "
            "VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
            email,
            email.partition("@")[0].title(),
            role,
            generate_password_hash(PASSWORD, "scrypt:1024:8:1"),
            clock.now(),
            clock.now(),
        )
        return services.accounts.get_user(user_id)

    return add


@pytest.fixture
def ana(add_user) -> User:
    return add_user(EMAIL)


@pytest.fixture
def log_in(client) -> Send:
    def send(email: str = EMAIL, password: str = PASSWORD) -> Any:
        return client.post(LOGIN, json={"email": email, "password": password})

    return send


@pytest.fixture
def bearer(log_in) -> Callable[..., dict[str, str]]:
    """Headers with a token from a login."""

    def make(email: str = EMAIL, password: str = PASSWORD) -> dict[str, str]:
        return {"Authorization": f"Bearer {log_in(email, password).json['access_token']}"}

    return make


@pytest.fixture
def other_accounts(database_url, clock):
    """The accounts as another web process sees them."""
    database = Database(database_url, clock=clock)
    yield Accounts(database, clock)
    database.close()


def run_together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run ``work`` in threads that start at one moment; return results and errors."""
    barrier = threading.Barrier(count)
    outcomes: list[Any] = [None] * count

    def run(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = work(number)
        except (NotAuthenticated, TooManyRequests, Unavailable) as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


# Logging in


def test_login_answers_a_token_that_opens(ana, client, log_in):
    response = log_in()
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    answer = response.json
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 43200)
    assert answer["user"] == {
        "user_id": str(ana.user_id),
        "email": EMAIL,
        "name": "Ana",
        "role": "operator",
        "phone": None,
        "opted_out_of_sms_at": None,
        "time_zone": "UTC",
        "created_at": "2026-03-02T08:00:00+00:00",
        "updated_at": "2026-03-02T08:00:00+00:00",
    }
    headers = {"Authorization": f"Bearer {answer['access_token']}"}
    assert client.get("/api/v1/alerts", headers=headers).status_code == 200
    assert client.get("/api/v1/users", headers=headers).status_code == 403


@pytest.mark.parametrize("email", ["ANA@Example.COM", " ana@example.com "])
def test_login_takes_an_email_however_it_is_typed(ana, log_in, email):
    assert log_in(email).status_code == 200


def test_wrong_password_and_unknown_user_read_the_same(ana, log_in):
    wrong, unknown = log_in(password=WRONG), log_in("nobody@example.com")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json["code"] == "not_authenticated"
    assert {**wrong.json, "request_id": 0} == {**unknown.json, "request_id": 0}
    assert wrong.headers["WWW-Authenticate"] == "Bearer"


def test_nobodys_hash_costs_what_a_real_one_costs():
    real = generate_password_hash(PASSWORD, HASH_METHOD)
    assert [len(part) for part in real.split("$")] == [len(part) for part in NOBODYS_HASH.split("$")]
    assert real.split("$")[0] == NOBODYS_HASH.split("$")[0]


def test_a_user_without_a_password_cannot_log_in(ana, log_in, sql):
    sql("UPDATE users SET password_hash = NULL")
    assert log_in().status_code == 401
    sql("UPDATE users SET password_hash = %s", NOBODYS_HASH)
    assert log_in().status_code == 401


def test_passwords_are_kept_as_scrypt_hashes(services, log_in, sql):
    services.accounts.create_user(email=EMAIL, name="Ana", role="operator", password=PASSWORD)
    ((kept,),) = sql("SELECT password_hash FROM users")
    assert kept.startswith("scrypt:32768:8:1$")
    assert PASSWORD not in kept
    assert log_in().status_code == 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"email", "password"}),
        ({"email": 1, "password": None}, {"email", "password"}),
        ({"email": EMAIL, "password": ""}, {"password"}),
        ({"email": EMAIL, "password": "x" * 1001}, {"password"}),
        ({"email": "x" * 255, "password": PASSWORD}, {"email"}),
        ({"email": EMAIL, "password": PASSWORD, "remember": True}, {"remember"}),
        ({"email": "a\x00b", "password": "\x00"}, {"email", "password"}),
        ([], {"body"}),
    ],
)
def test_login_names_every_wrong_field(client, body, fields):
    response = client.post(LOGIN, json=body)
    assert response.status_code == 400
    assert {fault["field"] for fault in response.json["details"]} == fields


@pytest.mark.parametrize("raw", [b'{"email": "\\ud800", "password": "x"}', b"{", b"", b"\xff", b"null", b'"x"'])
def test_login_survives_broken_json(client, raw):
    response = client.post(LOGIN, data=raw, content_type="application/json")
    assert response.status_code == 400
    assert response.json["details"]


def test_login_wants_json(client):
    assert client.post(LOGIN, data={"email": EMAIL, "password": PASSWORD}).status_code == 415


# The throttle


def test_five_failures_close_an_email_for_a_while(ana, log_in, clock):
    for _ in range(5):
        assert log_in(password=WRONG).status_code == 401
        clock.advance(timedelta(seconds=60))
    closed = log_in()
    assert closed.status_code == 429
    assert closed.json["code"] == "too_many_requests"
    assert closed.headers["Retry-After"] == str(15 * 60 - 5 * 60)
    clock.advance(timedelta(minutes=10))
    assert log_in().status_code == 200


def test_refused_attempts_do_not_lengthen_the_wait(ana, log_in, clock):
    for _ in range(7):
        log_in(password=WRONG)
    clock.advance(timedelta(minutes=15))
    assert log_in().status_code == 200


def test_a_success_clears_the_failures_of_the_email(ana, log_in):
    for _ in range(2):
        for _ in range(4):
            assert log_in(password=WRONG).status_code == 401
        assert log_in().status_code == 200


def test_an_unknown_email_is_closed_like_a_known_one(log_in):
    answers = [log_in("nobody@example.com").status_code for _ in range(6)]
    assert answers == [401] * 5 + [429]


def test_other_people_log_in_while_one_email_is_closed(ana, add_user, log_in):
    add_user("ben@example.com")
    for _ in range(6):
        log_in(password=WRONG)
    assert log_in().status_code == 429
    assert log_in("ben@example.com").status_code == 200


def test_fifty_failures_close_an_address(ana, log_in, sql, clock):
    fill = "INSERT INTO login_failures (throttle, failed_at) SELECT 'address:127.0.0.1', %s FROM generate_series(1, %s)"
    sql(fill, clock.now(), 49)
    assert log_in().status_code == 200
    sql(fill, clock.now(), 1)
    assert log_in().status_code == 429
    clock.advance(timedelta(minutes=15, seconds=1))
    assert log_in().status_code == 200


@pytest.mark.parametrize(
    ("proxies", "expected"), [(0, "127.0.0.1"), (1, "192.0.2.9"), (2, "198.51.100.7"), (4, "127.0.0.1")]
)
def test_failures_count_by_the_address_that_the_outermost_trusted_proxy_saw(settings, services, sql, proxies, expected):
    app = create_app(settings.model_copy(update={"trusted_proxies": proxies}))
    forwarded = {"X-Forwarded-For": "203.0.113.5, 198.51.100.7, 192.0.2.9"}
    body = {"email": EMAIL, "password": WRONG}
    try:
        assert app.test_client().post("/api/v1/auth/login", json=body, headers=forwarded).status_code == 401
    finally:
        app.extensions["services"].database.close()
    counted = [throttle for (throttle,) in sql("SELECT throttle FROM login_failures WHERE throttle LIKE 'address:%'")]
    assert counted == [f"address:{expected}"]


def test_failures_count_across_processes(ana, log_in, other_accounts):
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            other_accounts.authenticate(EMAIL, WRONG, "192.0.2.1")
    assert log_in().status_code == 429


def test_guesses_side_by_side_get_no_more_tries(ana, services):
    outcomes = run_together(16, lambda n: services.accounts.authenticate(EMAIL, f"{WRONG}{n}", "192.0.2.1"))
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds.count(NotAuthenticated) == 5
    assert kinds.count(TooManyRequests) == 11


def test_logins_side_by_side_all_succeed(ana, services):
    outcomes = run_together(8, lambda _: services.accounts.authenticate(EMAIL, PASSWORD, "192.0.2.1"))
    assert outcomes == [ana] * 8


def test_failures_outside_the_window_are_forgotten(ana, log_in, sql, clock):
    log_in(password=WRONG)
    clock.advance(timedelta(minutes=16))
    log_in(password=WRONG)
    assert sql("SELECT count(*) FROM login_failures") == [(2,)]


def test_throttles_hide_the_email_and_fold_ipv6_networks():
    first = name_throttles(EMAIL, "2001:db8:1:2:3:4:5:6")
    assert EMAIL not in first["email_throttle"]
    assert first == name_throttles(EMAIL, "2001:db8:1:2:ffff::1")
    assert first != name_throttles(EMAIL, "2001:db8:1:3::1")
    assert name_throttles(EMAIL, "192.0.2.7")["address_throttle"] == "address:192.0.2.7"
    assert name_throttles(EMAIL, "")["address_throttle"] == "address:unknown"


def test_login_says_when_the_database_is_away():
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable):
        Accounts(database, Clock()).authenticate(EMAIL, PASSWORD, "192.0.2.1")


# Tokens and permissions


def test_roles_may_what_the_contract_says():
    viewer = {name for permissions in ROLES.values() for name in permissions if name.endswith(":read")} - {"users:read"}
    operator = viewer | {
        f"alerts:{verb}" for verb in ("create", "acknowledge", "investigate", "resolve", "note", "escalate")
    }
    operator |= {"ml:predict"}
    engineer = operator | {"ml:train", "on_call:write"}
    assert ROLES["viewer"] == viewer
    assert ROLES["device"] == {"alerts:create", "ml:predict"}
    assert ROLES["operator"] == operator
    assert ROLES["engineer"] == engineer
    assert ROLES["admin"] == engineer | {"users:read", "users:write", "sla:write", "escalation:write"}


def test_code_and_database_know_the_same_roles(sql):
    assert set(ROLES) == set(ROLE_NAMES)
    for role in ROLE_NAMES:
        sql("INSERT INTO users (email, name, role) VALUES (%s, 'x', %s)", f"{role}@example.com", role)


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Bearer x", "Basic YTpi", "Token x", "x", "Bearer é"])
def test_requests_without_a_token_that_holds_are_refused(client, value):
    response = client.get(ME, headers={} if value is None else {"Authorization": value})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json["code"] == "not_authenticated"
    assert response.json["data"] is None


def test_the_scheme_may_be_written_in_any_case(client, token_for):
    assert client.get(ME, headers={"Authorization": f"bEARER  {token_for('viewer')}"}).status_code == 200


def test_a_missing_permission_is_named(client, headers):
    response = client.get("/api/v1/users", headers=headers("engineer"))
    assert response.status_code == 403
    assert response.json["code"] == "permission_denied"
    assert "users:read" in response.json["error"]


def test_the_body_is_not_looked_at_before_the_permission(client, headers):
    assert client.post("/api/v1/users", data=b"{", headers=headers("viewer")).status_code == 403
    assert client.post("/api/v1/users", data=b"{").status_code == 401


def test_decorators_alone(settings):
    app = Flask("alone")
    app.extensions["token_verifier"] = TokenVerifier(settings)
    register_error_handlers(app)

    @app.get("/forgotten")
    @require_permission("alerts:read")
    def forgotten() -> str:
        return "reached"

    @app.get("/open")
    @public
    def show_open() -> str:
        return "reached"

    @app.get("/guarded/<name>")
    @require_jwt
    @require_permission("alerts:read")
    def guarded(name: str) -> str:
        return f"{g.caller.subject} {name}"

    client = app.test_client()
    token = issue_token(settings, subject="s", role="viewer", hours=1)
    assert client.get("/forgotten", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert client.get("/open").text == "reached"
    assert client.get("/guarded/x", headers={"Authorization": f"Bearer {token}"}).text == "s x"
    assert (guarded.permission, show_open.permission) == ("alerts:read", "public")
    assert guarded.__name__ == "guarded"


# Sessions follow their account


def test_a_deleted_user_is_out(ana, services, client, bearer):
    headers = bearer()
    services.accounts.delete_user(ana.user_id)
    response = client.get(ME, headers=headers)
    assert response.status_code == 401
    assert "log in again" in response.json["error"]


def test_a_user_deleted_elsewhere_is_out_within_ten_seconds(ana, client, bearer, other_accounts, clock):
    headers = bearer()
    assert client.get(ME, headers=headers).status_code == 200
    other_accounts.delete_user(ana.user_id)
    clock.advance(timedelta(seconds=10))
    assert client.get(ME, headers=headers).status_code == 401


def test_a_new_role_counts_for_tokens_from_before(ana, add_user, client, bearer, other_accounts, clock):
    headers = bearer()
    assert client.get("/api/v1/users", headers=headers).status_code == 403
    other_accounts.update_user(ana.user_id, {"role": "admin"})
    clock.advance(timedelta(seconds=10))
    assert client.get("/api/v1/users", headers=headers).status_code == 200
    add_user("eve@example.com", "admin")
    other_accounts.update_user(ana.user_id, {"role": "device"})
    clock.advance(timedelta(seconds=10))
    assert client.get("/api/v1/alerts", headers=headers).status_code == 403
    assert client.get(ME, headers=headers).json["role"] == "device"


def test_a_new_password_ends_sessions(ana, services, client, bearer):
    headers = bearer()
    services.accounts.update_user(ana.user_id, {"password": "another long password"})
    assert client.get(ME, headers=headers).status_code == 401
    assert client.get(ME, headers=bearer(password="another long password")).status_code == 200


def test_other_changes_leave_sessions_alone(ana, services, client, bearer):
    headers = bearer()
    services.accounts.update_user(ana.user_id, {"name": "Ana B", "email": "ana.b@example.com"})
    assert client.get(ME, headers=headers).json["name"] == "Ana B"


def test_a_forged_session_of_nobody_is_refused(client, token_for):
    for subject in ("7", "gateway"):
        token = token_for("admin", subject=subject, session_number=1)
        assert client.get(ME, headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_tokens_from_the_command_line_need_no_account(client, headers):
    assert client.get("/api/v1/users", headers=headers("admin", subject="424242")).status_code == 200


def test_tokens_from_the_command_line_keep_their_own_role(ana, client, headers):
    assert client.get("/api/v1/users", headers=headers("admin", subject=str(ana.user_id))).status_code == 200


# Oneself


def test_me_with_an_account(ana, client, bearer):
    response = client.get(ME, headers=bearer())
    assert response.status_code == 200
    assert response.json == {
        "subject": str(ana.user_id),
        "user_id": str(ana.user_id),
        "email": EMAIL,
        "name": "Ana",
        "role": "operator",
        "permissions": sorted(ROLES["operator"]),
        "phone": None,
        "opted_out_of_sms_at": None,
        "time_zone": "UTC",
        "created_at": "2026-03-02T08:00:00+00:00",
        "updated_at": "2026-03-02T08:00:00+00:00",
    }


@pytest.mark.parametrize("subject", ["gateway-3", "424242"])
def test_me_without_an_account(client, headers, subject):
    response = client.get(ME, headers=headers("device", subject=subject, name="Gateway 3"))
    assert response.status_code == 200
    answer = response.json
    assert (answer["subject"], answer["name"], answer["role"]) == (subject, "Gateway 3", "device")
    assert answer["permissions"] == ["alerts:create", "ml:predict"]
    assert answer["user_id"] is answer["email"] is answer["created_at"] is None


def test_changing_oneself(ana, client, bearer, clock):
    clock.advance(timedelta(hours=1))
    changes = {"email": "Ana.B@example.com", "phone": "+33 6 12 34 56 78", "time_zone": "Europe/Paris"}
    response = client.put(ME, json=changes, headers=bearer())
    assert response.status_code == 200
    answer = response.json
    assert (answer["email"], answer["phone"]) == ("ana.b@example.com", "+33612345678")
    assert (answer["time_zone"], answer["role"], answer["name"]) == ("Europe/Paris", "operator", "Ana")
    assert answer["updated_at"] == "2026-03-02T09:00:00+00:00"
    removed = client.put(ME, json={"phone": None}, headers=bearer("ana.b@example.com"))
    assert (removed.json["phone"], removed.json["time_zone"]) == (None, "Europe/Paris")


def test_changing_ones_own_password(ana, client, log_in, bearer):
    headers = bearer()
    assert client.put(ME, json={"password": "another long password"}, headers=headers).status_code == 200
    assert client.get(ME, headers=headers).status_code == 401
    assert log_in().status_code == 401
    assert log_in(password="another long password").status_code == 200


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"role": "admin", "name": "Queen", "user_id": "1"}, {"role", "name", "user_id"}),
        ({"email": "x", "phone": "x", "time_zone": "x", "password": "x"}, {"email", "phone", "time_zone", "password"}),
        ({"email": None, "time_zone": None, "password": None}, {"email", "time_zone", "password"}),
        ([], {"body"}),
    ],
)
def test_changing_oneself_names_every_wrong_field(ana, client, bearer, body, fields):
    response = client.put(ME, json=body, headers=bearer())
    assert response.status_code == 400
    assert {fault["field"] for fault in response.json["details"]} == fields


def test_nobody_takes_anothers_email(ana, add_user, client, bearer):
    add_user("ben@example.com")
    response = client.put(ME, json={"email": "ben@example.com"}, headers=bearer())
    assert response.status_code == 409


def test_a_token_without_an_account_has_nothing_to_change(client, headers):
    assert client.put(ME, json={"phone": None}, headers=headers("admin", subject="gateway")).status_code == 404


def test_an_identity_provider_numbers_its_own_people(ana, services, sql):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    settings = services.settings.model_copy(update={"jwt_public_key": pem})
    client = create_app(services=replace(services, settings=settings)).test_client()
    claims = {"sub": str(ana.user_id), "role": "admin", "exp": int(time.time()) + 600}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, key, 'ES256')}"}
    assert client.get("/api/v1/users", headers=headers).status_code == 200
    assert client.get(ME, headers=headers).json["email"] is None
    assert client.put(ME, json={"email": "eve@example.com"}, headers=headers).status_code == 404
    assert sql("SELECT email FROM users") == [(EMAIL,)]


def test_a_weaker_token_cannot_take_over_its_account(ana, client, headers):
    subject = str(ana.user_id)
    for weaker in ({"role": "viewer"}, {"role": "operator", "permissions": ["alerts:read"]}):
        response = client.put(
            ME, json={"password": "another long password"}, headers=headers(**weaker, subject=subject)
        )
        assert response.status_code == 403
    same = client.put(ME, json={"time_zone": "Asia/Tokyo"}, headers=headers("operator", subject=subject))
    assert same.status_code == 200
