from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from typing import Any

from clasper.core.logs import JSONFormatter


def formatted(message: str, *args: Any, level: int = logging.INFO, exc_info: Any = None, **extra: Any) -> str:
    logger = logging.Logger("clasper.test")
    record = logger.makeRecord(logger.name, level, __file__, 1, message, args, exc_info, extra=extra)
    return JSONFormatter().format(record)


def test_one_line_of_json_with_the_runs_fields() -> None:
    line = formatted("run %s\nfinished", "x", trace_id="t-1", cost=0.1, nested={"a": [1]})
    assert "\n" not in line
    entry = json.loads(line)
    instant = datetime.fromisoformat(entry.pop("time"))
    assert instant.utcoffset() is not None
    assert entry == {
        "level": "info",
        "logger": "clasper.test",
        "event": "run x\nfinished",
        "trace_id": "t-1",
        "cost": 0.1,
        "nested": {"a": [1]},
    }


def test_a_traceback_is_a_field() -> None:
    try:
        raise KeyError("missing")
    except KeyError:
        entry = json.loads(formatted("failed", level=logging.ERROR, exc_info=sys.exc_info()))
    assert entry["level"] == "error"
    assert "KeyError: 'missing'" in entry["exception"]


def test_what_json_does_not_know_is_written_as_text() -> None:
    class Thing:
        def __str__(self) -> str:
            return "a thing"

    assert json.loads(formatted("seen", thing=Thing(), number=1 + 2j)) | {"thing": "a thing", "number": "(1+2j)"}
