"""What is stored of a run for repeating it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from apps.traces.domain.views import TraceDetail
from apps.traces.models import TracePayload
from apps.traces.services.reading import get_trace
from apps.traces.services.recording import TOOLS_SEQ
from clasper.core.errors import Conflict
from clasper.core.tenancy import TenantScope


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run with its texts, as they are stored: redacted. `tools` are objects of name, description and parameters."""

    trace: TraceDetail
    tools: Sequence[Mapping[str, Any]]

    @property
    def request(self) -> Mapping[str, Any]:
        """The request: message, messages, metadata."""
        found: Mapping[str, Any] = self.trace.input
        return found


def replay_source(*, tenants: TenantScope, trace_id: str) -> RecordedRun:
    """The run with its request. Raises NotFound, and Conflict `trace_running` or `trace_stripped` when it cannot be
    repeated because it has not ended or retention has removed its texts."""
    trace = get_trace(tenants=tenants, trace_id=trace_id)
    if trace.status == "running":
        raise Conflict("The run has not ended yet.", code="trace_running")
    if not isinstance(trace.input, dict) or trace.storage_mode != "full":
        raise Conflict("The texts of this run are not kept any more, so it cannot be repeated.", code="trace_stripped")
    row = TracePayload.objects.filter(tenant_id=trace.tenant_id, trace_id=trace.id, seq=TOOLS_SEQ).first()
    return RecordedRun(trace, msgspec.json.decode(row.input) if row is not None and row.input else ())
