"""Logs: one JSON object a line, with the run's ids as fields.

Our own lines contain ids and numbers. Warnings and errors may quote what a caller sent, so they are redacted here.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.utils.module_loading import import_string

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "taskName"),
    "color_message",  # uvicorn's second copy of the event, with escape codes
    "request",  # Django's, whose address callers may fill with anything
}


class JSONFormatter(logging.Formatter):
    """`{"time", "level", "logger", "event", …extra fields}`; a traceback becomes the field `exception`.

    `redactor` is the dotted path of the function that redacts the JSON of warnings and errors.
    """

    def __init__(self, *, redactor: str = "") -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if self._redactor and record.levelno >= logging.WARNING:
            entry = self._redacted(msgspec.to_builtins(entry, enc_hook=str))
        return msgspec.json.encode(entry, enc_hook=str).decode()

    def _redacted(self, entry: dict[str, Any]) -> dict[str, Any]:
        try:
            redacted: dict[str, Any] = import_string(self._redactor)(entry)
        except ImportError:  # the interpreter is shutting down, and an unredacted line is worse than a short one
            return {name: entry[name] for name in ("time", "level", "logger")} | {"event": "withheld"}
        return redacted
