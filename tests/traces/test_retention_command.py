"""`manage.py retention`, and the background work that enforces policies by itself."""

from __future__ import annotations

import asyncio
import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from clasper import celery, worker
from tests.conftest import run
from tests.traces.retention_runs import Run, left
from tests.world import ACME, GLOBEX

pytestmark = pytest.mark.usefixtures("fresh")


def told(*words: str) -> str:
    out = StringIO()
    call_command("retention", *words, stdout=out, stderr=StringIO())
    return out.getvalue()


def told_json(*words: str) -> Any:
    return json.loads(told(*words, "--json"))


def test_a_policy_is_set_changed_and_shown() -> None:
    given = ("--days", "30", "--strategy", "sampled", "--rate", "0.2", "--storage", "summary")
    made = told_json("policy", "--tenant", ACME, *given)
    assert (made["retentionDays"], made["samplingStrategy"]) == (30, "sampled")
    assert (made["sampleRate"], made["storageMode"]) == (0.2, "summary")
    changed = told_json("policy", "--tenant", ACME, "--days", "7")
    assert {**made, "retentionDays": 7, "updatedAt": changed["updatedAt"]} == changed
    assert told_json("policy", "--tenant", ACME) == changed
    assert "retentionDays     7\n" in told("policy", "--tenant", ACME)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--days", "0", "--strategy", "x"), ("retention_days", "sampling_strategy")),
        (("--rate", "nan"), ("sample_rate",)),
        (("--storage", "x"), ("storage_mode",)),
        ((), ("no retention policy",)),
    ],
    ids=["two faults", "nan", "mode", "none to show"],
)
def test_a_refusal_says_why(words: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    with pytest.raises(CommandError) as refused:
        told("policy", "--tenant", ACME, *words)
    assert all(each in str(refused.value) for each in wanted)


def test_enforcing_one_tenant_and_all() -> None:
    for tenant_id in (ACME, GLOBEX):
        Run(days=400, tenant_id=tenant_id).write()
        told("policy", "--tenant", tenant_id, "--days", "30")
    assert told_json("enforce", "--tenant", ACME, "--dry-run")["tracesDeleted"] == 1
    assert len(left()) == 1
    assert "acme: 1 traces deleted, 0 stripped, 0 protected; oldest remaining none" in told("enforce", "--tenant", ACME)
    everyone = told_json("enforce")
    assert everyone["totalDeleted"] == 1
    assert [each["tenantId"] for each in everyone["results"]] == [ACME, GLOBEX]
    assert told_json("stats")["totalPolicies"] == 2


def test_without_a_policy_there_is_nothing_to_enforce() -> None:
    assert told("enforce") == "No tenant has a policy.\n"


def test_progress_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.traces.management.commands.retention.PROGRESS_EVERY", 1)
    Run(days=400).write()
    errors = StringIO()
    call_command("retention", "enforce", "--tenant", ACME, stdout=StringIO(), stderr=errors)
    assert errors.getvalue() == "acme: 1 traces so far\n"


# --- By itself --------------------------------------------------------------------------------------------------------


def remaining() -> set[str]:
    """What is left, asked in a thread that leaves no connection behind."""
    try:
        return left()
    finally:
        connection.close()


def test_the_worker_enforces_until_it_is_stopped(settings: Any) -> None:
    Run(days=400).write()
    told("policy", "--tenant", ACME, "--days", "30")

    async def work() -> None:
        task = asyncio.ensure_future(worker.work())
        for _ in range(200):
            if not await asyncio.to_thread(remaining):
                break
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(work())
    assert left() == set()


def test_a_schedule_of_zero_never_enforces(settings: Any) -> None:
    settings.CLASPER_RETENTION_HOURS = 0
    Run(days=400).write()
    told("policy", "--tenant", ACME, "--days", "30")

    async def work() -> None:
        task = asyncio.ensure_future(worker.work())
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(work())
    assert len(left()) == 1


def test_celerys_task_enforces_what_is_due() -> None:
    Run(days=400).write()
    told("policy", "--tenant", ACME, "--days", "30")
    celery.app.loader.init_worker()
    celery.app.tasks["clasper.retention"]()
    assert left() == set()
    Run(days=400).write()
    celery.app.tasks["clasper.retention"]()
    assert len(left()) == 1, "not due again"
