"""An answer that must be JSON: what is made of it, and whether it fulfils its schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.agents.domain.llm_task import judge, read_output
from apps.agents.domain.schema import OutputSchema


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer says. `errors` are objects of `path` and `message`, `faults` the same as sentences for the model.

    `validated`: there was a schema and the value fulfils it.
    """

    value: Any = None
    is_json: bool = True
    validated: bool = False
    errors: tuple[dict[str, str], ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JsonOutput:
    """The answer must be one JSON value; with a schema, one that fulfils it."""

    schema: OutputSchema | None = None

    @property
    def asked_for(self) -> Mapping[str, Any]:
        """What the model is asked for: the schema, or any JSON at all."""
        return self.schema.raw if self.schema is not None else {}

    def read(self, text: str) -> Reading:
        """Reads the answer and checks it."""
        parsed = read_output(text)
        if parsed.fault:
            return Reading(is_json=False, errors=({"path": "$", "message": parsed.fault},), faults=(parsed.fault,))
        verdict = judge(parsed.value, self.schema)
        return Reading(
            parsed.value, validated=verdict.validated, errors=tuple(verdict.errors), faults=tuple(verdict.faults)
        )
