"""Real parts for every test: one PostgreSQL server for the run, a database of its own for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from pytest_postgresql import factories
from pytest_postgresql.executors.noop import NoopExecutor

from api.tokens import issue_token
from app_advanced import attach_services, create_app
from foundation.clock import FrozenClock
from foundation.database import Database
from foundation.embedded_postgres import EmbeddedPostgres
from foundation.migrator import migrate
from foundation.settings import Settings
from tests.factories import make_report
from wiring import Services, build_services

SERVER_VARIABLE = "ADVANCED_ALERTING_TEST_SERVER"
TEST_SECRET = "a secret that only the tests use, long enough"
START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)

hypothesis_settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
hypothesis_settings.load_profile("default")

_server: EmbeddedPostgres | None = None
_server_folder: Path | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Start the server once; the processes of pytest-xdist find it through their environment."""
    global _server, _server_folder  # noqa: PLW0603  # pytest's hooks have no other place
    if hasattr(config, "workerinput"):
        config.option.postgresql_host = os.environ[SERVER_VARIABLE]
        return
    if config.option.collectonly or config.option.postgresql_host:
        os.environ[SERVER_VARIABLE] = config.option.postgresql_host or ""
        return
    _server_folder = Path(tempfile.mkdtemp(prefix="aa-tests-"))
    _server_folder.chmod(0o755)
    _server = EmbeddedPostgres(_server_folder)
    url = _server.start()
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        # Nothing here has to survive a power cut.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            cursor.execute(f"ALTER SYSTEM SET {setting} = off")
        cursor.execute("SELECT pg_reload_conf()")
    connection.close()
    config.option.postgresql_host = os.environ[SERVER_VARIABLE] = parse_qs(urlsplit(url).query)["host"][0]


def pytest_unconfigure() -> None:
    """Stop the server and leave nothing behind."""
    if _server is not None and _server_folder is not None:
        _server.stop()
        shutil.rmtree(_server_folder, ignore_errors=True)


def _load_schema(host: str, user: str, dbname: str, **_: Any) -> None:
    migrate(f"postgresql://{user}@/{dbname}?host={host}")


alerting_server = factories.postgresql_noproc(load=[_load_schema])


@pytest.fixture
def database_url(alerting_server: NoopExecutor) -> Iterator[str]:
    """The address of a fresh, migrated database of this test's own."""
    name = f"test_{uuid.uuid4().hex}"
    url = "postgresql://{}@/{}?host={}"
    maintenance_url = url.format(alerting_server.user, "postgres", alerting_server.host)
    template = alerting_server.template_dbname
    # Copying files takes a fraction of what the default does, which writes the whole template to the journal.
    _execute(maintenance_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    yield url.format(alerting_server.user, name, alerting_server.host)
    _execute(maintenance_url, f'DROP DATABASE "{name}" WITH (FORCE)')


def _execute(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings for the test's database."""
    return Settings(
        _env_file=None, database_url=database_url, jwt_secret=TEST_SECRET, data_dir=tmp_path, database_pool_size=8
    )


@pytest.fixture
def clock() -> FrozenClock:
    """A clock that stands at a Monday morning and moves when told."""
    return FrozenClock(START)


@pytest.fixture
def services(settings: Settings, clock: FrozenClock) -> Iterator[Services]:
    """The services over the test's database and frozen clock."""
    built = build_services(settings, clock)
    yield built
    built.database.close()


@pytest.fixture
def database(services: Services) -> Database:
    """The test's database."""
    return services.database


@pytest.fixture(scope="session")
def bare_app() -> Flask:
    """The web application, made once: compiling its routes would cost every test as much as the rest of it."""
    nowhere = Settings(_env_file=None, database_url="postgresql://nowhere.invalid/none", jwt_secret=TEST_SECRET)
    application = create_app(nowhere)
    application.config["CHECK_ANSWERS"] = True
    return application


@pytest.fixture
def app(bare_app: Flask, services: Services) -> Flask:
    """The web application over the test's services; every answer is checked against its schema."""
    attach_services(bare_app, services)
    return bare_app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client without a token."""
    return app.test_client()


@pytest.fixture
def token_for(settings: Settings) -> Callable[..., str]:
    """Return a token for a role: ``token_for("operator", subject="7")``."""

    def issue(role: str, subject: str = "tester", **more: Any) -> str:
        return issue_token(settings, subject=subject, role=role, hours=1, **more)

    return issue


@pytest.fixture
def headers(token_for: Callable[..., str]) -> Callable[..., dict[str, str]]:
    """Return request headers for a role: ``client.get(path, headers=headers("viewer"))``."""

    def make(role: str = "admin", **more: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {token_for(role, **more)}"}

    return make


@pytest.fixture
def raise_alert(client: FlaskClient, headers: Callable[..., dict[str, str]]) -> Callable[..., dict[str, Any]]:
    """Report an alert over REST and return the answer: ``raise_alert(severity="high")``."""

    def report(**fields: Any) -> dict[str, Any]:
        response = client.post("/api/v1/alerts", json=make_report(**fields), headers=headers("device"))
        assert response.status_code == 201, response.json
        answer: dict[str, Any] = response.json
        return answer

    return report


@pytest.fixture
def act(client: FlaskClient, headers: Callable[..., dict[str, str]]) -> Callable[..., Any]:
    """Take a step as an operator and return the response: ``act(alert_id, "acknowledge", notes="mine")``."""

    def take(identifier: str, action: str, kind: str = "alerts", **body: Any) -> Any:
        return client.post(f"/api/v1/{kind}/{identifier}/{action}", json=body, headers=headers("operator"))

    return take


@pytest.fixture
def sql(database_url: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Run plain SQL as somebody beside the service would: ``sql("SELECT %s", 1)``, ``sql("SELECT %(n)s", n=1)``."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True

    def execute(statement: str, *parameters: Any, **named: Any) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(statement, named or parameters or None)
            return cursor.fetchall() if cursor.description else []

    yield execute
    connection.close()
