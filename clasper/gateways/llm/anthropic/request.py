"""How an Anthropic messages request is written. No network here.

The API requires turns of user and assistant that alternate, begin with the user's, contain tool results before anything
else and no blank text. A conversation that does not comply is changed: turns of one role become one, blank texts are
left out, and one that begins with the assistant or is empty gets a user's turn that says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

from clasper.gateways.llm.base import Message, ModelCall, ToolCall, ToolSpec
from clasper.gateways.llm.tool_names import ToolNames
from clasper.gateways.llm.wire_format import NO_PARAMETERS, encode_body

THINKING_BLOCKS = frozenset({"thinking", "redacted_thinking"})

_OUTPUT = "output"
_FIXED_TEMPERATURE = ("claude-opus-4-7", "claude-opus-4-8")
"""Models that refuse every temperature."""
_COMBINATIONS = frozenset({"allOf", "anyOf", "oneOf"})
"""What the API refuses at the top of an input schema."""
_CALL_ID = re.compile(r"[A-Za-z0-9_-]+")

_EARLIER = "(earlier conversation)"
_EMPTY = "(empty message)"
_FAILED = "(failed without a message)"

Block = dict[str, Any]

_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])


def encode_request(call: ModelCall, *, stream: bool, provider: str) -> bytes:
    """The request body; the temperature is clamped to 0..1, and left out for models that refuse one.

    A schema is enforced by a tool that the model must use; see `forces_schema`. Raises ProviderError `invalid_request`
    when JSON cannot represent the call.
    """
    names = ToolNames(call.tools)
    body: dict[str, Any] = {
        "model": call.model,
        "max_tokens": call.max_output_tokens,
        "messages": _turns(call.messages, names, provider),
    }
    system = "\n\n".join(m.content for m in call.messages if m.role == "system" and not _blank(m.content))
    if system:
        body["system"] = system
    if call.temperature is not None and not call.model.startswith(_FIXED_TEMPERATURE):
        body["temperature"] = min(max(call.temperature, 0.0), 1.0)
    if call.tools:
        body["tools"] = [_encode_tool(tool, names) for tool in call.tools]
    elif forces_schema(call):
        body["tools"] = [{"name": _OUTPUT, "description": "Gives the answer.", "input_schema": call.schema}]
        body["tool_choice"] = {"type": "tool", "name": _OUTPUT}
    if stream:
        body["stream"] = True
    return encode_body(body, provider)


def forces_schema(call: ModelCall) -> bool:
    """Whether the call's schema is enforced, as the input of a tool made for it: schemas of objects, without tools."""
    schema = call.schema
    return (
        schema is not None and not call.tools and schema.get("type") == "object" and not _COMBINATIONS & schema.keys()
    )


def _turns(messages: Sequence[Message], names: ToolNames, provider: str) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message, names, provider)
        if blocks and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns:
        return [{"role": "user", "content": _text(_EMPTY)}]
    for turn in turns:
        if turn["role"] == "user" and len(turn["content"]) > 1:
            turn["content"].sort(key=lambda block: bool(block["type"] != "tool_result"))
    if turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": _text(_EARLIER)})
    if turns[-1]["role"] == "assistant" and turns[-1]["content"][-1]["type"] == "text":
        # The API refuses a final text that ends with whitespace.
        turns[-1]["content"][-1]["text"] = turns[-1]["content"][-1]["text"].rstrip()
    return turns


def _blocks(message: Message, names: ToolNames, provider: str) -> list[Block]:
    if message.role == "system":
        return []
    if message.role == "tool":
        return [_result(message)]
    if message.role == "user":
        return _text(message.content)
    uses = [_use(call, names) for call in message.tool_calls]
    kept = message.extra.get(provider) if message.extra else None
    blocks = _as_it_was(message, uses, kept) if kept else [*_text(message.content), *uses]
    while blocks and blocks[-1]["type"] in THINKING_BLOCKS:
        # The API refuses an assistant's turn that ends with thinking.
        blocks.pop()
    return blocks


def _as_it_was(message: Message, uses: Sequence[Block], kept: Sequence[Block]) -> list[Block]:
    """The answer's blocks in their order, with its thinking unchanged; `kept` is what the answer put into `extra`.

    When the text or the tool calls have been changed since, all thinking goes first.
    """
    length = sum(block["length"] for block in kept if block["type"] == "text")
    ids = [block["id"] for block in kept if block["type"] == "tool_use"]
    if length != len(message.content) or ids != [call.id for call in message.tool_calls]:
        thinking = [block for block in kept if block["type"] in THINKING_BLOCKS]
        return [*thinking, *_text(message.content), *uses]
    blocks: list[Block] = []
    rest, remaining = message.content, iter(uses)
    for block in kept:
        if block["type"] == "text":
            blocks += _text(rest[: block["length"]])
            rest = rest[block["length"] :]
        else:
            blocks.append(next(remaining) if block["type"] == "tool_use" else block)
    return blocks


def _text(text: str) -> list[Block]:
    return [] if _blank(text) else [{"type": "text", "text": text}]


def _blank(text: str) -> bool:
    return not text or text.isspace()


def _result(message: Message) -> Block:
    result: Block = {"type": "tool_result", "tool_use_id": _id(message.tool_call_id), "content": message.content}
    if message.failed:
        # The API refuses an error without content.
        result |= {"content": _FAILED if _blank(message.content) else message.content, "is_error": True}
    return result


def _use(call: ToolCall, names: ToolNames) -> Block:
    return {
        "type": "tool_use",
        "id": _id(call.id),
        "name": names.to_wire(call.name),
        "input": _object(call.arguments),
    }


def _id(call_id: str) -> str:
    """The id as the API accepts it: calls of other providers may be part of the conversation."""
    if _CALL_ID.fullmatch(call_id):
        return call_id
    return f"call_{sha256(call_id.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def _object(arguments: str) -> dict[str, msgspec.Raw]:
    try:
        return _objects.decode(arguments)
    except (ValueError, RecursionError):
        return {}


def _encode_tool(tool: ToolSpec, names: ToolNames) -> dict[str, Any]:
    schema = tool.parameters
    if schema.get("type") != "object":
        schema = {**NO_PARAMETERS, **schema, "type": "object"}
    return {"name": names.to_wire(tool.name), "description": tool.description, "input_schema": schema}
