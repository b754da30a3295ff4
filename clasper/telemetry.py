"""Runs as OpenTelemetry traces, in the terms of its GenAI conventions: ids, names and numbers, never texts.

An ended run is put into a bounded queue; a thread makes spans of it and sends them. Nothing here can hold up or fail a
run. Needs the extra `telemetry`; off while CLASPER_OTEL_ENDPOINT is empty.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

import clasper
from clasper.core.money import usd

logger = logging.getLogger("clasper.telemetry")

MAX_WAITING = 10_000
"""Runs that wait to be sent; when the collector takes none, later ones are lost."""
MAX_TOGETHER = 200
TIMEOUT_SECONDS = 10
COMPLAIN_SECONDS = 60.0
CLOSE_SECONDS = 5.0

_PROVIDERS = {"gemini": "gcp.gemini", "xai": "x_ai", "mistral": "mistral_ai"}
"""Names of the conventions, where they are not ours."""
_NAME = re.compile(r"[A-Za-z0-9_.:/@-]{1,128}")
_SPAN_ID = (1 << 64) - 1


class StepFacts(Protocol):
    """What is told of a step of a run; of `Step` in the traces."""

    @property
    def seq(self) -> int: ...
    @property
    def type(self) -> Any: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def duration_ms(self) -> int: ...
    @property
    def provider(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cost(self) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """An ended run. `cost` in nano-USD."""

    trace_id: str
    tenant_id: str
    workspace_id: str
    environment: str
    role: str
    kind: str
    status: str
    code: str
    provider: str
    model: str
    started_at: datetime
    duration_ms: int
    prompt_tokens: int
    completion_tokens: int
    cost: int
    steps: Sequence[StepFacts]


class Exporter:
    """The queue and the thread behind it."""

    def __init__(self, endpoint: str, headers: dict[str, str]) -> None:
        self._sdk = _load(endpoint, headers)
        self._waiting: queue.Queue[RunFacts | None] = queue.Queue(MAX_WAITING)
        self._lost = 0
        self._complained = -COMPLAIN_SECONDS
        self._thread = threading.Thread(target=self._run, name="clasper-telemetry", daemon=True)
        self._thread.start()

    def put(self, run: RunFacts) -> None:
        """Queues a run; returns at once."""
        try:
            self._waiting.put_nowait(run)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Sends what waits, for a few seconds at most."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        last = False
        while not last:
            runs = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(runs) < MAX_TOGETHER:
                    runs.append(self._waiting.get_nowait())
            last = None in runs
            self._send([run for run in runs if run is not None])

    def _send(self, runs: list[RunFacts]) -> None:
        if not runs:
            return
        try:
            sent = self._sdk.send([span for run in runs for span in self._sdk.spans(run)])
        except Exception as error:
            self._complain(len(runs), type(error).__name__)
        else:
            if not sent:
                self._complain(len(runs), "the collector did not take them")

    def _complain(self, lost: int, reason: str) -> None:
        self._lost += lost
        if time.monotonic() - self._complained >= COMPLAIN_SECONDS:
            logger.warning("telemetry of runs was lost", extra={"runs": self._lost, "reason": reason})
            self._complained, self._lost = time.monotonic(), 0


def enabled() -> bool:
    """Whether runs are to be exported."""
    return bool(settings.CLASPER_OTEL_ENDPOINT)


def check() -> None:
    """Raises ImproperlyConfigured when runs are to be exported and the extra is not installed."""
    if enabled():
        _load(settings.CLASPER_OTEL_ENDPOINT, settings.CLASPER_OTEL_HEADERS)


def start() -> None:
    """Loads what exporting takes, so that no run waits for it, if runs are to be exported.

    Raises ImproperlyConfigured when the extra is not installed.
    """
    if enabled():
        _running()


def export(run: RunFacts) -> None:
    """Has an ended run exported in the background."""
    _running().put(run)


def close() -> None:
    """Sends what waits and ends the thread."""
    global _exporter
    exporter, _exporter = _exporter, None
    if exporter is not None:
        exporter.close()


_exporter: Exporter | None = None
_starting = threading.Lock()


def _running() -> Exporter:
    global _exporter
    with _starting:
        if _exporter is None:
            _exporter = Exporter(settings.CLASPER_OTEL_ENDPOINT, settings.CLASPER_OTEL_HEADERS)
        return _exporter


def _load(endpoint: str, headers: dict[str, str]) -> _Sdk:
    try:
        return _Sdk(endpoint, headers)
    except ImportError as error:
        raise ImproperlyConfigured(
            "CLASPER_OTEL_ENDPOINT is set, but the extra is not installed: uv sync --extra telemetry"
        ) from error


class _Sdk:
    """OpenTelemetry's own types, imported only where they are wanted."""

    def __init__(self, endpoint: str, headers: dict[str, str]) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        # It reports each failure by itself, several times over; ours is enough.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        url = endpoint.rstrip("/")
        url = url if url.endswith("/v1/traces") else f"{url}/v1/traces"
        self._api: Any = trace
        self._span: Any = ReadableSpan
        self._success: Any = SpanExportResult.SUCCESS
        self._exporter: Any = OTLPSpanExporter(endpoint=url, headers=headers, timeout=TIMEOUT_SECONDS)
        named = {"service.name": "clasper", "service.version": clasper.__version__}
        self._common: dict[str, Any] = {
            "resource": Resource.create(named),
            "instrumentation_scope": InstrumentationScope("clasper", clasper.__version__),
        }

    def send(self, spans: Sequence[Any]) -> bool:
        """Sends the spans; whether they were taken."""
        return bool(self._exporter.export(spans) == self._success)

    def spans(self, run: RunFacts) -> list[Any]:
        """The run's span and one for each model and tool call. Ids derive from the run's own."""
        number = UUID(run.trace_id).int or 1
        root = self._context(number, number)
        calls = [step for step in run.steps if step.type in ("llm_call", "tool_call")]
        inner = [self._step_span(step, self._context(number, number + step.seq), root) for step in calls]
        return [self._run_span(run, root), *inner]

    def _context(self, trace_id: int, span_id: int) -> Any:
        sampled = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        return self._api.SpanContext(trace_id, span_id & _SPAN_ID or 1, is_remote=False, trace_flags=sampled)

    def _run_span(self, run: RunFacts, context: Any) -> Any:
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": run.role,
            "gen_ai.provider.name": _provider(run.provider),
            "gen_ai.request.model": run.model,
            "gen_ai.usage.input_tokens": run.prompt_tokens,
            "gen_ai.usage.output_tokens": run.completion_tokens,
            "clasper.trace_id": run.trace_id,
            "clasper.tenant_id": run.tenant_id,
            "clasper.workspace_id": run.workspace_id,
            "clasper.environment": run.environment,
            "clasper.run.kind": run.kind,
            "clasper.run.status": run.status,
            "clasper.cost_usd": usd(run.cost),
        }
        error = "" if run.status == "success" else run.code or run.status
        return self._made(f"invoke_agent {run.role}", context, None, "INTERNAL", attributes, run, error)

    def _step_span(self, step: StepFacts, context: Any, parent: Any) -> Any:
        error = "" if step.status == "ok" else (_safe(step.code) if step.type == "llm_call" else step.status)
        if step.type == "tool_call":
            name = _safe(step.name)
            attributes: dict[str, Any] = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
            return self._made(f"execute_tool {name}", context, parent, "INTERNAL", attributes, step, error)
        attributes = {
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
        return self._made(f"chat {step.name}", context, parent, "CLIENT", attributes, step, error)

    def _made(
        self,
        name: str,
        context: Any,
        parent: Any,
        kind: str,
        attributes: dict[str, Any],
        timed: RunFacts | StepFacts,
        error: str,
    ) -> Any:
        if error:
            attributes["error.type"] = error
        started = round(timed.started_at.timestamp() * 1000) * 1_000_000
        return self._span(
            name,
            context=context,
            parent=parent,
            kind=self._api.SpanKind[kind],
            attributes=attributes,
            status=self._api.Status(self._api.StatusCode.ERROR if error else self._api.StatusCode.UNSET),
            start_time=started,
            end_time=started + timed.duration_ms * 1_000_000,
            **self._common,
        )


def _provider(name: str) -> str:
    return _PROVIDERS.get(name, name)


def _safe(name: str) -> str:
    """The name, unless somebody made a text of it: models invent tools."""
    return name if _NAME.fullmatch(name) else "unnamed"
