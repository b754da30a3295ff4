"""How a chat-completions request is spelled. No network here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from clasper.gateways.llm.base import Message, ModelCall, ToolCall, ToolSpec
from clasper.gateways.llm.failures import failure


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one host asks for where hosts differ.

    `limit_field` names the field of the output limit, `fixed_temperature` the prefixes of models that refuse one.
    """

    limit_field: str = "max_tokens"
    fixed_temperature: tuple[str, ...] = ()


OPENAI = Dialect("max_completion_tokens", fixed_temperature=("o1", "o3", "o4", "gpt-5"))
COMPATIBLE = Dialect()

_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
_FORBIDDEN_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME = 64

_encoder = msgspec.json.Encoder()


def encode_request(call: ModelCall, dialect: Dialect, *, stream: bool, provider: str) -> bytes:
    """The request body. Raises ProviderError `invalid_request` when the call holds what JSON cannot carry."""
    names = WireNames(call.tools)
    body: dict[str, Any] = {
        "model": call.model,
        "messages": [_encode_message(message, names, provider) for message in call.messages],
        dialect.limit_field: call.max_output_tokens,
    }
    if call.temperature is not None and not call.model.startswith(dialect.fixed_temperature or "\0"):
        body["temperature"] = call.temperature
    if call.tools:
        body["tools"] = [_encode_tool(tool, names) for tool in call.tools]
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    try:
        return _encoder.encode(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise failure("invalid_request", provider, detail="the call cannot be written as JSON") from error


class WireNames:
    """Tool names as every host takes them (letters, digits, `_` and `-`, at most 64), and back.

    Control planes name tools `ns:tool`; OpenAI and most servers refuse the colon.
    """

    __slots__ = ("_ours", "_theirs")

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self._theirs: dict[str, str] = {}
        self._ours: dict[str, str] = {}
        taken = {tool.name for tool in tools}
        for tool in tools:
            name = _strict(tool.name)
            if name != tool.name and (name in taken or name in self._ours):
                name = f"{name[: _MAX_NAME - 9]}_{sha256(tool.name.encode()).hexdigest()[:8]}"
            self._theirs[tool.name] = name
            self._ours[name] = tool.name

    def theirs(self, name: str) -> str:
        return self._theirs.get(name) or _strict(name)

    def ours(self, name: str) -> str:
        return self._ours.get(name, name)


def _strict(name: str) -> str:
    return _FORBIDDEN_IN_NAMES.sub("_", name)[:_MAX_NAME]


def _encode_message(message: Message, names: WireNames, provider: str) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.content}
    if message.role != "assistant":
        return {"role": message.role, "content": message.content}
    encoded: dict[str, Any] = {"role": "assistant", "content": message.content}
    extra = message.extra.get(provider) if message.extra else None
    if extra is not None and extra["message"] is not None:
        encoded["extra_content"] = extra["message"]
    if message.tool_calls:
        encoded["content"] = message.content or None
        kept = extra["tool_calls"] if extra is not None else {}
        encoded["tool_calls"] = [_encode_call(call, names, kept.get(call.id)) for call in message.tool_calls]
    return encoded


def _encode_call(call: ToolCall, names: WireNames, extra_content: Any) -> dict[str, Any]:
    name = names.theirs(call.name)
    encoded = {"id": call.id, "type": "function", "function": {"name": name, "arguments": call.arguments or "{}"}}
    if extra_content is not None:
        encoded["extra_content"] = extra_content
    return encoded


def _encode_tool(tool: ToolSpec, names: WireNames) -> dict[str, Any]:
    name = names.theirs(tool.name)
    parameters = tool.parameters or _NO_PARAMETERS
    return {"type": "function", "function": {"name": name, "description": tool.description, "parameters": parameters}}
