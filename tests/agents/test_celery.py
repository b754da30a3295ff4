"""A real Celery worker on a real Redis does what the in-process worker does."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from fakes.llm import FakeProvider, silence
from tests.agents.backend import MESSAGES, Backend, Receiver, answers
from tests.agents.processes import Installation, free_port, wait_until
from tests.conftest import run
from tests.world import Server

WITHIN = 20.0


@pytest.fixture
def backend() -> Iterator[Backend]:
    found = Backend.start()
    yield found
    found.close()


@pytest.fixture
def installation(
    store: None, tmp_path: Path, workspace: Path, provider: FakeProvider, backend: Backend
) -> Iterator[Installation]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    broker = f"redis://127.0.0.1:{free_port()}/0"
    found = Installation.create(
        tmp_path,
        workspace,
        CELERY_BROKER_URL=broker,
        LLM_PROVIDER="openai",
        OPENAI_API_KEY="test-key",
        OPENAI_BASE_URL=provider.url,
        BACKEND_URL=backend.url,
        CLASPER_URL_ALLOWLIST="127.0.0.1",
        CLASPER_RUN_TIMEOUT_MS="1000",
    )
    port = broker.rpartition(":")[2].removesuffix("/0")
    found.run(program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    client = redis.Redis.from_url(broker)
    wait_until(lambda: answers_ping(client), within=10, what="Redis")
    client.close()
    yield found
    found.kill()


def answers_ping(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.slow
def test_a_worker_delivers_and_sweeps(
    installation: Installation, provider: FakeProvider, backend: Backend, receiver: Receiver, tmp_path: Path
) -> None:
    schedule = str(tmp_path / "schedule")
    installation.spawn("-m", "celery", "-A", "clasper", "worker", "--beat", "--pool", "solo", "--schedule", schedule)
    server = installation.serve()
    serving = installation.processes[-1]
    server.set_budget(limit=1)
    number = installation.number

    backend.on(MESSAGES, answers(404))
    response = server.send("Hello", webhook={"url": receiver.url})
    assert response.status_code == 502
    backend.on(MESSAGES)
    kept = "SELECT COUNT(*) FROM outbox WHERE status <> 'delivered'"
    wait_until(lambda: number(kept) == 0, within=WITHIN, what="the deliveries")
    assert len(backend.messages) == 1
    assert len(receiver.received) == 1
    assert server.trace(response.json()["trace_id"])["message_id"] == backend.messages[0]["id"]

    provider.script(silence(60))
    client = threading.Thread(target=doomed, args=(server,))
    client.start()
    run(provider.arrived(2))
    serving.send_signal(signal.SIGKILL)
    client.join()
    wait_until(
        lambda: number("SELECT COUNT(*) FROM traces WHERE status = 'running'") == 0, within=WITHIN, what="the sweep"
    )
    ((code,),) = installation.query("SELECT error_code FROM traces WHERE status = 'error'")
    assert code == "interrupted"
    assert number("SELECT COUNT(*) FROM budget_holds") == 0
    assert number("SELECT reserved FROM tenant_budgets") == 0
    assert number("SELECT COUNT(*) FROM audit_log WHERE event_type = 'run.swept'") == 1


def doomed(server: Server) -> None:
    with pytest.raises(httpx.TransportError):
        server.send("Hello again")
