"""The request as its trace stores it, and the way back, for replays. One codec, so that both directions agree."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from apps.agents.domain.json_output import OutputSpec
from apps.agents.domain.requests import Options, Turn
from apps.agents.domain.run import TEMPERATURE, Conversation, Kickoff, ModelOptions, RunRequest
from apps.agents.domain.schema import compile_schema
from clasper.core.clock import iso, parse_iso


class StoredOutputSpec(msgspec.Struct, frozen=True):
    """The JSON that was asked for: by this schema, or any."""

    schema: Mapping[str, Any] | None = None


class StoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace keeps of a request, before redaction; fields that are UNSET have their usual values.

    `metadata` is exactly what the caller sent. `system_prompt` is stored where metadata does not imply it.
    """

    message: str = ""
    messages: list[Turn] = []
    metadata: dict[str, Any] = {}
    task_title: str = ""
    prompt_sections: dict[str, int] = {}
    instructions: str | UnsetType = UNSET
    system_prompt: str | UnsetType = UNSET
    as_of: str | UnsetType = UNSET
    expects: StoredOutputSpec | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    overrides: dict[str, Any] | UnsetType = UNSET

    def conversation(self) -> Conversation:
        """What was asked. Raises msgspec.ValidationError when redaction left options that cannot be read."""
        instructions = self.instructions if isinstance(self.instructions, str) else None
        # The options of the metadata mean nothing in a run without a workspace.
        options = msgspec.convert(self.metadata, Options) if instructions is None else Options()
        return Conversation(
            message=self.message,
            history=tuple(self.messages),
            instructions=instructions,
            system_prompt=self.system_prompt if isinstance(self.system_prompt, str) else options.system_prompt,
            kickoff=kickoff_of(options),
            timezone=options.timezone or "",
            force_include_skills=tuple(options.force_include_skills or ()),
        )

    def model_options(self, *, model: str) -> ModelOptions:
        """How `model` answered. Raises InvalidSchema when redaction left a schema that cannot be used."""
        output = None
        if isinstance(self.expects, StoredOutputSpec):
            schema = self.expects.schema
            output = OutputSpec(compile_schema(schema) if schema is not None else None)
        return ModelOptions(
            model=model,
            temperature=self.temperature if isinstance(self.temperature, float | int) else TEMPERATURE,
            max_output_tokens=self.max_tokens if isinstance(self.max_tokens, int) else None,
            output=output,
        )

    def began(self, otherwise: datetime) -> datetime:
        """The moment that the prompt spoke of as now: that of the run, or of the run that it repeated."""
        return parse_iso(self.as_of) if isinstance(self.as_of, str) else otherwise


def store_request(request: RunRequest, sections: Mapping[str, int]) -> dict[str, Any]:
    """The request as JSON, with the sizes of the prompt's sections."""
    asked, options, replay = request.conversation, request.options, request.replay
    output = options.output
    # A caller's metadata may hold anything; it names a prompt only where there is a workspace's to replace.
    implied = request.metadata.get("system_prompt") if asked.instructions is None else None
    stored = StoredRequest(
        message=asked.message,
        messages=list(asked.history),
        metadata=dict(request.metadata),
        task_title=request.backend.task_title,
        prompt_sections=dict(sections),
        instructions=asked.instructions if asked.instructions is not None else UNSET,
        system_prompt=UNSET if asked.system_prompt is None or asked.system_prompt == implied else asked.system_prompt,
        as_of=iso(replay.as_of) if replay else UNSET,
        expects=StoredOutputSpec(output.schema.raw if output.schema else None) if output else UNSET,
        temperature=options.temperature if options.temperature != TEMPERATURE else UNSET,
        max_tokens=options.max_output_tokens if options.max_output_tokens is not None else UNSET,
        overrides=dict(replay.overrides) if replay else UNSET,
    )
    found: dict[str, Any] = msgspec.to_builtins(stored)
    return found


def read_request(value: Any) -> StoredRequest:
    """The way back. Raises msgspec.ValidationError when redaction left something that is not a request."""
    return msgspec.convert(value, StoredRequest)


def kickoff_of(options: Options) -> Kickoff | None:
    """The kickoff that a request's options ask for, if any."""
    return Kickoff(options.kickoff_note or "", options.plan_title or "Plan") if options.kickoff_plan else None
