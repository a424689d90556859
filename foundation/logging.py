"""Logging: one line a record on standard error, as text for people or JSON for machines."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from foundation.settings import Settings

# What every record carries; whatever stands beside it came in by ``extra``.
STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(settings: Settings) -> None:
    """Send every record of this process to standard error, as LOG_LEVEL and LOG_FORMAT say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)


def read_extra_fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what the caller gave as ``extra``, in the order given."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD_FIELDS}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, the extra fields, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a value that JSON does not know is written as its text."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **read_extra_fields(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, the extra fields as ``name=value``; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; line breaks in the message are escaped, so that nobody can forge a record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        extra = "".join(f" {name}={value}" for name, value in read_extra_fields(record).items())
        line = f"{time} {record.levelname:<7} {record.name}: {record.getMessage()}{extra}"
        line = line.replace("\r", "\\r").replace("\n", "\\n")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line
