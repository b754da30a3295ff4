"""Writes runs down. All texts are redacted here, the one place where they are stored."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from apps.traces.domain.record import Orphan, Redacted, Step, TraceEnd, TraceStart
from apps.traces.services.retention import settle_storage
from apps.traces.services.rollups import RollupSums, model_value
from clasper.core.clock import from_row
from clasper.core.db import Batch, Write
from clasper.core.redaction import redact, redact_counted

TOOLS_SEQ = -1
"""The `seq` of the payload with the tools that were offered; 0 is the run's input and output, the rest its steps."""

_json = msgspec.json.encode

_INSERT_TRACE = """INSERT INTO traces (id, tenant_id, workspace_id, environment, agent_id, user_id, kind,
 status, error_code, error, started_at, lease_until, provider, model, input_tokens, cached_tokens, cache_write_tokens,
 output_tokens, reasoning_tokens, cost, price_version, estimated, risk_score, risk_level, risk_factors, snapshot_hash,
 redactions, task_id, message_id, document_id, storage_mode, replay_of)
 VALUES (%s, %s, %s, %s, %s, %s, %s, 'running', '', '', %s, %s, %s, %s, 0, 0, 0, 0, 0, 0, '', %s, %s, %s, %s, %s, %s,
 '', '', '', 'full', %s)"""

_CLOSE_TRACE = """UPDATE traces SET status = %s, error_code = %s, error = %s, ended_at = %s, duration_ms = %s,
 lease_until = NULL, provider = %s, model = %s, input_tokens = %s, cached_tokens = %s, cache_write_tokens = %s,
 output_tokens = %s, reasoning_tokens = %s, cost = %s, price_version = %s, estimated = %s,
 redactions = redactions + %s, task_id = %s, risk_score = COALESCE(%s, risk_score),
 risk_level = COALESCE(%s, risk_level), risk_factors = COALESCE(%s, risk_factors)
 WHERE id = %s AND status = 'running' RETURNING agent_id, workspace_id, environment, risk_level"""

_INSERT_STEP = """INSERT INTO trace_steps (tenant_id, trace_id, seq, type, name, provider, status, code,
 started_at, duration_ms, attempt, prompt_tokens, completion_tokens, cost)
 VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""

_INSERT_PAYLOAD = "INSERT INTO trace_payloads (tenant_id, trace_id, seq, input, output) VALUES (%s, %s, %s, %s, %s)"
_SET_OUTPUT = "UPDATE trace_payloads SET output = %s WHERE tenant_id = %s AND trace_id = %s AND seq = 0"
_INSERT_SKILL = "INSERT INTO trace_skills (tenant_id, trace_id, name, version) VALUES (%s, %s, %s, %s)"
_INSERT_LABEL = "INSERT INTO trace_labels (tenant_id, trace_id, key, value, started_at) VALUES (%s, %s, %s, %s, %s)"


def redact_content(value: Any) -> Redacted:
    """What may be stored of a run's input."""
    clean, found = redact_counted(value)
    return Redacted(clean, found)


def open_trace(start: TraceStart) -> Write[bool]:
    """A write of the trace as `running`; returns False when another trace already has this id.

    Texts are encoded now, in the caller's thread, so that the writer's one thread only writes.
    """
    labels = [(key[:64], redact(value)[:256]) for key, value in start.labels.items()]
    s = start
    row = (
        *(s.id, s.tenant_id, s.workspace_id, s.environment, s.agent_id, s.user_id, s.kind, s.started_at, s.lease_until),
        *(s.provider, s.model, False, s.risk.score, s.risk.level, _json(s.risk.factors).decode(), s.snapshot_hash),
        sum(s.input.found.values()),
        s.replay_of,
    )
    payload = (s.tenant_id, s.id, 0, _json(s.input.value).decode(), None)

    def write(batch: Batch) -> bool:
        if s.id_given and batch.fetch_one("SELECT 1 FROM traces WHERE id = %s", (s.id,)):
            return False
        batch.queue(_INSERT_TRACE, row)
        batch.queue(_INSERT_PAYLOAD, payload)
        for name, version in s.skills.items():
            batch.queue(_INSERT_SKILL, (s.tenant_id, s.id, name[:64], version[:80]))
        for key, value in labels:
            batch.queue(_INSERT_LABEL, (s.tenant_id, s.id, key, value, s.started_at))
        return True

    return write


def add_steps(*, tenant_id: str, trace_id: str, steps: Iterable[Step]) -> Write[None]:
    """A write that appends steps to a running trace."""
    rows, found = _step_rows(tenant_id, trace_id, steps)

    def write(batch: Batch) -> None:
        _insert_steps(batch, rows)
        if found:
            batch.execute("UPDATE traces SET redactions = redactions + %s WHERE id = %s", (found, trace_id))

    return write


def close_trace(end: TraceEnd) -> Write[bool]:
    """A write that ends a running trace, with its last steps, its output and the day's sums.

    The tenant's retention policy decides which texts are stored. Returns False, having written nothing, when the trace
    is no longer running: the sweeper was faster.
    """
    rows, found = _step_rows(end.tenant_id, end.id, end.steps)
    output, in_output = redact_counted(end.output) if end.output is not None else (None, {})
    error, in_error = redact_counted(end.error)
    found += sum(in_output.values()) + sum(in_error.values())
    usage = end.usage
    row = (
        *(end.status, end.error_code[:64], _column(error, 2000), end.ended_at, end.duration_ms),
        *(end.provider, end.model),
        *(usage.input, usage.cached, usage.cache_write, usage.output, usage.reasoning),
        *(end.cost, end.price_version[:64], end.estimated, found, _column(end.task_id, 128)),
        *((end.risk.score, end.risk.level, _json(end.risk.factors).decode()) if end.risk else (None, None, None)),
        end.id,
    )
    answer = None if output is None else _json({"response": output}).decode()
    tools = (end.tenant_id, end.id, TOOLS_SEQ, _stored_tools(end.tools), None) if end.tools else None
    amounts = (1, usage.prompt_tokens, usage.output, end.cost, end.duration_ms)

    def write(batch: Batch) -> bool:
        closed = batch.fetch_one(_CLOSE_TRACE, row)
        if closed is None:
            return False
        mode = settle_storage(batch, tenant_id=end.tenant_id, trace_id=end.id, status=end.status, now=end.ended_at)
        if answer is not None and mode != "minimal":
            batch.queue(_SET_OUTPUT, (answer, end.tenant_id, end.id))
        if tools is not None and mode == "full":
            batch.queue(_INSERT_PAYLOAD, tools)
        _insert_steps(batch, rows, payloads=mode == "full")
        dimensions = (end.status, model_value(end.provider, end.model), *closed)
        batch.shared(RollupSums).add(end.tenant_id, end.ended_at.date(), dimensions, amounts)
        return True

    return write


@lru_cache(maxsize=256)
def _stored_tools(tools: bytes) -> str:
    """The tools as they may be stored. Runs are mostly offered the same ones."""
    return _json(redact(msgspec.json.decode(tools))).decode()


def link_delivered(
    batch: Batch, *, tenant_id: str, trace_id: str, message_id: str | None = None, document_id: str | None = None
) -> None:
    """Writes on the trace which message and document the backend made of its deliveries."""
    links = {"message_id": message_id, "document_id": document_id}
    given = {column: value for column, value in links.items() if value is not None}
    if given:
        assignments = ", ".join(f"{column} = %s" for column in given)
        batch.queue(
            f"UPDATE traces SET {assignments} WHERE id = %s AND tenant_id = %s",
            (*(_column(value, 128) for value in given.values()), trace_id, tenant_id),
        )


def orphaned(batch: Batch, *, now: datetime, limit: int) -> list[Orphan]:
    """Running traces whose lease has expired, with what their checkpoints recorded, in tenant order."""
    rows = batch.fetch_all(
        "SELECT t.id, t.tenant_id, t.provider, t.model, t.started_at, COUNT(s.id),"
        " COALESCE(SUM(s.prompt_tokens), 0), COALESCE(SUM(s.completion_tokens), 0), COALESCE(SUM(s.cost), 0)"
        " FROM traces t"
        " LEFT JOIN trace_steps s ON s.tenant_id = t.tenant_id AND s.trace_id = t.id"
        " WHERE t.status = 'running' AND t.lease_until < %s GROUP BY t.id ORDER BY t.tenant_id, t.id LIMIT %s",
        (now, limit),
    )
    return [Orphan(*(*facts[:4], from_row(facts[4]), *facts[5:])) for facts in rows]


def _column(text: str, size: int) -> str:
    """A text from outside cut to a column: PostgreSQL refuses NUL characters, which models and backends may send."""
    return text.replace("\x00", "")[:size]


_StepRows = list[tuple[tuple[Any, ...], tuple[Any, ...] | None]]


def _step_rows(tenant_id: str, trace_id: str, steps: Iterable[Step]) -> tuple[_StepRows, int]:
    rows: _StepRows = []
    found = 0
    for s in steps:
        name = redact(s.name) if s.type == "tool_call" else s.name  # models invent names of tools
        facts = (
            *(tenant_id, trace_id, s.seq, s.type, _column(name, 128), s.provider, s.status, _column(s.code, 64)),
            s.started_at,
            *(s.duration_ms, s.attempt, s.prompt_tokens, s.completion_tokens, s.cost),
        )
        payload = None
        if s.input is not None or s.output is not None:
            given, in_input = redact_counted(s.input)
            answer, in_output = redact_counted(s.output)
            found += sum(in_input.values()) + sum(in_output.values())
            payload = (tenant_id, trace_id, s.seq, _json(given).decode(), _json(answer).decode())
        rows.append((facts, payload))
    return rows, found


def _insert_steps(batch: Batch, rows: _StepRows, *, payloads: bool = True) -> None:
    for facts, payload in rows:
        batch.queue(_INSERT_STEP, facts)
        if payloads and payload is not None:
            batch.queue(_INSERT_PAYLOAD, payload)
