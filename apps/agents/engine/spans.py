"""Ended runs as OpenTelemetry spans, in the terms of its GenAI conventions: ids, names and numbers, never texts.

Imports the SDK, which is an optional extra; import this module only when runs are exported.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from threading import Thread
from time import monotonic
from typing import Any
from uuid import UUID

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

import clasper
from apps.agents.engine.state import Run
from apps.traces.domain.record import Step, TraceEnd
from clasper.core.money import usd
from clasper.core.redaction import redact_text

logger = logging.getLogger("clasper.telemetry")

MAX_WAITING_SPANS = 20_000
"""While the collector is away; then the oldest are lost."""
DELAY_MS = 500
EXPORT_TIMEOUT_SECONDS = 10
CLOSE_SECONDS = 5.0
REPORT_SECONDS = 60.0

_PROVIDERS = {"gemini": "gcp.gemini", "xai": "x_ai", "mistral": "mistral_ai"}
"""Names of the conventions, where they differ from ours."""
_NAME = re.compile(r"[A-Za-z0-9_.:/@-]{1,128}")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SPAN_ID = (1 << 64) - 1
_RESOURCE = Resource.create({"service.name": "clasper", "service.version": clasper.__version__})
_SCOPE = InstrumentationScope("clasper", clasper.__version__)


class RunExporter:
    """Sends ended runs to the collector at `endpoint`, in batches and from a thread of its own."""

    def __init__(self, endpoint: str, headers: Mapping[str, str]) -> None:
        url = endpoint.rstrip("/")
        url = url if url.endswith("/v1/traces") else f"{url}/v1/traces"
        self._processor = BatchSpanProcessor(
            _SpanExporter(endpoint=url, headers=headers, timeout=EXPORT_TIMEOUT_SECONDS),
            max_queue_size=MAX_WAITING_SPANS,
            schedule_delay_millis=DELAY_MS,
        )

    def export(self, run: Run, end: TraceEnd) -> None:
        """Queues the spans of the run; never waits."""
        for span in run_spans(run, end):
            self._processor.on_end(span)

    def close(self) -> None:
        """Sends what is waiting, for a few seconds at most."""
        # The processor itself would wait for up to half a minute.
        closing = Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class _SpanExporter(OTLPSpanExporter):  # type: ignore[misc]  # its types are known only where the extra is installed
    """Reports lost spans once a minute; the SDK would report every failure several times."""

    def __init__(self, **options: Any) -> None:
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        super().__init__(**options)
        self._lost = 0
        self._next_report = 0.0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lost += len(spans)
            if monotonic() >= self._next_report:
                logger.warning("telemetry of runs was lost", extra={"spans": self._lost})
                self._lost, self._next_report = 0, monotonic() + REPORT_SECONDS
        return result


def run_spans(run: Run, end: TraceEnd) -> Iterator[ReadableSpan]:
    """The run's span and one for every model and tool call. Their ids derive from the trace id."""
    request, scope = run.request, run.request.scope
    number = UUID(end.id).int or 1
    context = _context(number, number)
    attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": scope.agent_role,
        "gen_ai.provider.name": _provider(end.provider),
        "gen_ai.request.model": end.model,
        "gen_ai.usage.input_tokens": end.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": end.usage.completion_tokens,
        "clasper.trace_id": end.id,
        "clasper.tenant_id": end.tenant_id,
        "clasper.workspace_id": scope.workspace_id,
        "clasper.environment": scope.environment,
        "clasper.run.kind": request.kind,
        "clasper.run.status": end.status,
        "clasper.cost_usd": usd(end.cost),
    }
    error = "" if end.status == "success" else end.error_code or end.status
    times = _times(request.now, end.duration_ms)
    yield _span(f"invoke_agent {scope.agent_role}", SpanKind.INTERNAL, attributes, error, context=context, **times)
    for step in run.steps:
        inner = {
            "context": _context(number, number + step.seq),
            "parent": context,
            **_times(step.started_at, step.duration_ms),
        }
        if step.type == "llm_call":
            yield _model_span(step, inner)
        elif step.type == "tool_call":
            yield _tool_span(step, inner)


def _model_span(step: Step, common: dict[str, Any]) -> ReadableSpan:
    error = "" if step.status == "ok" else _safe(step.code)
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _provider(step.provider),
        "gen_ai.request.model": step.name,
        "gen_ai.usage.input_tokens": step.prompt_tokens,
        "gen_ai.usage.output_tokens": step.completion_tokens,
        "clasper.attempt": step.attempt,
        "clasper.cost_usd": usd(step.cost),
    }
    if not error and step.code:
        attributes["gen_ai.response.finish_reasons"] = (step.code,)
    return _span(f"chat {step.name}", SpanKind.CLIENT, attributes, error, **common)


def _tool_span(step: Step, common: dict[str, Any]) -> ReadableSpan:
    name = _safe(redact_text(step.name))
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    error = "" if step.status == "ok" else step.status
    return _span(f"execute_tool {name}", SpanKind.INTERNAL, attributes, error, **common)


def _span(name: str, kind: SpanKind, attributes: dict[str, Any], error: str, **common: Any) -> ReadableSpan:
    if error:
        attributes["error.type"] = error
    status = Status(StatusCode.ERROR if error else StatusCode.UNSET)
    return ReadableSpan(
        name,
        kind=kind,
        attributes=attributes,
        status=status,
        resource=_RESOURCE,
        instrumentation_scope=_SCOPE,
        **common,
    )


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id & _SPAN_ID or 1, is_remote=False, trace_flags=_SAMPLED)


def _times(started_at: datetime, duration_ms: int) -> dict[str, int]:
    started = round(started_at.timestamp() * 1000)
    return {"start_time": started * 1_000_000, "end_time": (started + duration_ms) * 1_000_000}


def _provider(name: str) -> str:
    return _PROVIDERS.get(name, name)


def _safe(name: str) -> str:
    """The name if it looks like one; models invent tools, whose names may be any text."""
    return name if _NAME.fullmatch(name) else "unnamed"
