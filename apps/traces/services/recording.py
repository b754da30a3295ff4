"""Writing a run down: jobs for the run path. All texts are redacted here, the one place where they are stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import date, datetime
from functools import lru_cache
from typing import Any, ClassVar

import msgspec

from apps.traces.domain.record import Closing, Opening, Orphan, Redacted, Step
from apps.traces.services.retention import settle_storage
from clasper.core.clock import from_row
from clasper.core.db import Batch, Write
from clasper.core.redaction import redact, redact_counted

TOOLS_SEQ = -1
"""Where the payloads of a run hold the tools that were offered; 0 is its input and output, the rest are its steps."""

_json = msgspec.json.encode

_INSERT_TRACE = """INSERT INTO traces (id, tenant_id, workspace_id, environment, agent_id, user_id, kind,
 status, error_code, error, started_at, lease_until, provider, model, input_tokens, cached_tokens, cache_write_tokens,
 output_tokens, reasoning_tokens, cost, price_version, estimated, risk_score, risk_level, risk_factors, workspace_hash,
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

ROLL_UP = """INSERT INTO trace_rollups
 (tenant_id, day, dimension, value, runs, input_tokens, output_tokens, cost, duration_ms)
 VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
 ON CONFLICT (tenant_id, dimension, day, value) DO UPDATE SET runs = trace_rollups.runs + excluded.runs,
 input_tokens = trace_rollups.input_tokens + excluded.input_tokens,
 output_tokens = trace_rollups.output_tokens + excluded.output_tokens,
 cost = trace_rollups.cost + excluded.cost, duration_ms = trace_rollups.duration_ms + excluded.duration_ms"""


class RollupSums:
    """The day sums of the runs that settle in one batch."""

    lock_order: ClassVar[int] = 40

    def __init__(self) -> None:
        self._sums: dict[tuple[str, date, str, str], list[int]] = {}

    def add(self, closing: Closing, **kept: str) -> None:
        """Counts an ended run; `kept` are the dimensions that its row knows."""
        usage = closing.usage
        amounts = (1, usage.prompt_tokens, usage.output, closing.cost, closing.duration_ms)
        model = f"{closing.provider}/{closing.model}"[:128]
        for dimension, value in {"status": closing.status, "model": model, **kept}.items():
            key = (closing.tenant_id, closing.ended_at.date(), dimension, value)
            sums = self._sums.setdefault(key, [0, 0, 0, 0, 0])
            for i, amount in enumerate(amounts):
                sums[i] += amount

    def flush(self, batch: Batch) -> None:
        for key in sorted(self._sums):
            batch.queue(ROLL_UP, (*key, *self._sums[key]))


def redact_content(value: Any) -> Redacted:
    """What may be stored of a run's input."""
    clean, found = redact_counted(value)
    return Redacted(clean, found)


def open_trace(opening: Opening) -> Write[bool]:
    """A job that writes the trace as `running`; False when another trace has this id already.

    Texts are encoded now, in the caller's thread, so that the writer's one thread only writes.
    """
    labels = [(key[:64], redact(value)[:256]) for key, value in opening.labels.items()]
    o = opening
    row = (
        *(o.id, o.tenant_id, o.workspace_id, o.environment, o.agent_id, o.user_id, o.kind, o.started_at, o.lease_until),
        *(o.provider, o.model, False, o.risk.score, o.risk.level, _json(o.risk.factors).decode(), o.workspace_hash),
        sum(o.input.found.values()),
        o.replay_of,
    )
    payload = (o.tenant_id, o.id, 0, _json(o.input.value).decode(), None)

    def job(batch: Batch) -> bool:
        if o.id_given and batch.fetch_one("SELECT 1 FROM traces WHERE id = %s", (o.id,)):
            return False
        batch.queue(_INSERT_TRACE, row)
        batch.queue(_INSERT_PAYLOAD, payload)
        for name, version in o.skills.items():
            batch.queue(_INSERT_SKILL, (o.tenant_id, o.id, name[:64], version[:80]))
        for key, value in labels:
            batch.queue(_INSERT_LABEL, (o.tenant_id, o.id, key, value, o.started_at))
        return True

    return job


def add_steps(*, tenant_id: str, trace_id: str, steps: Iterable[Step]) -> Write[None]:
    """A job that appends steps to a running trace."""
    rows, found = _step_rows(tenant_id, trace_id, steps)

    def job(batch: Batch) -> None:
        _insert_steps(batch, rows)
        if found:
            batch.execute("UPDATE traces SET redactions = redactions + %s WHERE id = %s", (found, trace_id))

    return job


def close_trace(closing: Closing) -> Write[bool]:
    """A job that ends a running trace, with its last steps, its output and the day's sums.

    Of the texts it stores what the tenant's retention policy leaves. False, and nothing written, when the trace is not
    running any more: the sweeper was faster.
    """
    c = closing
    rows, found = _step_rows(c.tenant_id, c.id, c.steps)
    output, in_output = redact_counted(c.output) if c.output is not None else (None, {})
    error, in_error = redact_counted(c.error)
    found += sum(in_output.values()) + sum(in_error.values())
    usage = c.usage
    row = (
        *(c.status, c.error_code[:64], _column(error, 2000), c.ended_at, c.duration_ms, c.provider, c.model),
        *(usage.input, usage.cached, usage.cache_write, usage.output, usage.reasoning),
        *(c.cost, c.price_version[:64], c.estimated, found, _column(c.task_id, 128)),
        *((c.risk.score, c.risk.level, _json(c.risk.factors).decode()) if c.risk else (None, None, None)),
        c.id,
    )
    answer = None if output is None else _json({"response": output}).decode()
    tools = (c.tenant_id, c.id, TOOLS_SEQ, _stored_tools(c.tools), None) if c.tools else None

    def job(batch: Batch) -> bool:
        closed = batch.fetch_one(_CLOSE_TRACE, row)
        if closed is None:
            return False
        agent_id, workspace_id, environment, risk_level = closed
        mode = settle_storage(batch, tenant_id=c.tenant_id, trace_id=c.id, status=c.status, now=c.ended_at)
        if answer is not None and mode != "minimal":
            batch.queue(_SET_OUTPUT, (answer, c.tenant_id, c.id))
        if tools is not None and mode == "full":
            batch.queue(_INSERT_PAYLOAD, tools)
        _insert_steps(batch, rows, payloads=mode == "full")
        batch.shared(RollupSums).add(
            c, agent=agent_id, workspace=workspace_id, environment=environment, risk=risk_level
        )
        return True

    return job


@lru_cache(maxsize=256)
def _stored_tools(tools: bytes) -> str:
    """The tools as they may be stored. Runs are mostly offered the same ones."""
    return _json(redact(msgspec.json.decode(tools))).decode()


def link_delivered(
    batch: Batch, *, tenant_id: str, trace_id: str, message_id: str | None = None, document_id: str | None = None
) -> None:
    """Notes on the trace what the backend made of its deliveries."""
    links = {"message_id": message_id, "document_id": document_id}
    given = {column: value for column, value in links.items() if value is not None}
    if given:
        assignments = ", ".join(f"{column} = %s" for column in given)
        batch.queue(
            f"UPDATE traces SET {assignments} WHERE id = %s AND tenant_id = %s",
            (*(_column(value, 128) for value in given.values()), trace_id, tenant_id),
        )


def orphaned(batch: Batch, *, now: datetime, limit: int) -> list[Orphan]:
    """Running traces whose lease is over, with what their checkpoints recorded, in tenant order."""
    rows = batch.fetch_all(
        "SELECT t.id, t.tenant_id, t.provider, t.model, t.started_at, COUNT(s.id),"
        " COALESCE(SUM(s.prompt_tokens), 0), COALESCE(SUM(s.completion_tokens), 0), COALESCE(SUM(s.cost), 0)"
        " FROM traces t"
        " LEFT JOIN trace_steps s ON s.tenant_id = t.tenant_id AND s.trace_id = t.id"
        " WHERE t.status = 'running' AND t.lease_until < %s GROUP BY t.id ORDER BY t.tenant_id, t.id LIMIT %s",
        (now, limit),
    )
    columns = [field.name for field in dataclasses.fields(Orphan)]
    facts = [dict(zip(columns, row, strict=True)) for row in rows]
    return [Orphan(**{**each, "started_at": from_row(each["started_at"])}) for each in facts]


def _column(text: str, size: int) -> str:
    """What a column of this size takes of a text from outside: PostgreSQL has no NUL, models and backends may."""
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
