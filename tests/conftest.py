"""The one named world of the tests: tenants *acme* and *globex* (the stranger), loopback sockets only.

`store` is the real database, `server` the real application on a real port, `provider` a model provider that speaks the
wire format and does what a test scripts.
"""

from __future__ import annotations

import os

# Before Django reads its settings: the tests never inherit the developer's own configuration.
for _name in list(os.environ):
    _ours = _name.startswith(("CLASPER_", "LLM_", "AGENT_", "BACKEND_")) or _name.endswith(("_API_KEY", "_BASE_URL"))
    if (_ours or _name.startswith("OPENAI_")) and _name != "CLASPER_RECORDINGS":
        del os.environ[_name]
os.environ["CLASPER_ENV"] = "test"

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn
from django.apps import apps
from django.conf import settings as django_settings
from django.db import connection
from django.test.utils import setup_databases, teardown_databases
from django.urls import get_resolver
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from apps.traces.services.retention import demanding
from apps.workspaces.services.snapshots import forget_known
from clasper.core.db import writer
from clasper.core.tables import AppendOnlyModel, AppendOnlyTrigger
from clasper.gateways.http import close_session
from fakes.llm import FakeChat, FakeProvider
from tests.world import DAEMON_KEY, Server

# Examples are few and small; what is slow is a busy machine.
hypothesis_settings.register_profile("clasper", suppress_health_check=[HealthCheck.too_slow], deadline=None)
hypothesis_settings.load_profile("clasper")

NOW = datetime(2026, 2, 10, 12, 0, 0, tzinfo=UTC)

T = TypeVar("T")


@pytest.fixture(scope="session")
def django_db_setup(django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """Creates the test database, a file on SQLite: the run path writes from a connection of its own.

    pytest-django's own fixture creates none unless a test carries its mark, and `store` would then empty the
    developer's database.
    """
    database = django_settings.DATABASES["default"]
    database["CONN_MAX_AGE"] = 0
    if database["ENGINE"].endswith("sqlite3"):
        database["TEST"]["NAME"] = str(tmp_path_factory.mktemp("db") / "test.db")
    else:
        database["TEST"]["NAME"] = f"test_clasper_{worker_id}"
    with django_db_blocker.unblock():
        old = setup_databases(verbosity=0, interactive=False)
    yield
    with django_db_blocker.unblock():
        teardown_databases(old, verbosity=0)


@pytest.fixture
def now() -> datetime:
    """A Tuesday noon in the middle of a month, away from every period's edge."""
    return NOW


@pytest.fixture
def store(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The real database, committed to by everybody and emptied afterwards.

    Transactions that roll back (pytest-django's `db`) would hide the rows from the run path, which writes from a
    connection of its own.
    """
    with django_db_blocker.unblock():
        forget_known()
        demanding.forget()
        yield
        writer.close()
        empty_database()
        connection.close()


def empty_database() -> None:
    """Deletes every row of every table of ours, lifting the append-only triggers meanwhile."""
    models = [model for model in apps.get_models() if model.__module__.startswith("apps.")]
    guarded = [AppendOnlyTrigger(m._meta.db_table) for m in models if issubclass(m, AppendOnlyModel)]
    with connection.cursor() as cursor:
        for trigger in guarded:
            for statement in trigger.drop(connection.vendor):
                cursor.execute(statement)
        for model in models:
            cursor.execute(f"DELETE FROM {model._meta.db_table}")
        for trigger in guarded:
            for statement in trigger.create(connection.vendor):
                cursor.execute(statement)


@pytest.fixture(scope="session")
def _served() -> Iterator[str]:
    """The application in a thread of this process, without its background worker: tests do that work when they mean
    it. Gives the URL."""
    from clasper.asgi import application

    # Routes are read once: now, with the embedded control plane's among them, before a test names a backend.
    assert get_resolver().url_patterns
    config = uvicorn.Config(
        application, port=0, lifespan="off", loop="uvloop", http="httptools", ws="none", log_config=None
    )
    server = uvicorn.Server(config)
    started = threading.Event()

    async def serve() -> None:
        task = asyncio.ensure_future(server.serve())
        while not server.started:  # noqa: ASYNC110  uvicorn offers no event to wait for
            await asyncio.sleep(0.01)
        started.set()
        await task
        await close_session()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="test-server", daemon=True)
    thread.start()
    assert started.wait(10), "the server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A small workspace: rules, a soul, a skill that grants `orders:lookup` and one that grants nothing."""
    files = {
        "SOUL.md": "You are the support agent of a small shop.",
        "AGENTS.md": "Answer briefly. Never invent facts.",
        "MEMORY.md": "Customers like short answers.",
        "skills/orders/SKILL.md": (
            "---\nname: orders\nversion: 1.0.0\ndescription: Finds orders.\n"
            "metadata:\n  clasper:\n    tools: [orders:lookup]\n---\nLook the order up first.\n"
        ),
        "skills/tone/SKILL.md": "---\nname: tone\nversion: 2.1.0\ndescription: How we write.\n---\nWrite plainly.\n",
    }
    root = tmp_path / "workspace"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def server(store: None, _served: str, workspace: Path, settings: Any) -> Server:
    """The running application with a daemon key, the offline model and its embedded control plane."""
    settings.AGENT_DAEMON_API_KEY = DAEMON_KEY
    settings.CLASPER_WORKSPACE = workspace
    settings.CLASPER_PORT = int(_served.rpartition(":")[2])
    settings.CLASPER_RETRY_DELAY_MS = 1
    settings.CLASPER_OUTBOX_RETRY_MS = 1
    settings.LLM_PROVIDER = "offline"
    return Server(_served)


@pytest.fixture
def provider(settings: Any) -> Iterator[FakeProvider]:
    """A model provider on a real socket, configured as the OpenAI host; the model is gpt-4o-mini."""
    fake = FakeProvider.start(FakeChat())
    settings.OPENAI_API_KEY = "test-key"
    settings.OPENAI_BASE_URL = fake.url
    yield fake
    fake.close()


@pytest.fixture
def openai(server: Server, provider: FakeProvider, settings: Any) -> FakeProvider:
    """The server asks `provider` instead of the offline model."""
    settings.LLM_PROVIDER = "openai"
    return provider


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs async work to its end on a loop of its own, and leaves no session behind."""

    async def whole() -> T:
        try:
            return await work
        finally:
            await close_session()

    return asyncio.run(whole())
