"""How a chat-completions request is written. No network here."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from clasper.gateways.llm.base import Message, ModelCall, ToolCall, ToolSpec
from clasper.gateways.llm.openai_chat.dialects import Dialect
from clasper.gateways.llm.tool_names import ToolNames
from clasper.gateways.llm.wire_format import NO_PARAMETERS, encode_body

_SHORT_ID = 9


def encode_request(call: ModelCall, dialect: Dialect, *, stream: bool, provider: str) -> bytes:
    """The request body. Raises ProviderError `invalid_request` when JSON cannot represent the call."""
    names = ToolNames(call.tools)
    body: dict[str, Any] = {
        "model": call.model,
        "messages": [_encode_message(message, names, provider, dialect) for message in call.messages],
        dialect.limit_field: call.max_output_tokens,
    }
    if call.temperature is not None and not call.model.startswith(dialect.fixed_temperature or "\0"):
        body["temperature"] = min(call.temperature, dialect.max_temperature)
    if call.tools:
        body["tools"] = [_encode_tool(tool, names) for tool in call.tools]
    if call.schema is not None:
        body.update(_response_format(call, dialect))
    if stream:
        body["stream"] = True
        if dialect.stream_options:
            body["stream_options"] = {"include_usage": True}
    return encode_body(body, provider)


def _response_format(call: ModelCall, dialect: Dialect) -> dict[str, Any]:
    """Providers enforce schemas of objects only, and a mere JSON mode excludes tools."""
    if call.schema is None or call.schema.get("type") != "object" or not dialect.structured:
        return {}
    if dialect.structured == "json_object":
        return {} if call.tools else {"response_format": {"type": "json_object"}}
    # Not `strict`: that mode supports only a part of JSON Schema, and callers use all of it.
    schema = {"name": "output", "schema": call.schema, "strict": False}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _encode_message(message: Message, names: ToolNames, provider: str, dialect: Dialect) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": _id(message.tool_call_id, dialect), "content": message.content}
    if message.role != "assistant":
        return {"role": message.role, "content": message.content}
    encoded: dict[str, Any] = {"role": "assistant", "content": message.content}
    extra = message.extra.get(provider) if message.extra else None
    if extra is not None:
        encoded.update(extra["message"])
    if message.tool_calls:
        encoded["content"] = message.content or None
        kept = extra["tool_calls"] if extra is not None else {}
        encoded["tool_calls"] = [_encode_call(call, names, kept.get(call.id), dialect) for call in message.tool_calls]
    return encoded


def _encode_call(call: ToolCall, names: ToolNames, extra_content: Any, dialect: Dialect) -> dict[str, Any]:
    function = {"name": names.to_wire(call.name), "arguments": call.arguments or "{}"}
    encoded = {"id": _id(call.id, dialect), "type": "function", "function": function}
    if extra_content is not None:
        encoded["extra_content"] = extra_content
    return encoded


def _id(call_id: str, dialect: Dialect) -> str:
    if dialect.short_ids and not (len(call_id) == _SHORT_ID and call_id.isascii() and call_id.isalnum()):
        return sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT_ID]
    return call_id


def _encode_tool(tool: ToolSpec, names: ToolNames) -> dict[str, Any]:
    name = names.to_wire(tool.name)
    parameters = tool.parameters or NO_PARAMETERS
    return {"type": "function", "function": {"name": name, "description": tool.description, "parameters": parameters}}
