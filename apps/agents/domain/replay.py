"""A replay: what may be changed, and how the tools of the first run answer again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from apps.agents.domain.requests import Model, Text
from clasper.core.canonical import canonical_json
from clasper.core.schemas import Errors, Input, about

ToolMode = Literal["recorded", "live"]

UNRECORDED = "The recording holds no call of this tool with these arguments."


class ReplayBody(Input, frozen=True, kw_only=True):
    """The body of `POST /traces/{id}/replay`: what is to be different. Nothing given repeats the run as it was."""

    model: Annotated[Model | None, about("Another model: a tier's name, `provider/model`, or `model`.")] = None
    temperature: Annotated[Annotated[float, Meta(ge=0, le=2)] | None, about("Another temperature.")] = None
    max_tokens: Annotated[Annotated[int, Meta(ge=1, le=1_000_000)] | None, about("Another limit of output tokens.")] = (
        None
    )
    system_prompt: Annotated[Text | None, about("Another system prompt; needs the scope `prompt:override`.")] = None
    prompt: Annotated[Text | None, about("The same as `system_prompt`.")] = None
    workspace_version: Annotated[
        Annotated[str, Meta(max_length=80)] | None,
        about("The hash of another snapshot that a run used, or `current` for the current files."),
    ] = None
    skill_versions: Annotated[
        dict[str, str] | None,
        about("Versions that skills must have in that snapshot; otherwise the replay is refused."),
    ] = None
    tools: Annotated[ToolMode, about("`recorded`: tools answer as they did then. `live`: they are called.")] = (
        "recorded"
    )

    @property
    def changes(self) -> dict[str, Any]:
        """The overrides that were given, by name; of a prompt only its length."""
        given = {
            name: getattr(self, name)
            for name in ("model", "temperature", "max_tokens", "workspace_version", "skill_versions")
            if getattr(self, name) is not None
        }
        chars = {} if self.override is None else {"system_prompt_chars": len(self.override)}
        return {**given, **chars, "tools": self.tools}

    @property
    def override(self) -> str | None:
        """The other prompt, by whichever name it was given."""
        return self.prompt if self.system_prompt is None else self.system_prompt

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        texts = ("model", "system_prompt", "prompt", "workspace_version")
        errors: Errors = {
            name: ["The text is empty."]
            for name in texts
            if isinstance(given.get(name), str) and not given[name].strip()
        }
        if given.get("system_prompt") is not None and given.get("prompt") is not None:
            errors.setdefault("prompt", []).append("Use either system_prompt or prompt.")
        return errors


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A tool call of the first run, and what came of it: ok, error or denied; `output` is the result or the error."""

    name: str
    arguments: Any
    status: str
    output: Any


@dataclass(slots=True)
class Recording:
    """The tools that were offered, as objects of name, description and parameters, and the calls that were made, with
    their arguments as they are stored: redacted."""

    tools: Sequence[Mapping[str, Any]]
    calls: Sequence[RecordedCall]
    _used: set[int] = field(default_factory=set)

    def answer(self, name: str, arguments: Any) -> RecordedCall | None:
        """The first call of this tool with these arguments, also redacted, that was not used yet; it is used now.

        None when there is no such call.
        """
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
