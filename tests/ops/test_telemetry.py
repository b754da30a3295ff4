"""Runs as OpenTelemetry spans, received by a collector of our own on a real socket."""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ImproperlyConfigured

from apps.agents.engine import observe
from fakes.llm import FakeProvider, error, reply, tool_calls
from tests.agents.canaries import Canaries
from tests.agents.processes import ROOT, Installation
from tests.world import ACME, Server

service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra telemetry is not installed"
)
pytest.importorskip("opentelemetry.sdk", reason="the extra telemetry is not installed")


class Collector:
    """Takes spans over OTLP/HTTP, or answers `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.requests: queue.Queue[tuple[str, dict[str, str], bytes]] = queue.Queue()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.put((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spans(self) -> list[Any]:
        """The spans of the next request."""
        path, headers, body = self.requests.get(timeout=10)
        assert path == "/v1/traces"
        assert headers["content-type"] == "application/x-protobuf"
        sent = service.ExportTraceServiceRequest.FromString(body)
        return [span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans]


@pytest.fixture
def collector(settings: Any) -> Iterator[Collector]:
    made = Collector()
    settings.CLASPER_OTEL_ENDPOINT = made.url
    settings.CLASPER_OTEL_HEADERS = {"X-Team": "support"}
    observe.start_export()
    yield made
    observe.stop_export()
    made.close()


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


SECRET = "the vault is behind the painting"


def test_a_run_is_a_trace(server: Server, openai: FakeProvider, collector: Collector) -> None:
    answer = server.send(SECRET).json()
    agent, chat = collector.spans()
    trace_id = UUID(answer["trace_id"])
    assert agent.trace_id == chat.trace_id == trace_id.bytes
    assert chat.parent_span_id == agent.span_id != chat.span_id
    assert not agent.parent_span_id
    assert (agent.name, chat.name) == ("invoke_agent support", "chat gpt-4o-mini")
    assert (agent.kind, chat.kind) == (1, 3), "internal, client"
    assert agent.status.code == chat.status.code == 0
    usage = {
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": answer["usage"]["completion_tokens"],
    }
    named = {"gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o-mini"}
    cost = {"clasper.cost_usd": pytest.approx(answer["cost"]["totalCost"])}
    assert attributes(agent) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "support",
        "clasper.trace_id": answer["trace_id"],
        "clasper.tenant_id": ACME,
        "clasper.workspace_id": "default",
        "clasper.environment": "default",
        "clasper.run.kind": "send",
        "clasper.run.status": "success",
        **named,
        **usage,
        **cost,
    }
    found = attributes(chat)
    assert found.pop("gen_ai.response.finish_reasons") == ["stop"]
    assert found == {"gen_ai.operation.name": "chat", "clasper.attempt": 1, **named, **usage, **cost}
    assert agent.start_time_unix_nano <= chat.start_time_unix_nano <= chat.end_time_unix_nano
    trace = server.trace(answer["trace_id"])
    assert agent.end_time_unix_nano - agent.start_time_unix_nano == trace["duration_ms"] * 1_000_000


def test_tools_are_spans_and_no_text_leaves(server: Server, collector: Collector) -> None:
    server.send(f'{SECRET}. Use tool orders:lookup {{"order_id": "ORD-1002"}} please.')
    spans = collector.spans()
    assert [span.name for span in spans][1:] == [spans[1].name, "execute_tool orders:lookup", spans[1].name]
    assert attributes(spans[2]) == {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "orders:lookup"}
    assert len({span.span_id for span in spans}) == 4
    text = b"".join(span.SerializeToString() for span in spans)
    for secret in (SECRET, "ORD-1002", "small shop"):
        assert secret.encode() not in text


def test_a_text_in_place_of_a_tools_name_does_not_leave() -> None:
    from apps.agents.engine.spans import _safe

    assert _safe(SECRET) == "unnamed"
    assert _safe("orders:lookup") == "orders:lookup"


def test_personal_data_and_secrets_do_not_leave(server: Server, openai: FakeProvider, collector: Collector) -> None:
    """Neither in texts nor where a name is expected: models invent tools, hosts say whatever they like."""
    canaries = Canaries()
    key = canaries.text("tool", "key").rpartition(" ")[2]
    openai.script(
        tool_calls((key, "{}"), (canaries.name("tool"), json.dumps({"to": canaries.text("arguments")}))),
        error(503, message=canaries.text("fault"), code=canaries.name("code")),
        reply(canaries.text("answer"), model=canaries.name("model")),
    )
    metadata = {"system_prompt": canaries.text("prompt")}
    headers = {"X-Trace-Id": canaries.text("label"), "Idempotency-Key": canaries.name("idempotency")}
    answer = server.send(
        canaries.text("message"), task_title=canaries.text("title"), metadata=metadata, headers=headers
    )
    assert answer.status_code == 200, answer.text
    spans = collector.spans()
    assert [span.name for span in spans].count("execute_tool unnamed") == 2
    assert canaries.found_in(" ".join(map(str, spans))) == []
    assert canaries.found_in(b"".join(span.SerializeToString() for span in spans).decode("latin-1")) == []


def test_a_failure_says_of_what_kind(server: Server, openai: FakeProvider, collector: Collector) -> None:
    openai.script(error(503), error(503), error(503))
    assert server.send().status_code == 502
    agent, *chats = collector.spans()
    assert agent.status.code == 2
    assert not agent.status.message
    assert attributes(agent)["error.type"] == "provider_error"
    assert attributes(agent)["clasper.run.status"] == "error"
    assert [attributes(chat)["clasper.attempt"] for chat in chats] == [1, 2, 3]
    assert {attributes(chat)["error.type"] for chat in chats} == {"unavailable"}
    assert {chat.status.code for chat in chats} == {2}


def test_headers_are_sent(server: Server, collector: Collector) -> None:
    server.send()
    _, headers, _ = collector.requests.get(timeout=10)
    assert headers["x-team"] == "support"


def test_a_collector_that_refuses_harms_no_run_and_is_reported_once(
    server: Server, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 400
    for _ in range(3):
        assert server.send().status_code == 200
        collector.requests.get(timeout=10)
    observe.stop_export()
    lines = [record for record in caplog.records if record.name == "clasper.telemetry"]
    assert [line.getMessage() for line in lines] == ["telemetry of runs was lost"]
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


def test_a_collector_that_hangs_delays_neither_a_run_nor_the_stop(
    server: Server, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.agents.engine.spans.CLOSE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.CLASPER_OTEL_ENDPOINT = f"http://127.0.0.1:{silent.getsockname()[1]}"
        observe.start_export()
        assert server.send().status_code == 200
        began = time.monotonic()
        observe.stop_export()
        assert time.monotonic() - began < 2


def test_it_is_off_without_an_endpoint(server: Server) -> None:
    observe.start_export()
    server.send()
    assert observe._exporter is None


START = """
import asyncio, sys
from clasper.asgi import application

async def send(message):
    print(message["type"], "opentelemetry.sdk.trace" in sys.modules)

async def main():
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    async def receive():
        return {"type": next(messages)}
    await application({"type": "lifespan"}, receive, send)

asyncio.run(main())
"""


def test_no_run_waits_for_the_sdk_to_load(store: None, tmp_path: Path, workspace: Path) -> None:
    """Every worker process starts by itself: what the command has loaded is not there."""
    installation = Installation.create(tmp_path, workspace, CLASPER_OTEL_ENDPOINT="http://127.0.0.1:4318")
    command = [sys.executable, "-c", START]
    told = subprocess.run(command, cwd=ROOT, env=installation.environment, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[0] == "lifespan.startup.complete True"


def test_a_missing_extra_stops_the_start(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CLASPER_OTEL_ENDPOINT = "http://127.0.0.1:4318"
    observe.check_export()
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "apps.agents.engine.spans")
    monkeypatch.delattr("apps.agents.engine.spans")
    with pytest.raises(ImproperlyConfigured, match="telemetry"):
        observe.check_export()
