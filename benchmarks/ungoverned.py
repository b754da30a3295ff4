"""Clasper without its governance, for measuring what governance costs; no product code knows of this.

    python -m benchmarks.ungoverned serve --port N

Runs `manage.py serve` with an application in which audit, budget, redaction and the texts of traces do nothing.
Identity, traces with steps and sums, prices, the usage ledger, the outbox and the backend writes stay. The verbs are
replaced wherever they were imported; the runner checks that nothing of theirs was written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from types import FunctionType, ModuleType
from typing import Any

APPLICATION = "benchmarks.ungoverned:application"
_CONTENT_TABLE = "trace_payloads"
_TABLE_BY = 32
"""A statement names its table within its first characters."""


def replacements() -> dict[FunctionType, Callable[..., Any]]:
    """The verbs of governance, each with what does nothing in its place."""
    from apps.audit.services import recording
    from apps.governance.services import reservations
    from clasper.core import redaction

    unlimited = reservations.Reservation(True, None, reservations.UNLIMITED, None, True)
    verbs: dict[Any, Callable[..., Any]] = {
        recording.record_audit: lambda *_, **__: None,
        reservations.reserve: lambda *_, **__: unlimited,
        reservations.settle_call: lambda *_, **__: None,
        redaction.redact: lambda value: value,
        redaction.redact_text: lambda text: text,
        redaction.redact_counted: lambda value: (value, {}),
    }
    return verbs


def bindings(verbs: Container[Any]) -> Iterator[tuple[ModuleType, str, FunctionType]]:
    """Every name of a loaded module of ours that stands for one of the verbs."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("apps.", "clasper.")):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, FunctionType) and value in verbs:
                    yield module, attribute, value


def _govern_nothing() -> None:
    from clasper.core.db import Batch

    verbs = replacements()
    for module, attribute, verb in bindings(verbs):
        setattr(module, attribute, verbs[verb])
    queue = Batch.queue

    def queue_unless_content(batch: Batch, sql: str, row: Sequence[Any]) -> None:
        if _CONTENT_TABLE not in sql[:_TABLE_BY]:
            queue(batch, sql, row)

    vars_of_batch: Any = Batch
    vars_of_batch.queue = queue_unless_content


def __getattr__(name: str) -> Any:
    """`application`, made when the server asks for it."""
    if name != "application":
        raise AttributeError(name)
    from clasper import asgi

    try:
        _govern_nothing()
    except AttributeError as error:
        # The server would take it for a module without an application.
        raise RuntimeError(f"a verb that is to be replaced is gone: {error}") from error
    return asgi.application


def main() -> None:
    import uvicorn
    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "clasper.settings")
    run, uvicorn_module = uvicorn.run, sys.modules["uvicorn"]

    def run_ungoverned(_: Any, **options: Any) -> None:
        run(APPLICATION, **options)

    vars(uvicorn_module)["run"] = run_ungoverned
    execute_from_command_line(["manage.py", *sys.argv[1:]])


if __name__ == "__main__":
    main()
