"""Settings: where they come from, what is refused, and that the documentation names each."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from foundation.errors import SettingsError
from foundation.settings import Settings, default_data_dir, load_settings

DOCUMENTATION = Path(__file__).resolve().parent.parent / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def empty_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting in the environment, no .env file."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_nothing_set_is_a_working_service_on_loopback() -> None:
    settings = load_settings()
    assert settings.is_embedded
    assert (settings.host, settings.port) == ("127.0.0.1", 5002)
    assert settings.base_url == "http://127.0.0.1:5002"
    assert settings.web_workers == os.cpu_count()
    assert settings.data_dir == default_data_dir()
    assert settings.cors_origins == ()


def test_root_keeps_its_data_out_of_home_folders() -> None:
    expected = Path("/var/lib/advanced-alerting") if os.geteuid() == 0 else Path("data")
    assert default_data_dir() == expected


def test_environment_wins_over_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=6001\nHOST=127.0.0.2\nUNRELATED=1\n")
    monkeypatch.setenv("PORT", "6002")
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.2", 6002)


def test_argument_wins_over_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "6002")
    assert load_settings(port=6003).port == 6003


def test_empty_value_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("DATABASE_URL", "")
    settings = load_settings()
    assert settings.port == 5002
    assert settings.is_embedded


def test_origins_are_a_comma_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example/, https://b.example ,")
    assert load_settings().cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("host", "public_url", "expected"),
    [
        ("127.0.0.1", "", "http://127.0.0.1:5002"),
        ("::1", "", "http://[::1]:5002"),
        ("0.0.0.0", "https://alerts.example.com/", "https://alerts.example.com"),
    ],
)
def test_base_url_is_the_address_that_people_reach(host: str, public_url: str, expected: str) -> None:
    assert load_settings(host=host, public_url=public_url).base_url == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("WEB_WORKERS", "0"),
        ("DATABASE_POOL_SIZE", "101"),
        ("DATABASE_URL", "mysql://somewhere"),
        ("JWT_SECRET", "s" * 31),
        ("GROUP_WINDOW_SECONDS", "0"),
        ("RATE_LIMIT", "fast"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_wrong_value_is_one_line_that_names_the_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as told:
        load_settings()
    assert re.fullmatch(rf"{name}: .+", str(told.value))


def test_secret_is_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", "é" * 16)
    assert load_settings().jwt_secret == "é" * 16


def test_own_database_needs_a_secret_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://db.example/alerts")
    with pytest.raises(SettingsError, match="JWT_SECRET"):
        load_settings()
    monkeypatch.setenv("JWT_SECRET", "s" * 32)
    assert not load_settings().is_embedded


def test_settings_stand_still() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 1  # type: ignore[misc]  # what is tested


def test_documentation_names_exactly_the_settings_there_are() -> None:
    named = re.findall(r"^\| `([A-Z_]+)`", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"SMTP_URL": "smtp://mail.example.com"}, "EMAIL_FROM"),
        ({"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "t"}, "TWILIO_FROM_NUMBER"),
        ({"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_FROM_NUMBER": "+15005550006"}, "TWILIO_AUTH_TOKEN"),
        ({"TWILIO_AUTH_TOKEN": "t"}, "TWILIO_ACCOUNT_SID"),
    ],
)
def test_half_a_channel_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], missing: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as told:
        load_settings()
    assert re.fullmatch(rf"{missing} is required when {next(iter(settings))} is set", str(told.value))


def test_channels_that_are_not_set_up_are_off() -> None:
    settings = load_settings()
    assert not any((settings.smtp_url, settings.email_from, settings.twilio_account_sid, settings.webhook_secret))
    assert settings.sms_max_per_hour == 10
    assert settings.webhook_allow_private is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMTP_URL", "mail.example.com"),
        ("SMTP_URL", "http://mail.example.com"),
        ("SMTP_URL", "smtp://"),
        ("SMTP_URL", "smtp://mail.example.com:mail"),
        ("SMTP_URL", "smtp://mail.example.com:0"),
        ("SMTP_URL", "smtp://mail.example.com?tls"),
        ("SMTP_URL", "smtp://mail.example.com/inbox"),
        ("SMTP_URL", "smtp://user:secret@mail.example.com"),
        ("EMAIL_FROM", "alerts"),
        ("EMAIL_FROM", "Alerts <alerts>"),
        ("EMAIL_FROM", "Alerts\n<alerts@example.com>"),
        ("EMAIL_FROM", "älerts@example.com"),
        ("TWILIO_FROM_NUMBER", "0612-345"),
        ("TWILIO_API_BASE_URL", "api.twilio.com"),
        ("SMS_MAX_PER_HOUR", "0"),
        ("WEBHOOK_SECRET", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("WEBHOOK_SECRET", "whsec_not base64 at all, but long enough"),
        ("WEBHOOK_SECRET", "whsec_c2hvcnQ="),
        ("WEBHOOK_ALLOW_PRIVATE", "perhaps"),
    ],
)
def test_wrong_channel_setting_is_one_line_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as told:
        load_settings(**({"email_from": "a@example.com"} if name == "SMTP_URL" else {}))
    assert re.fullmatch(rf"{name}: .+", str(told.value))
    assert "secret@" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMTP_URL", "smtp://user:p%40ss@mail.example.com:587?starttls"),
        ("SMTP_URL", "smtps://user:pass@mail.example.com"),
        ("SMTP_URL", "smtp://user:pass@127.0.0.1:2525"),
        ("SMTP_URL", "smtp://[::1]:25/"),
        ("EMAIL_FROM", "Alerts of plant 2 <alerts@example.com>"),
        ("EMAIL_FROM", "alerts@localhost"),
        ("TWILIO_API_BASE_URL", "http://127.0.0.1:8080"),
        ("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ],
)
def test_right_channel_setting_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    settings = load_settings(**({"email_from": "a@example.com"} if name == "SMTP_URL" else {}))
    assert getattr(settings, name.lower()) == value
