"""The audit chain: which events exist, what an entry's hash covers, and how a chain is verified.

An entry's hash is the SHA-256 of the canonical JSON (RFC 8785) of all its fields in the API but `id` and `hash`;
`prev_hash` ties it to the entry before. Anyone can recompute it from `GET /audit` with any RFC 8785 library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

from clasper.core.clock import iso
from clasper.core.schemas import Resource, about

EVENT_TYPES: dict[str, str] = {
    "agent.start": "A run was admitted and begins.",
    "agent.complete": "A run ended with an answer.",
    "agent.error": "A run failed, timed out or was cancelled.",
    "audit.checkpoint": "A signed checkpoint of the chain was issued.",
    "audit.export": "Entries of the audit log were exported.",
    "auth.failure": "A credential was missing, wrong, expired or revoked.",
    "boot.complete": "A workspace's first-run instructions were marked as done.",
    "budget.exceeded": "A run was refused because it would exceed the budget.",
    "budget.set": "A tenant's budget was created or changed.",
    "budget.warning": "Spending crossed the soft limit for the first time in this period.",
    "delivery.dead": "A backend write or webhook was abandoned after its last attempt.",
    "delivery.retry": "An operator made a waiting or dead delivery due again.",
    "key.create": "An API key was created.",
    "key.revoke": "An API key was revoked.",
    "permission.denied": "A valid credential was refused for lack of a permission.",
    "prompt.override": "A run replaced the workspace's prompt with the caller's own.",
    "retention.enforce": "A tenant's retention policy was enforced.",
    "retention.policy": "A tenant's retention policy was created or changed.",
    "run.swept": "A run that its process left unfinished was settled by the sweeper.",
    "skill.publish": "A skill version was published.",
    "skill.test": "A skill version's tests were run.",
    "skill_deprecated_used": "A run used a deprecated skill.",
    "skill_state_changed": "A skill version moved to another lifecycle state.",
    "tool.call": "A tool was called for the model.",
    "tool.denied": "A tool call was refused.",
    "trace.annotate": "A note was put on a trace.",
    "trace.export": "Traces were exported.",
    "trace.label": "Labels of a trace were changed.",
    "trace.read": "The texts of a trace were read.",
    "trace.replay": "A run was repeated, perhaps with changes.",
    "workspace.rollback": "A workspace was set back to an earlier version.",
    "workspace.snapshot": "A version of a workspace was recorded.",
}
"""Every event that may be recorded, with its meaning."""

EVENT_ALIASES: dict[str, str] = {
    "agent_execution_started": "agent.start",
    "agent_execution_completed": "agent.complete",
    "agent_execution_failed": "agent.error",
    "auth_failure": "auth.failure",
    "budget_exceeded": "budget.exceeded",
    "budget_warning": "budget.warning",
    "skill_published": "skill.publish",
    "skill_test_run": "skill.test",
    "tool_call_failed": "tool.call",
    "tool_call_requested": "tool.call",
    "tool_call_succeeded": "tool.call",
    "tool_permission_denied": "tool.denied",
}
"""Older names that filters also accept."""

GENESIS = "0" * 64
"""The `prev_hash` of a chain's first entry, whose seq is 1."""

_json = msgspec.json.Encoder().encode


class ChainPoint(NamedTuple):
    """A place in a chain: the seq and hash of an entry, or (0, GENESIS) before the first."""

    seq: int
    hash: str


START = ChainPoint(0, GENESIS)

Anchors = Mapping[int, Collection[str]]
"""By seq, the hashes that checkpoints name for it; several only when checkpoints contradict each other."""


class ChainRow(NamedTuple):
    """What verification reads of an entry; `details` is the stored canonical JSON text."""

    seq: int
    timestamp: datetime
    event_type: str
    tenant_id: str
    trace_id: str | None
    actor: str
    details: str
    prev_hash: str
    hash: str


class _Covered(msgspec.Struct, gc=False):
    """What a hash covers, in the order of canonical JSON, so that a stored entry is encoded in one go."""

    actor: str
    details: msgspec.Raw
    event_type: str
    prev_hash: str
    seq: int
    tenant_id: str
    timestamp: str
    trace_id: str | None


class EntryTemplate(NamedTuple):
    """An entry's canonical JSON around the two values known only when it is appended, `prev_hash` and `seq`."""

    before: bytes
    after: bytes


class ChainReport(Resource, frozen=True, kw_only=True):
    """What verification found. `last_*` is the end of the chain's good part."""

    valid: bool
    checked: Annotated[int, about("Entries found good.", example=5)]
    first_bad_seq: Annotated[int | None, about("Null for a valid chain.", example=None)]
    reason: Annotated[str, about("What is wrong; empty for a valid chain.", example="")]
    last_seq: Annotated[int, about(example=5)]
    last_hash: Annotated[str, about(example="f" * 64)]
    checkpoint_seq: Annotated[
        int | None, about("The last checkpoint that a valid chain was compared with, if any.", example=None)
    ] = None


class TenantChain(ChainReport, frozen=True, kw_only=True):
    """What verification of a tenant's chain found."""

    tenant_id: Annotated[str, about("Empty for the platform's own chain.", example="acme")]


class AllChains(Resource, frozen=True, kw_only=True):
    """What verification of every chain found; `first_bad_seq` is that of the first broken chain."""

    valid: bool
    first_bad_seq: Annotated[int | None, about(example=None)]
    tenants: tuple[TenantChain, ...]


def entry_template(
    *, tenant_id: str, timestamp: str, event_type: str, trace_id: str | None, actor: str, details: bytes
) -> EntryTemplate:
    """The parts of an entry's canonical JSON; `details` is canonical already. Raises ValueError for lone surrogates."""
    before = b'{"actor":%b,"details":%b,"event_type":%b,"prev_hash":"' % (_json(actor), details, _json(event_type))
    after = b',"tenant_id":%b,"timestamp":%b,"trace_id":%b}' % (_json(tenant_id), _json(timestamp), _json(trace_id))
    return EntryTemplate(before, after)


def appended_hash(template: EntryTemplate, previous: ChainPoint) -> str:
    """The hash of the entry when it is appended after `previous`."""
    middle = f'{previous.hash}","seq":{previous.seq + 1}'.encode()
    return hashlib.sha256(template.before + middle + template.after).hexdigest()


def verify(entries: Iterable[ChainRow], start: ChainPoint = START, *, anchors: Anchors | None = None) -> ChainReport:
    """Checks the entries that follow `start`, in ascending seq, one at a time; stops at the first bad one.

    A missing entry is bad under its own seq, a changed or moved one too. An entry whose hash was recomputed after a
    change is revealed by the next one, which does not follow it; a chain rewritten to its end, by the anchors.
    """
    anchors = anchors or {}
    last = start
    rows = iter(entries)
    while True:
        try:
            row = next(rows, None)
            if row is None:
                return _report(start, last)
            reason = _error_in(row, last)
            if not reason and row.seq in anchors and any(anchor != row.hash for anchor in anchors[row.seq]):
                reason = f"entry {row.seq} is not the one its checkpoint names: it or entries before it were rewritten"
        except (AttributeError, TypeError, ValueError):
            # We never write a column that cannot be read.
            return _report(start, last, last.seq + 1, f"entry {last.seq + 1} is unreadable")
        if reason:
            return _report(start, last, min(last.seq + 1, row.seq), reason)
        last = ChainPoint(row.seq, row.hash)


def check_end(report: ChainReport, *, head: ChainPoint, last_stored_seq: int) -> ChainReport:
    """The report of the entries up to the head, compared with the head itself and with what is stored beyond it."""
    if not report.valid:
        return report
    if report.last_seq < head.seq:
        bad, reason = report.last_seq + 1, f"is missing: the chain reaches {head.seq}"
    elif report.last_hash != head.hash:
        bad, reason = head.seq, "is not the one the chain's head names"
    elif last_stored_seq > head.seq:
        bad, reason = head.seq + 1, "lies beyond the chain's head"
    else:
        return report
    return msgspec.structs.replace(report, valid=False, first_bad_seq=bad, reason=f"entry {bad} {reason}")


def summarize(tenant_id: str, report: ChainReport) -> TenantChain:
    """A chain's verification as it is shown, over HTTP and by the command."""
    return TenantChain(tenant_id=tenant_id, **msgspec.structs.asdict(report))


def summarize_all(reports: Mapping[str, ChainReport]) -> AllChains:
    """Several chains' verification as it is shown."""
    return AllChains(
        valid=all(report.valid for report in reports.values()),
        first_bad_seq=next((report.first_bad_seq for report in reports.values() if not report.valid), None),
        tenants=tuple(summarize(tenant_id, report) for tenant_id, report in reports.items()),
    )


def _error_in(row: ChainRow, last: ChainPoint) -> str:
    if row.seq != last.seq + 1:
        return f"entry {last.seq + 1} is missing" if row.seq > last.seq else f"entry {row.seq} is out of place"
    if row.prev_hash != last.hash:
        return f"entry {row.seq} does not follow entry {last.seq}"
    digest = hashlib.sha256(
        _json(
            _Covered(
                row.actor,
                msgspec.Raw(row.details.encode()),
                row.event_type,
                row.prev_hash,
                row.seq,
                row.tenant_id,
                iso(row.timestamp),
                row.trace_id,
            )
        )
    )
    return "" if digest.hexdigest() == row.hash else f"entry {row.seq} does not match its hash"


def _report(start: ChainPoint, last: ChainPoint, first_bad_seq: int | None = None, reason: str = "") -> ChainReport:
    return ChainReport(
        valid=first_bad_seq is None,
        checked=last.seq - start.seq,
        first_bad_seq=first_bad_seq,
        reason=reason,
        last_seq=last.seq,
        last_hash=last.hash,
    )
