"""Rules of a replay: what may be changed, and how the tools of the first run answer again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from apps.agents.domain.requests import Faults, Text
from clasper.core.canonical import canonical_json

ToolMode = Literal["recorded", "live"]

UNRECORDED = "The recording holds no call of this tool with these arguments."


class ReplayBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /traces/{id}/replay`: what is to be different. Nothing given repeats the run as it was."""

    model: Annotated[str, msgspec.Meta(max_length=160)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    system_prompt: Text | None = None
    prompt: Text | None = None
    workspace_version: Annotated[str, msgspec.Meta(max_length=80)] | None = None
    skill_versions: dict[str, str] | None = None
    tools: ToolMode = "recorded"

    @property
    def changes(self) -> dict[str, Any]:
        """The overrides that were given, by name; of a prompt only its length."""
        given = {
            name: getattr(self, name)
            for name in ("model", "temperature", "max_tokens", "workspace_version", "skill_versions")
            if getattr(self, name) is not None
        }
        override = self.system_prompt or self.prompt
        return {**given, **({"system_prompt_chars": len(override)} if override else {}), "tools": self.tools}


def replay_faults(raw: Mapping[str, Any]) -> Faults:
    """What the types cannot say: two spellings of the prompt at once, unknown overrides."""
    faults: Faults = {}
    if raw.get("system_prompt") is not None and raw.get("prompt") is not None:
        faults["prompt"] = ["Give either system_prompt or prompt."]
    known = {field_.encode_name for field_ in msgspec.structs.fields(ReplayBody)}
    for name in sorted(raw.keys() - known):
        faults[name] = [f"Not an override; there are {', '.join(sorted(known))}."]
    return faults


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A tool call of the first run, and what came of it: ok, error or denied; `output` is the result or the error."""

    name: str
    arguments: Any
    status: str
    output: Any


@dataclass(slots=True)
class Recording:
    """The tools that were offered, as objects of name, description and parameters, and the calls that were made."""

    tools: Sequence[Mapping[str, Any]]
    calls: Sequence[RecordedCall]
    _used: set[int] = field(default_factory=set)

    def answer(self, name: str, arguments: Any) -> RecordedCall | None:
        """The first unused call of this tool with these arguments; None when there is none. Each is used once."""
        wanted = _key(name, arguments)
        for n, call in enumerate(self.calls):
            if n not in self._used and call.status != "denied" and _key(call.name, call.arguments) == wanted:
                self._used.add(n)
                return call
        return None


def _key(name: str, arguments: Any) -> bytes:
    try:
        return name.encode() + b"\n" + canonical_json(arguments)
    except ValueError:
        return name.encode() + b"\n" + msgspec.json.encode(arguments, order="sorted")
