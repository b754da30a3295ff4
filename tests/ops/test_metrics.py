"""`GET /metrics`: what is counted, for whom, and that it adds up over worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from apps.agents.delivery import backlog
from apps.traces.services import in_flight
from clasper import metrics
from fakes.llm import FakeProvider, error
from tests.agents.processes import Installation, wait_until
from tests.world import ACME, DAEMON_KEY, USER, Server, tenant_key

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

RUNS = "clasper_runs_total"


def read(text: str) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series.get((name, frozenset(labels.items())), 0.0)


def total(series: Series, name: str) -> float:
    return sum(number for (each, _), number in series.items() if each == name)


def scrape(server: Server) -> Series:
    response = server.get("/metrics")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == metrics.CONTENT_TYPE
    return read(response.text)


def test_a_run_is_counted_once_with_what_it_used(server: Server, openai: FakeProvider) -> None:
    before = scrape(server)
    answer = server.send().json()
    after = scrape(server)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown(RUNS, kind="send", status="success", provider="openai") == 1
    assert grown("clasper_run_duration_seconds_count", kind="send", status="success") == 1
    assert grown("clasper_run_duration_seconds_bucket", kind="send", status="success", le="+Inf") == 1
    assert grown("clasper_model_calls_total", provider="openai", outcome="ok") == 1
    assert grown("clasper_tokens_total", provider="openai", direction="input") == answer["usage"]["prompt_tokens"]
    assert grown("clasper_tokens_total", provider="openai", direction="output") == answer["usage"]["completion_tokens"]
    assert grown("clasper_cost_usd_total", provider="openai") == pytest.approx(answer["cost"]["totalCost"])


def test_attempts_that_failed_are_counted_by_their_reason(server: Server, openai: FakeProvider) -> None:
    openai.script(error(503), error(503), error(503))
    before = scrape(server)
    assert server.send().status_code == 502
    after = scrape(server)
    name, failed = "clasper_model_calls_total", {"provider": "openai", "outcome": "unavailable"}
    assert value(after, name, **failed) - value(before, name, **failed) == 3
    run = {"kind": "send", "status": "error", "provider": "openai"}
    assert value(after, RUNS, **run) - value(before, RUNS, **run) == 1


def test_tools_of_earlier_rounds_are_counted_too(server: Server) -> None:
    before = scrape(server)
    assert server.send('Use tool orders:lookup {"order_id": "ORD-1002"} please.').status_code == 200
    assert server.send('Use tool orders:refund {"order_id": "ORD-1002"} please.').status_code == 200
    after = scrape(server)
    for status in ("ok", "denied"):
        grown = value(after, "clasper_tool_calls_total", status=status)
        assert grown - value(before, "clasper_tool_calls_total", status=status) == 1, status
    calls = "clasper_model_calls_total"
    assert total(after, calls) - total(before, calls) == 4


def test_refused_before_admission_is_no_run(server: Server) -> None:
    before = scrape(server)
    assert server.post("/api/agents/send", {}).status_code == 400
    assert total(scrape(server), RUNS) == total(before, RUNS)


def test_the_backlog_is_shown(server: Server) -> None:
    assert total(scrape(server), "clasper_outbox_pending") == 0
    rows = [("d1", "pending"), ("d2", "dead"), ("d3", "dead"), ("d4", "delivered"), ("d5", "held")]
    with connection.cursor() as cursor:
        for name, status in rows:
            cursor.execute(
                "INSERT INTO outbox (id, tenant_id, trace_id, kind, position, status, attempts, created_at,"
                " next_attempt_at, last_error, sealed) VALUES (%s, 'acme', %s, 'message', 1, %s, 0,"
                " '2026-02-10 12:00:00+00:00', '2026-02-10 12:00:00+00:00', '', %s)",
                [name, name, status, b""],
            )
    series = scrape(server)
    assert total(series, "clasper_outbox_pending") == 1
    assert total(series, "clasper_outbox_dead") == 2
    assert total(series, "clasper_runs_in_flight") == 0


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (backlog._PENDING, "outbox_due"),
        (backlog._DEAD, "outbox_dead"),
        (in_flight._RUNNING, "traces_running"),
    ],
    ids=["pending", "dead", "in flight"],
)
def test_gauges_read_only_what_they_count(query: str, index: str, store: None) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("other planners choose by statistics")
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {query}")
        plan = str(cursor.fetchall())
    assert index in plan


def test_an_open_circuit_is_shown(server: Server, openai: FakeProvider, settings: Any) -> None:
    settings.CLASPER_CIRCUIT_FAILURES = 2
    assert value(scrape(server), "clasper_circuit_open", provider="openai") == 0
    openai.script(error(503), error(503), error(503))
    server.send()
    assert value(scrape(server), "clasper_circuit_open", provider="openai") == 1


def test_no_label_names_a_tenant_a_user_a_model_or_a_tool(server: Server, openai: FakeProvider) -> None:
    server.send()
    text = server.get("/metrics").text
    allowed = {"kind", "status", "provider", "direction", "outcome", "le"}
    families = [each for each in text_string_to_metric_families(text) if each.name.startswith("clasper_")]
    assert {label for family in families for sample in family.samples for label in sample.labels} <= allowed
    for secret in (ACME, USER, "gpt-4o-mini", "support"):
        assert secret not in text


def test_the_process_is_shown(server: Server) -> None:
    assert value(scrape(server), "process_resident_memory_bytes") > 1_000_000


@pytest.mark.parametrize("scopes", ["*", "governance:read"])
def test_a_tenant_may_not_read_it(scopes: str, server: Server) -> None:
    response = server.get("/metrics", key=tenant_key(ACME, scopes))
    assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
    (denial,) = server.audit(tenant_id=ACME, event_type="permission.denied")
    assert denial["details"] == {"permission": "tenant", "route": "GET /metrics"}


@pytest.fixture
def workers(store: None, tmp_path: Path, workspace: Path) -> Iterator[Installation]:
    installation = Installation.create(tmp_path, workspace)
    yield installation
    installation.kill()


def test_a_worker_that_stops_has_written_what_it_counted(workers: Installation, tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    workers.environment["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    server = workers.serve()
    for _ in range(3):
        assert server.send().status_code == 200
    (process,) = workers.processes
    process.terminate()
    process.wait(20)
    summed = CollectorRegistry()
    MultiProcessCollector(summed, path=str(directory))  # type: ignore[no-untyped-call]
    assert value(read(generate_latest(summed).decode()), RUNS, kind="send", status="success", provider="offline") == 3


def test_workers_count_together(workers: Installation) -> None:
    workers.spawn("manage.py", "serve", "--port", str(workers.port), "--workers", "2")
    server = Server(f"http://127.0.0.1:{workers.port}")

    def answers() -> bool:
        try:
            return httpx.get(f"{server.url}/health/live", timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers, within=30, what="the first answer")
    headers = {"X-Agent-Daemon-Key": DAEMON_KEY}
    for _ in range(30):
        assert server.send().status_code == 200

    series = read(httpx.get(f"{server.url}/metrics", headers=headers).text)
    assert value(series, RUNS, kind="send", status="success", provider="offline") == 30
    assert value(series, "clasper_runs_in_flight") == 0
    assert value(series, "process_resident_memory_bytes") > 1_000_000
