"""Compares two stored runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps.traces.domain.diff import diff_traces, summary_sentence
from apps.traces.domain.views import TraceDetail
from apps.traces.services.reading import get_trace, record_read
from clasper.core.errors import NotFound
from clasper.core.tenancy import TenantScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs, as `diff_traces` returns it, and the same in one sentence."""

    diff: dict[str, Any]
    summary_text: str


def show_comparison(
    *, tenants: TenantScope, base_id: str, compare_id: str, include_text: bool, actor: str, now: datetime
) -> Comparison:
    """As `compare_traces`, for a caller; audited if it contains texts."""
    base, compare = _pair(tenants, base_id, compare_id)
    if include_text:
        record_read([base, compare], part="diff", actor=actor, now=now)
    return _compare(base, compare, include_text)


def compare_traces(*, tenants: TenantScope, base_id: str, compare_id: str, include_text: bool = False) -> Comparison:
    """Compares two runs in the scope. `include_text` adds the diff of their answers.

    Raises NotFound when a run is unknown or outside the scope; `details.missing` maps `base_trace_id` and
    `compare_trace_id`, if missing, to the id.
    """
    return _compare(*_pair(tenants, base_id, compare_id), include_text)


def _pair(tenants: TenantScope, base_id: str, compare_id: str) -> tuple[TraceDetail, TraceDetail]:
    ids = {"base_trace_id": base_id, "compare_trace_id": compare_id}
    found = {name: _find(tenants, trace_id) for name, trace_id in ids.items()}
    base, compare = found["base_trace_id"], found["compare_trace_id"]
    if base is None or compare is None:
        raise NotFound("No such trace.", details={"missing": {name: ids[name] for name in ids if found[name] is None}})
    return base, compare


def _compare(base: TraceDetail, compare: TraceDetail, include_text: bool) -> Comparison:
    diff = diff_traces(base, compare, include_text=include_text)
    return Comparison(diff=diff, summary_text=summary_sentence(diff))


def _find(tenants: TenantScope, trace_id: str) -> TraceDetail | None:
    try:
        return get_trace(tenants=tenants, trace_id=trace_id)
    except NotFound:
        return None
