"""An ended run as monitoring sees it: counted, and exported as telemetry if CLASPER_OTEL_ENDPOINT is set."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from apps.agents.engine.state import Run
from apps.traces.domain.record import TraceEnd
from clasper import metrics

if TYPE_CHECKING:
    from apps.agents.engine.spans import RunExporter

logger = logging.getLogger("clasper.runs")

_exporter: RunExporter | None = None


def observe(run: Run, end: TraceEnd) -> None:
    """Counts the run and its calls, and has it exported; takes microseconds and does not fail."""
    try:
        _count(run, end)
        if _exporter is not None:
            _exporter.export(run, end)
    except Exception:
        logger.exception("a run was not counted", extra={"trace_id": end.id})


def check_export() -> None:
    """Raises ImproperlyConfigured when runs are to be exported but the extra `telemetry` is not installed."""
    if settings.CLASPER_OTEL_ENDPOINT:
        try:
            from apps.agents.engine import spans  # noqa: F401
        except ImportError as error:
            raise ImproperlyConfigured(
                "CLASPER_OTEL_ENDPOINT is set, but the extra is not installed: uv sync --extra telemetry"
            ) from error


def start_export() -> None:
    """Starts exporting runs if they are to be exported. The SDK is loaded here, so that no run waits for it.

    Raises ImproperlyConfigured when the extra `telemetry` is not installed.
    """
    global _exporter
    check_export()
    if settings.CLASPER_OTEL_ENDPOINT:
        from apps.agents.engine.spans import RunExporter

        _exporter = RunExporter(settings.CLASPER_OTEL_ENDPOINT, settings.CLASPER_OTEL_HEADERS)


def stop_export() -> None:
    """Sends the runs that are waiting, for a few seconds at most."""
    global _exporter
    exporter, _exporter = _exporter, None
    if exporter is not None:
        exporter.close()


def _count(run: Run, end: TraceEnd) -> None:
    metrics.count_run(run.request.kind, end.status, end.provider, end.duration_ms)
    for step in run.steps:
        if step.type == "llm_call":
            outcome = "ok" if step.status == "ok" else step.code
            metrics.count_model_call(step.provider, outcome, step.prompt_tokens, step.completion_tokens, step.cost)
        elif step.type == "tool_call":
            metrics.count_tool_call(step.status)
