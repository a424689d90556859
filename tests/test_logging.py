"""Log lines, as text and as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from foundation.logging import configure_logging
from foundation.settings import Settings


@pytest.fixture(autouse=True)
def former_logging() -> Iterator[None]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def configure(log_format: Literal["text", "json"], log_level: Literal["INFO", "WARNING"] = "INFO") -> logging.Logger:
    configure_logging(Settings(_env_file=None, log_format=log_format, log_level=log_level))
    return logging.getLogger("some.place")


def test_json_line_has_all_extra_fields(capfd: pytest.CaptureFixture[str]) -> None:
    configure("json").info("%s done", "it", extra={"request_id": "r1", "status": 200, "where": {1}})
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    record = json.loads(line)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "level": "INFO",
        "logger": "some.place",
        "message": "it done",
        "request_id": "r1",
        "status": 200,
        "where": "{1}",
    }


def test_json_keeps_a_traceback_on_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    logger = configure("json")
    try:
        raise ValueError("the cause")
    except ValueError:
        logger.exception("failed")
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "ValueError: the cause" in json.loads(line)["exception"]


def test_text_line_cannot_be_forged(capfd: pytest.CaptureFixture[str]) -> None:
    configure("text").info("path %s", "/a\n2026-01-01 ERROR forged", extra={"agent": "x\r\ny"})
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    assert "\r" not in line
    assert line.endswith("agent=x\\r\\ny\n")


def test_text_shows_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    logger = configure("text")
    try:
        raise ValueError("the cause")
    except ValueError:
        logger.exception("failed")
    assert capfd.readouterr().err.endswith("ValueError: the cause\n")


def test_level_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    logger = configure("text", "WARNING")
    logger.info("quiet")
    logger.warning("loud")
    assert "quiet" not in (shown := capfd.readouterr().err)
    assert "loud" in shown
