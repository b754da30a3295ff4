"""A database of version 1.1 keeps its data: migrations carry it over, and what was sealed is still read."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from apps.agents.delivery.idempotency import open_result
from apps.agents.domain.responses import CompactResponse, SendResponse, TaskResponse
from apps.audit.services.reading import verify_chain
from apps.governance.models import BudgetHold, DailyUsage
from apps.identity.services.authentication import authenticate
from apps.identity.services.keys import create_api_key
from apps.traces.models import Trace
from apps.workspaces.services.snapshots import load_files
from clasper.core.crypto import seal
from clasper.core.errors import NotFound
from tests.conftest import NOW
from tests.world import ACME

VERSION_1_1 = [
    ("governance", "0003_audit_counts_and_actor"),
    ("workspaces", "0001_initial"),
    ("traces", "0004_labels_by_time"),
    ("agents", "0002_outbox_dead"),
]
HASH = "sha256:" + "0" * 64
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
COST = {
    "model": "m-1",
    "inputTokens": 7,
    "outputTokens": 5,
    "inputCost": 0.000000007,
    "outputCost": 0.00001,
    "totalCost": 0.000010007,
    "currency": "USD",
}


@pytest.fixture
def version_1_1(store: None) -> Iterator[MigrationExecutor]:
    """The tables as version 1.1 had them; upgraded again in any case."""
    MigrationExecutor(connection).migrate(VERSION_1_1)
    executor = MigrationExecutor(connection)
    yield executor
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


def test_rows_survive_the_upgrade(version_1_1: MigrationExecutor) -> None:
    key = create_api_key(tenant_id=ACME, name="", scopes=["traces:read"], actor="user:a", now=NOW)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO workspace_files (digest, content) VALUES ('d', %s)", (b"Be kind.",))
        cursor.execute(
            "INSERT INTO workspace_contents (hash, created_at, files) VALUES (%s, %s, %s)",
            (HASH, NOW, '{"SOUL.md": "d"}'),
        )
        cursor.execute(
            "INSERT INTO budget_holds (run_id, tenant_id, amount, lease_until) VALUES ('r', %s, 5, %s)", (ACME, NOW)
        )
        cursor.execute(
            "INSERT INTO spend_days (tenant_id, day, requests, input_tokens, output_tokens, cost)"
            " VALUES (%s, %s, 1, 2, 3, 4)",
            (ACME, NOW.date()),
        )
    ContentType.objects.filter(app_label="identity", model="apikey").delete()
    old = ContentType.objects.update_or_create(app_label="governance", model="apikey")[0]
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())
    assert ContentType.objects.get(app_label="identity", model="apikey").pk == old.pk, "staff keep their permissions"
    assert load_files(HASH, tenant_id=ACME) == {"SOUL.md": b"Be kind."}
    assert [(hold.trace_id, hold.amount) for hold in BudgetHold.objects.all()] == [("r", 5)]
    assert [(day.tenant_id, day.cost) for day in DailyUsage.objects.all()] == [(ACME, 4)]
    assert authenticate({"authorization": f"Bearer {key.key}"}, now=NOW).actor == f"key:{key.id}"
    assert verify_chain(tenant_id=ACME).valid
    assert not Trace.objects.filter(snapshot_hash=HASH).exists()


def test_a_snapshot_of_another_tenant_is_not_found(store: None) -> None:
    with connection.cursor() as cursor:
        for owner in ("globex", ""):
            cursor.execute(
                "INSERT INTO workspace_snapshots (tenant_id, hash, created_at, files) VALUES (%s, %s, %s, '{}')",
                (owner, HASH if owner else "sha256:shared", NOW),
            )
    assert load_files(HASH, tenant_id="globex") == {}
    assert load_files("sha256:shared", tenant_id=ACME) == {}
    with pytest.raises(NotFound):
        load_files(HASH, tenant_id=ACME)


def sealed(body: dict[str, object]) -> bytes:
    return seal(msgspec.json.encode(body), key=settings.SEALING_KEY, bound_to=f"response:{ACME}:t")


@pytest.mark.parametrize(
    "body",
    [
        {"status": "ok", "task_id": "task", "trace_id": "t", "response": "Hi.", "usage": USAGE, "cost": COST},
        {
            "status": "ok",
            "task_id": None,
            "trace_id": "t",
            "response": "Hi.",
            "usage": USAGE,
            "cost": COST,
            "context_warning": "Full.",
            "skipped_backend": True,
        },
    ],
)
def test_an_answer_that_version_1_1_stored_is_returned_again(body: dict[str, object]) -> None:
    result = open_result(sealed(body), tenant_id=ACME, trace_id="t")
    assert msgspec.to_builtins(SendResponse.of(result)) == body


def test_structured_answers_that_version_1_1_stored_are_returned_again() -> None:
    errors = [{"path": "$", "message": "wrong"}]
    body = {"status": "ok", "output": {"a": 1}, "usage": USAGE, "cost": COST, "validated": False, "trace_id": "t"}
    for stored in (body, {**body, "validation_errors": errors}):
        result = open_result(sealed(stored), tenant_id=ACME, trace_id="t")
        assert msgspec.to_builtins(TaskResponse.of(result)) == stored


def test_summaries_that_version_1_1_stored_are_returned_again() -> None:
    turns = [
        {"role": "system", "content": "[Previous conversation summary]\nSo far."},
        {"role": "user", "content": "Hi."},
    ]
    body = {
        "status": "ok",
        "compacted_messages": turns,
        "usage": USAGE,
        "original_count": 4,
        "compacted_count": 2,
        "cost": COST,
        "trace_id": "t",
    }
    result = open_result(sealed(body), tenant_id=ACME, trace_id="t")
    recent = CompactResponse.of(result, original_count=4, recent=[])
    assert msgspec.to_builtins(recent.compacted_messages) == turns[:1]
    assert (recent.original_count, recent.trace_id) == (4, "t")
