"""The users, as an administrator keeps them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from account_rules import check_account, check_name, check_time_zone, normalise_email, normalise_phone
from accounts import FIRST_ADMINISTRATOR, Accounts
from api.account_schemas import NewUser, OwnChanges, UserChanges
from foundation.database import Database
from foundation.errors import Conflict, NotFound, ValidationFailed

USERS = "/api/v1/users"
BEN = {"email": "ben@example.com", "name": "Ben Ito", "role": "operator", "password": "a long enough password"}


@pytest.fixture
def admin(headers) -> dict[str, str]:
    return headers("admin", subject="root")


@pytest.fixture
def add_user(services, sql, clock) -> Callable[..., Any]:
    """Add a user without a password and return it."""

    def add(role: str = "operator", phone: str | None = None) -> Any:
        ((user_id,),) = sql(
            "INSERT INTO users (email, name, role, phone, created_at, updated_at) "
            "VALUES ('user' || (SELECT count(*) FROM users) || '@example.com', 'Ben', %s, %s, %s, %s) RETURNING id",
            role,
            phone,
            clock.now(),
            clock.now(),
        )
        return services.accounts.get_user(user_id)

    return add


@pytest.fixture
def insert_users(sql, clock) -> Callable[[int], None]:
    """Add many users without the price of their passwords, a minute apart."""

    def insert(count: int) -> None:
        sql(
            "INSERT INTO users (email, name, role, created_at) SELECT 'u' || n || '@example.com', 'U' || n, 'viewer', "
            "%s::timestamptz + n * interval '1 minute' FROM generate_series(1, %s) AS n",
            clock.now(),
            count,
        )

    return insert


def run_both(first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    """Run both at one moment; return results and errors."""
    barrier = threading.Barrier(2)
    outcomes: list[Any] = []

    def run(work: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            outcomes.append(work())
        except (Conflict, NotFound) as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


# Adding


def test_add_a_user(client, admin):
    response = client.post(
        USERS, json={**BEN, "phone": "+33 6 12 34 56 78", "time_zone": "Europe/Paris"}, headers=admin
    )
    assert response.status_code == 201
    answer = response.json
    assert answer == {
        "user_id": answer["user_id"],
        "email": "ben@example.com",
        "name": "Ben Ito",
        "role": "operator",
        "phone": "+33612345678",
        "opted_out_of_sms_at": None,
        "time_zone": "Europe/Paris",
        "created_at": "2026-03-02T08:00:00+00:00",
        "updated_at": "2026-03-02T08:00:00+00:00",
    }
    assert response.headers["Location"] == f"{USERS}/{answer['user_id']}"
    assert client.get(response.headers["Location"], headers=admin).json == answer


def test_the_rest_has_defaults(client, admin):
    answer = client.post(USERS, json=BEN, headers=admin).json
    assert (answer["phone"], answer["time_zone"]) == (None, "UTC")


def test_an_email_is_taken_once_whatever_its_case(client, admin):
    assert client.post(USERS, json=BEN, headers=admin).status_code == 201
    response = client.post(USERS, json={**BEN, "email": "BEN@Example.com"}, headers=admin)
    assert response.status_code == 409
    assert response.json["error"] == "a user with this e-mail exists already"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"email", "name", "role", "password"}),
        (
            {"email": "x", "name": " ", "role": "boss", "password": "short", "phone": "12", "time_zone": "Mars/Base"},
            {"email", "name", "role", "password", "phone", "time_zone"},
        ),
        (
            {"email": 1, "name": 2, "role": 3, "password": 4, "phone": 5, "time_zone": 6},
            {"email", "name", "role", "password", "phone", "time_zone"},
        ),
        ({**BEN, "user_id": "1", "password_hash": "x", "admin": True}, {"user_id", "password_hash", "admin"}),
        ({**BEN, "name": "a\x00b", "password": "\x00" * 12}, {"name", "password"}),
        ({**BEN, "time_zone": None}, {"time_zone"}),
        ({**BEN, "name": "x" * 201}, {"name"}),
        ({**BEN, "name": "Ben\r\nBcc: x@example.com"}, {"name"}),
        ([BEN], {"body"}),
        ("x", {"body"}),
    ],
)
def test_every_wrong_field_is_named(client, admin, body, fields):
    response = client.post(USERS, json=body, headers=admin)
    assert response.status_code == 400
    assert response.json["code"] == "validation_failed"
    assert {fault["field"] for fault in response.json["details"]} == fields


def test_examples_can_be_sent_as_they_stand(client, admin):
    (example,) = NewUser.model_json_schema()["examples"]
    added = client.post(USERS, json=example, headers=admin)
    assert added.status_code == 201
    (changes,) = UserChanges.model_json_schema()["examples"]
    assert client.put(added.headers["Location"], json=changes, headers=admin).status_code == 200
    (own,) = OwnChanges.model_json_schema()["examples"]
    assert client.put(added.headers["Location"], json=own, headers=admin).status_code == 200


# Reading


@pytest.mark.parametrize("identifier", ["1", "-1", "0", "1e3", "9" * 30, "abc", "007"])
@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_no_such_user(client, admin, method, identifier):
    more = {"json": {}} if method == "put" else {}
    response = getattr(client, method)(f"{USERS}/{identifier}", headers=admin, **more)
    assert response.status_code == 404
    assert response.json["code"] == "not_found"


def test_list_by_page(client, admin, insert_users):
    insert_users(5)
    response = client.get(f"{USERS}?limit=2&page=2", headers=admin)
    assert response.status_code == 200
    answer = response.json
    assert [user["name"] for user in answer["data"]] == ["U3", "U2"]
    assert (answer["page"], answer["limit"], answer["total"], answer["total_is_estimate"]) == (2, 2, 5, False)


def test_list_by_cursor(client, admin, insert_users):
    insert_users(5)
    names, cursor = [], ""
    while cursor is not None:
        answer = client.get(f"{USERS}?limit=2&cursor={cursor}" if cursor else f"{USERS}?limit=2", headers=admin).json
        names += [user["name"] for user in answer["data"]]
        cursor = answer["next_cursor"]
    assert names == ["U5", "U4", "U3", "U2", "U1"]


def test_list_of_nobody(client, admin):
    answer = client.get(USERS, headers=admin).json
    assert (answer["data"], answer["total"], answer["next_cursor"]) == ([], 0, None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("page=0", "page"),
        ("page=x", "page"),
        ("cursor=x", "cursor"),
        ("role=admin", "role"),
        ("page=1&page=2", "page"),
    ],
)
def test_list_names_a_wrong_parameter(client, admin, query, field):
    response = client.get(f"{USERS}?{query}", headers=admin)
    assert response.status_code == 400
    assert [fault["field"] for fault in response.json["details"]] == [field]


def test_answers_never_carry_the_hash(client, admin, headers):
    added = client.post(USERS, json=BEN, headers=admin)
    path = added.headers["Location"]
    own = headers("operator", subject=added.json["user_id"])
    login = client.post("/api/v1/auth/login", json={"email": BEN["email"], "password": BEN["password"]})
    answers = [
        added,
        login,
        client.get(path, headers=admin),
        client.get(USERS, headers=admin),
        client.put(path, json={"name": "B"}, headers=admin),
        client.get("/api/v1/auth/me", headers=own),
        client.delete(path, headers=admin),
    ]
    for answer in answers:
        assert answer.status_code in (200, 201)
        assert "scrypt" not in answer.text
        assert "password" not in answer.text
        assert "session_number" not in answer.text


# Changing


def test_change_some_fields(client, admin, add_user, clock):
    user = add_user(phone="+33612345678")
    clock.advance(timedelta(minutes=1))
    response = client.put(f"{USERS}/{user.user_id}", json={"role": "engineer", "name": " Ben I. "}, headers=admin)
    assert response.status_code == 200
    answer = response.json
    assert (answer["role"], answer["name"], answer["phone"], answer["email"]) == (
        "engineer",
        "Ben I.",
        "+33612345678",
        user.email,
    )
    assert (answer["created_at"], answer["updated_at"]) == ("2026-03-02T08:00:00+00:00", "2026-03-02T08:01:00+00:00")
    assert client.put(f"{USERS}/{user.user_id}", json={"phone": None}, headers=admin).json["phone"] is None


def test_a_new_password_opens_and_the_old_one_does_not(client, admin):
    user = client.post(USERS, json=BEN, headers=admin).json
    client.put(f"{USERS}/{user['user_id']}", json={"password": "another long password"}, headers=admin)
    login = {"email": user["email"], "password": BEN["password"]}
    assert client.post("/api/v1/auth/login", json=login).status_code == 401
    login["password"] = "another long password"
    assert client.post("/api/v1/auth/login", json=login).status_code == 200


def test_changing_names_every_wrong_field(client, admin, add_user):
    path = f"{USERS}/{add_user().user_id}"
    nulls = dict.fromkeys(("email", "name", "role", "time_zone", "password"))
    for body, fields in ((nulls, set(nulls)), ({"nam": "x", "role": "boss"}, {"nam", "role"})):
        response = client.put(path, json=body, headers=admin)
        assert response.status_code == 400
        assert {fault["field"] for fault in response.json["details"]} == fields


def test_changing_to_a_taken_email(client, admin, add_user):
    first, second = add_user(), add_user()
    response = client.put(f"{USERS}/{second.user_id}", json={"email": first.email}, headers=admin)
    assert response.status_code == 409


# Administrators


def test_delete_a_user(client, admin, add_user):
    user = add_user()
    response = client.delete(f"{USERS}/{user.user_id}", headers=admin)
    assert response.status_code == 200
    assert response.json["user_id"] == str(user.user_id)
    assert client.delete(f"{USERS}/{user.user_id}", headers=admin).status_code == 404


def test_the_last_administrator_stays(client, admin, add_user):
    boss = add_user(role="admin")
    add_user(role="engineer")
    path = f"{USERS}/{boss.user_id}"
    for response in (client.delete(path, headers=admin), client.put(path, json={"role": "viewer"}, headers=admin)):
        assert response.status_code == 409
        assert "last administrator" in response.json["error"]
    assert client.put(path, json={"role": "admin", "name": "Boss"}, headers=admin).status_code == 200
    add_user(role="admin")
    assert client.put(path, json={"role": "viewer"}, headers=admin).status_code == 200


def test_nobody_deletes_themselves(client, headers, add_user):
    boss, deputy = add_user(role="admin"), add_user(role="admin")
    own = headers("admin", subject=str(boss.user_id))
    assert client.delete(f"{USERS}/{boss.user_id}", headers=own).status_code == 409
    assert client.delete(f"{USERS}/{deputy.user_id}", headers=own).status_code == 200


@pytest.mark.parametrize("how", ["demote", "delete"])
def test_two_administrators_cannot_remove_one_another(services, add_user, sql, how):
    for _ in range(5):
        sql("DELETE FROM users")
        first, second = add_user(role="admin"), add_user(role="admin")
        accounts = services.accounts

        def remove(user: Any, by: Any, accounts: Accounts = accounts) -> Any:
            if how == "delete":
                return accounts.delete_user(user.user_id, by.user_id)
            return accounts.update_user(user.user_id, {"role": "viewer"})

        outcomes = run_both(lambda a=first, b=second: remove(a, b), lambda a=first, b=second: remove(b, a))
        assert [type(outcome) for outcome in outcomes].count(Conflict) == 1
        assert sql("SELECT count(*) FROM users WHERE role = 'admin'") == [(1,)]


@pytest.mark.parametrize("role", ["viewer", "device", "operator", "engineer"])
def test_only_administrators_keep_users(client, headers, role):
    calls = [("get", USERS), ("post", USERS), ("get", f"{USERS}/1"), ("put", f"{USERS}/1"), ("delete", f"{USERS}/1")]
    for method, path in calls:
        assert getattr(client, method)(path, headers=headers(role)).status_code == 403
        assert getattr(client, method)(path).status_code == 401


# The first start


def test_the_first_start_makes_an_administrator(services, client):
    email, password = services.accounts.ensure_administrator()
    assert normalise_email(email) == email
    login = client.post("/api/v1/auth/login", json={"email": email, "password": password})
    assert login.status_code == 200
    assert login.json["user"]["role"] == "admin"
    assert services.accounts.ensure_administrator() is None


def test_a_start_with_users_makes_nobody(services, insert_users):
    insert_users(1)
    assert services.accounts.ensure_administrator() is None


def test_two_first_starts_make_one_administrator(services, database_url, clock, sql):
    database = Database(database_url, clock=clock)
    outcomes = run_both(services.accounts.ensure_administrator, Accounts(database, clock).ensure_administrator)
    database.close()
    assert outcomes.count(None) == 1
    assert sql("SELECT count(*) FROM users") == [(1,)]


def test_a_first_start_waits_for_the_one_that_is_about_to_commit(services, database_url, sql):
    other = psycopg2.connect(database_url)
    outcomes: list[Any] = []
    waiting = threading.Thread(target=lambda: outcomes.append(services.accounts.ensure_administrator()))
    with other, other.cursor() as cursor:
        cursor.execute("INSERT INTO users (email, name, role) VALUES (%s, 'A', 'admin')", (FIRST_ADMINISTRATOR,))
        waiting.start()
        deadline = time.monotonic() + 30
        while sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)] and time.monotonic() < deadline:
            waiting.join(0.01)
    waiting.join()
    other.close()
    assert outcomes == [None]


def test_users_exist_or_not(services, add_user):
    user = add_user()
    assert services.accounts.exists(user.user_id)
    assert not services.accounts.exists(user.user_id + 1)
    with pytest.raises(NotFound):
        services.accounts.get_user(user.user_id + 1)


def test_the_command_line_meets_the_same_rules(services):
    with pytest.raises(ValidationFailed) as caught:
        services.accounts.create_user(email="x", name="", role="boss", password="x", phone="1", time_zone="x")
    assert [fault.field for fault in caught.value.faults] == ["email", "name", "role", "phone", "time_zone", "password"]


# The rules


@pytest.mark.parametrize("value", ["a@b.co", "first.last+tag@sub.example.com", "O'Brien@EXAMPLE.com", "x@1.example"])
def test_emails_that_are(value):
    assert normalise_email(value) == value.lower()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a",
        "a@b",
        "@b.co",
        "a@",
        "a@@b.co",
        "a b@c.co",
        ".a@b.co",
        "a.@b.co",
        "a..b@c.co",
        "a@-b.co",
        "a@b-.co",
        "a@b..co",
        "a@b.co.",
        "a@1.2.3.4",
        "a@b.co\n",
        " a@b.co",
        "a@b.co,c@d.co",
        "ä@b.co",
        "a@ü.co",
        "x" * 65 + "@b.co",
        "a@" + "b." * 130 + "co",
        "İ@b.co",
        '"a"@b.co',
        "a@[127.0.0.1]",
    ],
)
def test_emails_that_are_not(value):
    with pytest.raises(ValueError, match="e-mail"):
        normalise_email(value)


@given(st.emails() | st.text(max_size=40))
def test_an_email_is_kept_in_one_form(value):
    try:
        kept = normalise_email(value)
    except ValueError:
        return
    assert kept == normalise_email(kept) == kept.lower()
    assert kept.isascii()


@pytest.mark.parametrize("value", ["+33612345678", "+33 6 12 34 56 78", "+1 (212) 555-0100"])
def test_phones_that_are(value):
    kept = normalise_phone(value)
    assert kept[0] == "+"
    assert kept[1:].isdigit()
    assert normalise_phone(kept) == kept


@pytest.mark.parametrize(
    "value", ["", "x", "0612345678", "+", "+33", "+9991234567", "tel:+33612345678", "+" + "3" * 40]
)
def test_phones_that_are_not(value):
    with pytest.raises(ValueError, match="phone"):
        normalise_phone(value)


@pytest.mark.parametrize(
    "value", ["", "utc", "Mars/Base", "../etc/passwd", "/etc/localtime", "localtime", "America", "+01:00"]
)
def test_time_zones_that_are_not(value):
    with pytest.raises(ValueError, match="time zone"):
        check_time_zone(value)


@given(st.text(max_size=300))
def test_a_name_is_kept_in_one_form(value):
    try:
        kept = check_name(value)
    except ValueError:
        return
    assert kept == check_name(kept) == kept.strip()
    assert "\n" not in kept


def test_only_a_phone_may_be_taken_away():
    assert check_account({"phone": None}) == {"phone": None}
    with pytest.raises(ValidationFailed):
        check_account({"name": None})
