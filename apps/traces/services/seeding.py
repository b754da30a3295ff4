"""Writing invented runs by the thousand: rows, day sums and usage ledger in one transaction a batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from itertools import islice
from typing import Any

from apps.governance.services.prices import price_book
from apps.governance.services.usage import record_usage
from apps.traces.domain.sample_runs import SampleRun, sample_runs
from apps.traces.services.rollups import Dimensions, RunSums
from clasper.core.db import Batch, atomic_batch
from clasper.core.errors import Conflict
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage

BATCH = 4000
"""Runs a transaction: large enough that commits cost nothing, small enough that other writers wait only a moment."""

Row = tuple[Any, ...]


def _insert(table: str, columns: str) -> str:
    return f"INSERT INTO {table} ({columns}) VALUES ({', '.join(['%s'] * (columns.count(',') + 1))})"


_TRACE = _insert(
    "traces",
    "id, tenant_id, workspace_id, environment, agent_id, user_id, kind, status, error_code, error, started_at,"
    " ended_at, duration_ms, provider, model, input_tokens, cached_tokens, cache_write_tokens, output_tokens,"
    " reasoning_tokens, cost, price_version, estimated, risk_score, risk_level, risk_factors, workspace_hash,"
    " redactions, task_id, message_id, document_id, replay_of, storage_mode",
)
_STEP = _insert(
    "trace_steps",
    "tenant_id, trace_id, attempt, seq, type, name, provider, status, code, started_at, duration_ms, prompt_tokens,"
    " completion_tokens, cost",
)
_PAYLOAD = _insert("trace_payloads", "tenant_id, trace_id, seq, input, output")
_SKILL = _insert("trace_skills", "tenant_id, trace_id, name, version")
_LABEL = _insert("trace_labels", "tenant_id, trace_id, key, value, started_at")


def seed_traces(
    *, tenant_id: str, count: int, days: int, seed: int, until: datetime, progress: Callable[[int], None]
) -> None:
    """Writes `count` invented runs of the `days` before `until`; `progress` is told how many are written.

    Each batch is committed by itself. Raises Conflict, having written nothing, when these very runs are there already.
    """
    runs = sample_runs(tenant_id=tenant_id, count=count, days=days, seed=seed, until=until, prices=price_book())
    written = 0
    with _no_garbage_collection():
        for some in _batches(runs):
            with atomic_batch() as batch:
                if not written and batch.fetch_one("SELECT 1 FROM traces WHERE id = %s", (some[0].id,)):
                    raise Conflict("These runs are there already; another --seed gives others.")
                _write(batch, tenant_id, some)
            written += len(some)
            progress(written)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Rows hold no cycles, and looking for some among thousands of them takes a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _batches(runs: Iterable[SampleRun]) -> Iterator[list[SampleRun]]:
    iterator = iter(runs)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _write(batch: Batch, tenant_id: str, runs: Sequence[SampleRun]) -> None:
    sums = RunSums()
    spent: dict[date, tuple[int, Usage, int]] = {}
    for run in runs:
        usage, cost = run.usage, run.cost
        batch.queue(_TRACE, _trace_row(tenant_id, run, usage, cost))
        _queue_content(batch, tenant_id, run)
        day = run.ended_at.date()
        sums.add(day, _dimensions(run), (1, usage.prompt_tokens, usage.output, cost, run.duration_ms))
        requests, used, paid = spent.get(day, _NOTHING)
        spent[day] = (requests + 1, used + usage if run.calls else used, paid + cost)
    sums.write(batch, tenant_id)
    for day, (requests, used, paid) in spent.items():
        record_usage(
            batch,
            tenant_id=tenant_id,
            now=datetime.combine(day, time(), UTC),
            usage=used,
            cost=NanoUSD(paid),
            requests=requests,
        )


_NOTHING = (0, Usage(), 0)


def _dimensions(run: SampleRun) -> Dimensions:
    profile = run.profile
    model = f"{profile.ref.provider}/{profile.ref.model}"
    return (run.status, model, profile.agent_id, profile.workspace_id, profile.environment, profile.risk_level)


def _trace_row(tenant_id: str, run: SampleRun, usage: Usage, cost: int) -> Row:
    p = run.profile
    return (
        *(run.id, tenant_id, p.workspace_id, p.environment, p.agent_id, run.user_id, p.kind, run.status),
        *(run.error_code, run.error, run.started_at, run.ended_at, run.duration_ms, p.ref.provider, p.ref.model),
        *(usage.input, usage.cached, usage.cache_write, usage.output, usage.reasoning, cost, p.price.version, False),
        *(p.risk_score, p.risk_level, p.risk_factors, p.workspace_hash, p.redactions),
        *(run.task_id, run.message_id, "", "", "full"),
    )


def _queue_content(batch: Batch, tenant_id: str, run: SampleRun) -> None:
    """Queues what stands around the trace: its texts, steps, skills and labels."""
    profile = run.profile
    batch.queue(_PAYLOAD, (tenant_id, run.id, 0, profile.input, profile.output if run.calls else None))
    for step in run.steps():
        *facts, given, answer = step
        batch.queue(_STEP, (tenant_id, run.id, 1, *facts))
        if answer is not None:
            batch.queue(_PAYLOAD, (tenant_id, run.id, step.seq, given or "null", answer))
    for name, version in profile.skills:
        batch.queue(_SKILL, (tenant_id, run.id, name, version))
    for key, value in run.labels:
        batch.queue(_LABEL, (tenant_id, run.id, key, value, run.started_at))
