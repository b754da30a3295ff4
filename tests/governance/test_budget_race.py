"""Nobody overspends: many workers, many processes, one of them killed, against a hard limit of one dollar."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection

from apps.audit.models import AuditEntry
from apps.governance.models import Budget, BudgetHold
from apps.governance.services.budgets import set_budget
from apps.governance.services.reservations import release_expired
from apps.governance.services.usage import usage_totals
from clasper.core.clock import utc_now
from clasper.core.db import atomic_batch
from clasper.core.money import from_usd
from clasper.core.tenancy import OneTenant
from tests.governance.budget_race import LEASE, race

DOLLAR = from_usd(1)
ROOT = Path(__file__).resolve().parents[2]


def give_a_dollar() -> None:
    set_budget(tenant_id="acme", actor="test:setup", now=utc_now(), limit=DOLLAR)


def assert_used_up() -> None:
    """At least 95 % used, never more than all, every cent in the ledger, nothing held, and one warning."""
    budget = Budget.objects.get(tenant_id="acme")
    assert DOLLAR * 95 // 100 <= budget.spent <= DOLLAR
    assert budget.reserved == 0
    assert not BudgetHold.objects.filter(amount__gt=0).exists()
    now = utc_now()
    assert usage_totals(tenants=OneTenant("acme"), since=budget.period_start, now=now).cost == budget.spent
    assert AuditEntry.objects.filter(event_type="budget.warning").count() == 1


@pytest.mark.parametrize("seed", range(5))
def test_fifty_workers_never_pass_the_hard_limit(store: None, seed: int) -> None:
    give_a_dollar()
    asyncio.run(race("acme", seed=seed, workers=50))
    assert_used_up()


def database_url() -> str:
    """The test's database as a URL for another process."""
    at = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{at['NAME']}"
    return f"postgres://{at['USER']}:{at['PASSWORD']}@{at['HOST']}:{at['PORT']}/{at['NAME']}"


@contextmanager
def processes(*arguments: tuple[int, ...]) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each (seed, workers[, stall after]), all ready to be let off."""
    environment = {**os.environ, "DATABASE_URL": database_url(), "PYTHONPATH": str(ROOT), "LOG_LEVEL": "ERROR"}
    running = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests/governance/budget_race.py"), "acme", *map(str, numbers)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for numbers in arguments
    ]
    try:
        for process in running:
            assert line_of(process) == "ready"
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def let_off(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line: str = process.stdout.readline()
    return line.strip()


def test_four_processes_and_a_kill(store: None) -> None:
    give_a_dollar()
    with processes((101, 50), (102, 50), (103, 50), (104, 20, 1)) as (*others, victim):
        let_off(victim)
        assert line_of(victim) == "stalled"
        for process in others:
            let_off(process)
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(timeout=30) == -signal.SIGKILL
        for process in others:
            assert process.wait(timeout=30) == 0
    stuck = BudgetHold.objects.filter(amount__gt=0).count()
    assert 0 < stuck <= 20
    with atomic_batch() as batch:
        assert release_expired(batch, now=utc_now() - LEASE) == []
        released = release_expired(batch, now=utc_now() + LEASE, limit=1000)
    assert len(released) >= stuck
    assert Budget.objects.get(tenant_id="acme").reserved == BudgetHold.objects.count() == 0
    asyncio.run(race("acme", seed=1, workers=2))
    assert_used_up()
