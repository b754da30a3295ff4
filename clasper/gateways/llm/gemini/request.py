"""How a generateContent request is written. No network here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from clasper.gateways.llm.base import Message, ModelCall, ToolCall, ToolSpec
from clasper.gateways.llm.tool_names import ToolNames
from clasper.gateways.llm.wire_format import encode_body

_MAX_TEMPERATURE = 2.0
_EARLIER = "(earlier conversation)"
_NO_SIGNATURE = "skip_thought_signature_validator"
"""Google's marker for a tool call that none of its models made. Models since Gemini 3 refuse a conversation when the
first call of an answer has no signature, as after a fallback from another provider."""
_UNSIGNED = ("gemini-1", "gemini-2")
"""Prefixes of the models that accept calls without a signature."""

_raw = msgspec.json.Decoder(msgspec.Raw)

_Part = dict[str, Any]


def encode_request(call: ModelCall, *, provider: str) -> bytes:
    """The request body, the same for whole and for streamed answers.

    The API requires turns that alternate, begin with the user's and are not empty: turns of one role are joined, empty
    ones left out, and a conversation that begins with the model gets a turn before it. The temperature is clamped to
    0…2. A schema is enforced only in calls without tools, because the API does not accept both. Raises ProviderError
    `invalid_request` when JSON cannot represent the call.
    """
    names = ToolNames(call.tools)
    body: dict[str, Any] = {"contents": _contents(call, names, provider), "generationConfig": _config(call)}
    system = [message.content for message in call.messages if message.role == "system" and message.content]
    if system:
        body["systemInstruction"] = {"parts": [{"text": "\n\n".join(system)}]}
    if call.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool, names) for tool in call.tools]}]
    return encode_body(body, provider)


def _config(call: ModelCall) -> dict[str, Any]:
    config: dict[str, Any] = {"maxOutputTokens": call.max_output_tokens}
    if call.temperature is not None:
        config["temperature"] = min(max(call.temperature, 0.0), _MAX_TEMPERATURE)
    if call.schema is not None and not call.tools:
        config["responseMimeType"] = "application/json"
        if call.schema:
            config["responseJsonSchema"] = call.schema
    return config


def _declaration(tool: ToolSpec, names: ToolNames) -> dict[str, Any]:
    declaration: dict[str, Any] = {"name": names.to_wire(tool.name), "description": tool.description}
    if tool.parameters:
        declaration["parametersJsonSchema"] = tool.parameters
    return declaration


def _contents(call: ModelCall, names: ToolNames, provider: str) -> list[dict[str, Any]]:
    model = call.model.rpartition("/")[2]
    unsigned = model.startswith(_UNSIGNED) or not model.startswith("gemini-")
    asked: dict[str, dict[str, Any]] = {}
    turns: list[dict[str, Any]] = []
    for message in call.messages:
        if message.role == "system":
            continue
        role = "user"
        if message.role == "assistant":
            role, parts = "model", _model_parts(message, names, provider, asked)
            if not unsigned and message.tool_calls:
                first = next(part for part in parts if "functionCall" in part)
                first.setdefault("thoughtSignature", _NO_SIGNATURE)
        elif message.role == "tool":
            parts = _result(message, asked)
        else:
            parts = [{"text": message.content}] if message.content else []
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": role, "parts": parts})
    if not turns:
        return [{"role": "user", "parts": [{"text": " "}]}]
    if turns[0]["role"] == "model":
        turns.insert(0, {"role": "user", "parts": [{"text": _EARLIER}]})
    return turns


def _model_parts(message: Message, names: ToolNames, provider: str, asked: dict[str, dict[str, Any]]) -> list[_Part]:
    """The parts of an earlier answer. Its calls are added to `asked`, by our ids, for the results that follow.

    What is kept in `extra` (see `response`) says how the parts were divided and signed. Text whose length has changed
    since is sent unsigned.
    """
    found = message.extra.get(provider) if message.extra else None
    kept: Sequence[Mapping[str, Any]] = found if isinstance(found, list) else ()
    marks = {entry["call"]: entry for entry in kept if "call" in entry}
    calls = {call.id: _call(call, marks.get(call.id, {}), names) for call in message.tool_calls}
    asked.update((call_id, part["functionCall"]) for call_id, part in calls.items())
    content = message.content
    is_own = bool(kept) and sum(entry.get("text", 0) for entry in kept) == len(content)
    parts: list[_Part] = [{"text": content}] if content and not is_own else []
    position = 0
    for entry in kept:
        if "call" in entry:
            if (part := calls.pop(entry["call"], None)) is not None:
                parts.append(part)
        elif "thought" in entry:
            parts.append({"text": entry["thought"], "thought": True, "thoughtSignature": entry["signature"]})
        elif is_own:
            end = position + entry["text"]
            parts.append(_signed({"text": content[position:end]}, entry))
            position = end
    parts.extend(calls.values())
    return parts


def _call(call: ToolCall, mark: Mapping[str, Any], names: ToolNames) -> _Part:
    function: dict[str, Any] = {"name": names.to_wire(call.name), "args": _json(call.arguments, "{") or {}}
    if mark.get("id"):
        function["id"] = mark["id"]
    return _signed({"functionCall": function}, mark)


def _signed(part: _Part, mark: Mapping[str, Any]) -> _Part:
    if mark.get("signature"):
        part["thoughtSignature"] = mark["signature"]
    return part


def _result(message: Message, asked: Mapping[str, Mapping[str, Any]]) -> list[_Part]:
    """The result of a call; that of a call which is not in the conversation can only be sent as text."""
    function = asked.get(message.tool_call_id)
    if function is None:
        return [{"text": message.content}] if message.content else []
    # Numbers stay text: the API would round long ones.
    value = _json(message.content, '{["tfn') or message.content
    answer = {"name": function["name"], "response": {"error" if message.failed else "result": value}}
    if "id" in function:
        answer["id"] = function["id"]
    return [{"functionResponse": answer}]


def _json(text: str, beginnings: str) -> msgspec.Raw | None:
    """The text as it is, if it is JSON that begins with one of these characters."""
    if not text or text.lstrip()[:1] not in beginnings:
        return None
    try:
        return _raw.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
