"""What came of a run that ended well."""

from __future__ import annotations

import msgspec

from apps.agents.domain.json_output import ParsedOutput
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage


class RunCost(msgspec.Struct, frozen=True, kw_only=True):
    """What the run's model calls cost, in nano-USD; `input` includes cached reads and cache writes."""

    model: str
    input_tokens: int
    output_tokens: int
    input: NanoUSD
    output: NanoUSD

    @property
    def total(self) -> NanoUSD:
        return NanoUSD(self.input + self.output)


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, its usage and its cost. It is stored under an Idempotency-Key, so every field must encode as JSON.

    `parsed` is the answer as JSON, where JSON was asked for.
    """

    trace_id: str
    task_id: str
    text: str
    usage: Usage
    cost: RunCost
    parsed: ParsedOutput | None = None
    context_warning: str = ""
    skipped_backend: bool = False
