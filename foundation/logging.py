"""Logging: one line a record on standard error, as text for people or JSON for machines."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from itertools import islice

from foundation.settings import Settings

# What every record carries, in the order it is given; whatever comes after it came in by ``extra``.
STANDARD_FIELDS = tuple(vars(logging.makeLogRecord({})))
ADDED_BY_FORMATTERS = frozenset({"message", "asctime", "taskName"})
STANDARD_ERROR = 2

_encode_json = json.JSONEncoder(default=str, ensure_ascii=False).encode


def configure_logging(settings: Settings) -> None:
    """Send every record of this process to standard error, as LOG_LEVEL and LOG_FORMAT say."""
    handler = LineHandler(STANDARD_ERROR)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    logging.captureWarnings(True)
    # Our lines show neither thread nor process nor the place in the code, so they are not found out for every request.
    # These are the switches that the logging manual names for it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None


class LineHandler(logging.Handler):
    """Writes each record to a file descriptor as one line in one call, which does not mix the lines of threads.

    Not ``StreamHandler``: it writes under a lock, and while one thread is in the system with its line, all that end a
    request at the same time wait for the lock first and for the interpreter then.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record that no filter keeps back; return whether it was written."""
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a fault of writing is told where logging tells its own."""
        try:
            line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            while line:
                line = line[os.write(self._descriptor, line) :]
        except Exception:  # noqa: BLE001  # a fault of its log must not fail a request
            self.handleError(record)


def read_extra_fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what the caller gave as ``extra``, in the order given."""
    given = islice(vars(record).items(), len(STANDARD_FIELDS), None)
    return {name: value for name, value in given if name not in ADDED_BY_FORMATTERS}


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
        return _encode_json(fields)


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
