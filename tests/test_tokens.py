"""Tokens: what holds and what does not."""

from __future__ import annotations

import base64
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

import api.tokens
from api.auth import ROLES
from api.tokens import TokenVerifier, issue_token
from foundation.clock import FrozenClock
from foundation.errors import NotAuthenticated, SettingsError, Unavailable
from foundation.settings import Settings

SECRET = "a secret for tokens that is long enough"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def make_settings(**more: Any) -> Settings:
    return Settings(_env_file=None, **{"jwt_secret": SECRET, **more})


def to_pem(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def make_claims(**more: Any) -> dict[str, Any]:
    claims = {"sub": "7", "role": "operator", "exp": int(time.time()) + 600, **more}
    return {name: value for name, value in claims.items() if value is not ...}


def sign(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    return jwt.encode(make_claims(**claims), key, algorithm, headers=headers)


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def sign_raw(payload: bytes, header: bytes = b'{"alg":"HS256","typ":"JWT"}', secret: bytes = SECRET.encode()) -> str:
    signed = f"{encode(header)}.{encode(payload)}"
    return f"{signed}.{encode(hmac.digest(secret, signed.encode(), 'sha256'))}"


def refuse(token: str, settings: Settings | None = None) -> None:
    with pytest.raises(NotAuthenticated):
        TokenVerifier(settings or make_settings()).verify(token)


# What holds


def test_issued_token_says_who_calls():
    token = issue_token(make_settings(), subject="7", role="engineer", hours=1, name="Ana")
    caller = TokenVerifier(make_settings()).verify(token)
    assert (caller.subject, caller.role, caller.user_id, caller.name) == ("7", "engineer", 7, "Ana")
    assert caller.permissions == ROLES["engineer"]
    assert caller.is_local
    assert caller.session_number is None


def test_issued_token_has_the_claims_of_the_contract():
    settings = make_settings(jwt_issuer="https://alerts.example", jwt_audience="alerts")
    before = int(time.time())
    token = issue_token(settings, subject="gateway-3", role="device", hours=0.5, permissions=["alerts:create"])
    claims = jwt.decode(token, SECRET, ["HS256"], audience="alerts")
    issued_at = claims["iat"]
    assert before <= issued_at <= time.time()
    assert claims == {
        "sub": "gateway-3",
        "role": "device",
        "iat": issued_at,
        "exp": issued_at + 1800,
        "permissions": ["alerts:create"],
        "iss": "https://alerts.example",
        "aud": "alerts",
    }
    assert TokenVerifier(settings).verify(token).subject == "gateway-3"


def test_issuing_needs_a_secret():
    with pytest.raises(SettingsError, match="JWT_SECRET"):
        issue_token(make_settings(jwt_secret=""), subject="7", role="viewer", hours=1)


def test_permissions_replace_those_of_the_role():
    caller = TokenVerifier(make_settings()).verify(sign(role="admin", permissions=["alerts:read"]))
    assert caller.permissions == {"alerts:read"}
    assert not caller.may("users:write")


def test_an_empty_list_of_permissions_takes_everything_but_oneself():
    caller = TokenVerifier(make_settings()).verify(sign(role="admin", permissions=[]))
    assert not any(caller.may(permission) for permission in ROLES["admin"])
    assert caller.may("self")


def test_unknown_role_may_nothing_unless_the_token_lists_it():
    verifier = TokenVerifier(make_settings())
    assert verifier.verify(sign(role="emperor")).permissions == frozenset()
    assert verifier.verify(sign(role=..., permissions=["alerts:read"])).permissions == {"alerts:read"}


@pytest.mark.parametrize(
    ("subject", "user_id"),
    [("7", 7), (7, 7), ("007", None), ("gateway", None), ("-1", None), ("9" * 30, None), ("1e3", None)],
)
def test_subject_is_a_user_where_it_is_an_identifier(subject, user_id):
    caller = TokenVerifier(make_settings()).verify(sign_raw(json.dumps(make_claims(sub=subject)).encode()))
    assert caller.subject == str(subject)
    assert caller.user_id == user_id
    assert caller.name == str(subject)


@pytest.mark.parametrize(("key", "algorithm"), [(RSA_KEY, "RS256"), (EC_KEY, "ES256")])
def test_public_key_verifies_tokens_of_an_identity_provider(key, algorithm, tmp_path):
    token = sign(key, algorithm, session=1)
    pem = to_pem(key)
    (tmp_path / "key.pem").write_text(pem)
    for setting in (pem, pem.replace("\n", "\\n"), str(tmp_path / "key.pem")):
        caller = TokenVerifier(make_settings(jwt_public_key=setting)).verify(token)
        assert caller.user_id == 7
        assert not caller.is_local
        assert caller.session_number is None


def test_own_tokens_hold_beside_a_public_key():
    settings = make_settings(jwt_public_key=to_pem(RSA_KEY))
    assert TokenVerifier(settings).verify(sign()).is_local


# What does not hold


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "..",
        "é.é.é",
        "\x00",
        sign()[:-2],
        sign().replace(".", ".."),
        "x" * 100_000,
        encode(b"[" * 5000) + ".e30.e30",
        sign_raw(b"[1]"),
        sign_raw(b"null"),
        sign_raw(b"{"),
        sign_raw(b"[" * 5000),
        sign_raw(json.dumps(make_claims()).encode(), header=b'{"alg":["HS256"]}'),
        sign_raw(json.dumps(make_claims()).encode(), header=b'{"alg":"HS256","crit":["x"],"x":1}'),
        sign_raw(json.dumps(make_claims()).encode(), header=b'{"alg":"HS256","kid":{}}'),
        sign_raw(json.dumps(make_claims()).encode(), header=b"{}"),
    ],
)
def test_malformed_tokens_are_refused(token):
    refuse(token)


@given(st.text(max_size=200))
def test_no_text_is_a_token(text):
    refuse(text)


@given(
    st.dictionaries(
        st.sampled_from(["sub", "role", "exp", "iat", "nbf", "name", "permissions", "aud", "iss"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text() | st.integers()),
    )
)
def test_signed_claims_of_any_type_hold_or_are_refused(claims):
    token = sign_raw(json.dumps(make_claims(**claims)).encode())
    try:
        caller = TokenVerifier(make_settings()).verify(token)
    except NotAuthenticated:
        return
    assert caller.subject
    assert all(isinstance(permission, str) for permission in caller.permissions)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": ...},
        {"exp": None},
        {"exp": True},
        {"exp": "9999999999"},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": -1e300},
        {"exp": int(time.time()) - 1},
        {"exp": 0},
        {"sub": ...},
        {"sub": ""},
        {"sub": None},
        {"sub": True},
        {"sub": "a\x00b"},
        {"sub": "\ud800"},
        {"role": 1},
        {"role": None},
        {"permissions": None},
        {"permissions": "alerts:read"},
        {"permissions": {"alerts:read": True}},
        {"permissions": [1]},
        {"nbf": int(time.time()) + 3600},
        {"iat": int(time.time()) + 3600},
        {"iat": "yesterday"},
    ],
)
def test_claims_that_do_not_hold_are_refused(claims):
    refuse(sign_raw(json.dumps(make_claims(**claims)).encode()))


def test_expiry_beyond_the_calendar_holds():
    assert TokenVerifier(make_settings()).verify(sign_raw(json.dumps(make_claims(exp=10**30)).encode())).user_id == 7


def test_no_algorithm_is_refused():
    refuse(jwt.encode(make_claims(), None, "none"))
    refuse(sign_raw(json.dumps(make_claims()).encode(), header=b'{"alg":"none"}'))
    refuse(sign_raw(json.dumps(make_claims()).encode(), header=b'{"alg":"None"}'))


def test_other_secrets_and_algorithms_are_refused():
    refuse(sign("another secret that is long enough, too"))
    refuse(sign(SECRET * 2, "HS512"))
    refuse(sign(RSA_KEY, "RS256"))
    refuse(sign(), make_settings(jwt_secret="", jwt_public_key=to_pem(RSA_KEY)))


def test_a_public_key_cannot_pass_for_a_secret():
    pem = to_pem(RSA_KEY)
    for text in (pem, pem.strip()):
        token = sign_raw(json.dumps(make_claims()).encode(), secret=text.encode())
        refuse(token, make_settings(jwt_public_key=pem))
        refuse(token, make_settings(jwt_public_key=pem, jwt_secret=""))


def test_keys_of_somebody_else_are_refused():
    settings = make_settings(jwt_public_key=to_pem(RSA_KEY))
    refuse(sign(OTHER_RSA_KEY, "RS256"), settings)
    refuse(sign(EC_KEY, "ES256"), settings)
    refuse(sign(RSA_KEY, "RS512"), settings)
    refuse(sign(RSA_KEY, "PS256"), settings)


def test_issuer_and_audience_are_checked_when_set():
    settings = make_settings(jwt_issuer="us", jwt_audience="alerts")
    refuse(sign(), settings)
    refuse(sign(iss="us"), settings)
    refuse(sign(iss="us", aud="shop"), settings)
    refuse(sign(iss="them", aud="alerts"), settings)
    assert TokenVerifier(settings).verify(sign(iss="us", aud=["shop", "alerts"])).user_id == 7


def test_issuer_and_audience_count_for_nothing_when_not_set():
    assert TokenVerifier(make_settings()).verify(sign(iss="anyone", aud="anything")).user_id == 7


@pytest.mark.parametrize(
    "setting",
    [
        "/nowhere/key.pem",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----",
        to_pem(rsa.generate_private_key(65537, 1024)),
        to_pem(ec.generate_private_key(ec.SECP384R1())),
        to_pem(ed25519.Ed25519PrivateKey.generate()),
        RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    ],
)
def test_useless_public_keys_stop_the_start(setting):
    with pytest.raises(SettingsError, match=r"^JWT_PUBLIC_KEY: "):
        TokenVerifier(make_settings(jwt_public_key=setting))


@pytest.mark.parametrize("more", [{"jwt_jwks_url": "file:///etc/passwd"}, {"jwt_jwks_url": "keys"}])
def test_useless_key_addresses_stop_the_start(more):
    with pytest.raises(SettingsError, match=r"^JWT_JWKS_URL: "):
        TokenVerifier(make_settings(**more))


def test_two_sources_of_keys_stop_the_start():
    with pytest.raises(SettingsError, match="JWT_PUBLIC_KEY"):
        TokenVerifier(make_settings(jwt_public_key=to_pem(RSA_KEY), jwt_jwks_url="https://id.example/keys"))


# What is remembered


def test_a_remembered_token_expires_all_the_same():
    clock = FrozenClock(datetime.now(UTC))
    verifier = TokenVerifier(make_settings(), clock)
    token = sign(exp=int(time.time()) + 60)
    first = verifier.verify(token)
    assert verifier.verify(token) is first
    clock.advance(timedelta(seconds=61))
    with pytest.raises(NotAuthenticated, match="expired"):
        verifier.verify(token)


def test_a_token_is_looked_at_again_after_five_minutes():
    clock = FrozenClock(datetime.now(UTC))
    verifier = TokenVerifier(make_settings(), clock)
    token = sign(exp=int(time.time()) + 3600)
    first = verifier.verify(token)
    clock.advance(timedelta(minutes=5))
    assert verifier.verify(token) is not first
    assert verifier.verify(token) == first


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(api.tokens, "CACHED_TOKENS", 3)
    verifier = TokenVerifier(make_settings())
    tokens = [sign(sub=str(number)) for number in range(1, 6)]
    callers = [verifier.verify(token) for token in tokens]
    assert [verifier.verify(token) is caller for token, caller in zip(tokens[2:], callers[2:], strict=True)] == [
        True
    ] * 3
    assert verifier.verify(tokens[0]) is not callers[0]


def test_threads_share_a_verifier():
    verifier = TokenVerifier(make_settings())
    tokens = [sign(sub=str(number)) for number in range(1, 41)]
    seen: list[set[str]] = []

    def verify_all() -> None:
        seen.append({verifier.verify(token).subject for token in tokens})

    threads = [threading.Thread(target=verify_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [{str(number) for number in range(1, 41)}] * 8


# Keys behind an address


class KeyServer:
    """An identity provider's JWKS address on loopback, counting how often it is asked."""

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.asked = 0
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked += 1
                self.send_response(200 if owner.answer is not None else 500)
                self.end_headers()
                self.wfile.write(owner.answer or b"")

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def publish(self, **keys: Any) -> None:
        algorithms = {
            rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
            ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        }
        documents = []
        for kid, key in keys.items():
            algorithm = next(a for kind, a in algorithms.items() if isinstance(key, kind))
            documents.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"})
        self.answer = json.dumps({"keys": documents}).encode()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def key_server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.stop()


@pytest.fixture
def now() -> FrozenClock:
    return FrozenClock(datetime.now(UTC))


@pytest.fixture
def provider_verifier(key_server: KeyServer, now: FrozenClock) -> TokenVerifier:
    return TokenVerifier(make_settings(jwt_jwks_url=key_server.url), now)


def sign_as(kid: str | None, key: Any = RSA_KEY, **claims: Any) -> str:
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return sign(key, algorithm, {"kid": kid} if kid else None, exp=int(time.time()) + 86400, **claims)


def expect(error: type[Exception], verify: Callable[[], object]) -> None:
    with pytest.raises(error):
        verify()


def test_key_set_verifies_by_kid(key_server, provider_verifier):
    key_server.publish(one=RSA_KEY, two=EC_KEY)
    assert provider_verifier.verify(sign_as("one")).user_id == 7
    assert provider_verifier.verify(sign_as("two", EC_KEY)).user_id == 7
    expect(NotAuthenticated, lambda: provider_verifier.verify(sign_as("two", RSA_KEY)))
    expect(NotAuthenticated, lambda: provider_verifier.verify(sign_as("one", OTHER_RSA_KEY)))
    expect(NotAuthenticated, lambda: provider_verifier.verify(sign_as(None)))
    assert key_server.asked == 1


def test_unknown_kid_asks_at_most_every_ten_seconds(key_server, provider_verifier, now):
    key_server.publish(one=RSA_KEY)
    provider_verifier.verify(sign_as("one"))
    for number in range(20):
        expect(NotAuthenticated, lambda number=number: provider_verifier.verify(sign_as(f"k{number}", OTHER_RSA_KEY)))
    assert key_server.asked == 1
    key_server.publish(one=RSA_KEY, next=OTHER_RSA_KEY)
    now.advance(timedelta(seconds=10))
    assert provider_verifier.verify(sign_as("next", OTHER_RSA_KEY)).user_id == 7
    assert key_server.asked == 2


def test_a_withdrawn_key_ends_within_ten_minutes(key_server, provider_verifier, now):
    key_server.publish(one=RSA_KEY, two=EC_KEY)
    token = sign_as("one")
    provider_verifier.verify(token)
    key_server.publish(two=EC_KEY)
    now.advance(timedelta(minutes=5))
    expect(NotAuthenticated, lambda: provider_verifier.verify(token))


def test_unreachable_key_set_is_said_and_not_asked_again_at_once(key_server, provider_verifier, now):
    token = sign_as("one")
    for _ in range(5):
        expect(Unavailable, lambda: provider_verifier.verify(token))
    assert key_server.asked == 1
    key_server.publish(one=RSA_KEY)
    now.advance(timedelta(seconds=10))
    assert provider_verifier.verify(token).user_id == 7


def test_closed_port_is_unavailable(key_server):
    verifier = TokenVerifier(make_settings(jwt_jwks_url="http://127.0.0.1:1/keys"))
    expect(Unavailable, lambda: verifier.verify(sign_as("one")))
    assert verifier.verify(sign()).is_local


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b'{"keys": 1}', b'{"keys": []}', b'{"keys": [{}]}', b"\xff"])
def test_nonsense_for_a_key_set_is_unavailable(key_server, provider_verifier, answer):
    key_server.answer = answer
    expect(Unavailable, lambda: provider_verifier.verify(sign_as("one")))


def test_known_keys_outlive_their_address_by_an_hour(key_server, provider_verifier, now):
    key_server.publish(one=RSA_KEY)
    provider_verifier.verify(sign_as("one"))
    key_server.answer = None
    now.advance(timedelta(minutes=59))
    assert provider_verifier.verify(sign_as("one", name="later")).name == "later"
    expect(Unavailable, lambda: provider_verifier.verify(sign_as("two", EC_KEY)))
    now.advance(timedelta(minutes=2))
    expect(Unavailable, lambda: provider_verifier.verify(sign_as("one", name="too late")))
