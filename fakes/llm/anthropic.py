"""The messages format as Anthropic's server speaks it."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar
from uuid import uuid4

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.base import Finish
from fakes.llm.wire_format import Answer, FakeWireFormat, json_object, require, words_of

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOP_REASONS: Mapping[Finish, str] = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "refusal": "refusal",
    "content_filter": "refusal",
    "error": "pause_turn",
}
_FIELDS = {
    "model",
    "messages",
    "max_tokens",
    "system",
    "temperature",
    "top_p",
    "top_k",
    "tools",
    "tool_choice",
    "stream",
}
_FIELDS |= {"stop_sequences", "metadata", "thinking", "service_tier", "cache_control", "container", "output_config"}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ID = re.compile(r"[A-Za-z0-9_-]+")
_SIGNED = "RmFrZV"
"""How signatures of this server begin; those of others are accepted unread."""

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FakeAnthropic(FakeWireFormat):
    """Anthropic's own server."""

    base_path: str = "/v1"
    prompt_fields: ClassVar = ("system", "messages")

    def takes(self, path: str) -> bool:
        return path == f"{self.base_path}/messages"

    def check(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        require(headers.get("x-api-key"), "x-api-key header is required", 401)
        require(headers.get("anthropic-version"), "anthropic-version: header is required")
        _check_fields(body)
        _check_tools(body)
        _check_messages(body["messages"])

    def whole(self, answer: Answer) -> dict[str, Any]:
        blocks: list[Block] = []
        if answer.thinking:
            signature = _signature(answer.thinking)
            blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": signature})
        if answer.text:
            blocks.append({"type": "text", "text": answer.text})
        blocks += [{**_use(name), "input": json_object(arguments) or {}} for name, arguments in answer.calls]
        usage = None if answer.usage is None else self.usage(answer.usage)
        return _message(answer, blocks, _STOP_REASONS[answer.finish], usage)

    def chunks(self, answer: Answer) -> list[bytes]:
        usage = None if answer.usage is None else self.usage(answer.usage)
        begun = None if usage is None else {**usage, "output_tokens": 1}
        events = [_event("message_start", message=_message(answer, [], None, begun))]
        for index, (block, deltas) in enumerate(_streamed(answer)):
            events.append(_event("content_block_start", index=index, content_block=block))
            if index == 0:
                events.append(_event("ping"))
            events += [_event("content_block_delta", index=index, delta=delta) for delta in deltas]
            events.append(_event("content_block_stop", index=index))
        ended: dict[str, Any] = {"delta": {"stop_reason": _STOP_REASONS[answer.finish], "stop_sequence": None}}
        if usage is not None:
            ended["usage"] = usage
        return [*events, _event("message_delta", **ended), _event("message_stop")]

    def opening(self, words: Sequence[str]) -> list[bytes]:
        usage = {"input_tokens": 10, "output_tokens": 1}
        return [
            _event("message_start", message=_message(Answer(model="fake"), [], None, usage)),
            _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            *(_event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in words),
        ]

    def error(self, status: int, message: str, *, code: str = "") -> dict[str, Any]:
        inside = {"type": code or _TYPES.get(status, "api_error"), "message": message}
        return {"type": "error", "error": inside, "request_id": _id("req")}

    def stream_error(self, message: str, *, code: str = "") -> bytes:
        return _event("error", error={"type": code or "overloaded_error", "message": message})

    def counts(self, usage: Usage) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "input_tokens": usage.input,
            "cache_creation_input_tokens": usage.cache_write,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.output,
        }
        return {**counts, "output_tokens_details": {"thinking_tokens": usage.reasoning}} if usage.reasoning else counts


def _streamed(answer: Answer) -> Iterable[tuple[Block, list[Block]]]:
    """Every block as it begins, with its pieces."""
    if answer.thinking:
        deltas: list[Block] = [{"type": "thinking_delta", "thinking": word} for word in words_of(answer.thinking)]
        deltas.append({"type": "signature_delta", "signature": _signature(answer.thinking)})
        yield {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if answer.text:
        yield {"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in answer.text_pieces]
    for name, arguments in answer.calls:
        middle = len(arguments) // 2
        pieces = ["", arguments[:middle], arguments[middle:]]
        yield {**_use(name), "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


def _message(
    answer: Answer, blocks: list[Block], stop_reason: str | None, usage: Mapping[str, Any] | None
) -> dict[str, Any]:
    message = {
        "id": _id("msg"),
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": blocks,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }
    return message if usage is None else {**message, "usage": usage}


def _use(name: str) -> Block:
    return {"type": "tool_use", "id": _id("toolu"), "name": name}


def _id(kind: str) -> str:
    return f"{kind}_01{uuid4().hex[:22]}"


def _signature(thinking: str) -> str:
    return _SIGNED + b64encode(sha256(thinking.encode()).digest()).decode()


def _event(kind: str, **facts: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + msgspec.json.encode({"type": kind, **facts}) + b"\n\n"


def _check_fields(body: Mapping[str, Any]) -> None:
    unknown = sorted(body.keys() - _FIELDS)
    require(not unknown, f"{unknown}: Extra inputs are not permitted")
    require(body.get("model"), "model: Field required")
    limit = body.get("max_tokens")
    require(isinstance(limit, int) and limit > 0, "max_tokens: must be greater than or equal to 1")
    require(0 <= body.get("temperature", 1) <= 1, "temperature: range: 0..1")
    require(body.get("messages"), "messages: at least one message is required")
    require(isinstance(body.get("system", ""), str), "system: Input should be a valid string")


def _check_tools(body: Mapping[str, Any]) -> None:
    tools = body.get("tools", [])
    names = [tool.get("name", "") for tool in tools]
    require(all(map(_NAME.fullmatch, names)), "tools.0.custom.name: String should match pattern")
    require(len(set(names)) == len(names), "tools: Tool names must be unique.")
    for tool in tools:
        schema = tool.get("input_schema", {})
        require(schema.get("type") == "object", "tools.0.custom.input_schema.type: Field required")
        combined = {"allOf", "anyOf", "oneOf"} & schema.keys()
        require(not combined, "tools.0.custom.input_schema: input_schema does not support oneOf, allOf, or anyOf")
    choice = body.get("tool_choice")
    require(choice is None or tools, "tool_choice: may only be specified while providing tools")
    if choice and choice.get("type") == "tool":
        require(choice.get("name") in names, f"Tool '{choice.get('name')}' not found in provided tools")


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    require(messages[0]["role"] == "user", 'messages: first message must use the "user" role')
    open_ids: set[str] = set()
    used: set[str] = set()
    for position, message in enumerate(messages):
        role, where = message["role"], f"messages.{position}"
        require(role in ("user", "assistant"), f"{where}.role: Input should be 'user' or 'assistant'")
        require(
            position == 0 or messages[position - 1]["role"] != role,
            "messages: roles must alternate between user and assistant",
        )
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        require(blocks, f"{where}: messages must have non-empty content")
        for block in blocks:
            _check_block(block, role, where)
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        first = [block["type"] for block in blocks[: len(results)]]
        require(
            set(results) == open_ids and len(set(results)) == len(results) and set(first) <= {"tool_result"},
            f"{where}: each `tool_use` block must have one `tool_result` block, first in the next message: {results}",
        )
        ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
        require(len(set(ids)) == len(ids) and not used & set(ids), f"{where}: `tool_use` ids must be unique")
        used |= (open_ids := set(ids))
        if role == "assistant":
            _check_end(blocks[-1], where, is_last=position == len(messages) - 1)
    require(not open_ids, "messages: `tool_use` ids were found without `tool_result` blocks")


def _check_end(block: Block, where: str, *, is_last: bool) -> None:
    thinks = block["type"] in ("thinking", "redacted_thinking")
    require(not thinks, f"{where}: The final block in an assistant message cannot be `thinking`.")
    blank = is_last and block["type"] == "text" and block["text"][-1:].isspace()
    require(not blank, "messages: final assistant content cannot end with trailing whitespace")


def _check_block(block: Block, role: str, where: str) -> None:
    kind = block["type"]
    roles = {"text": ("user", "assistant"), "tool_result": ("user",)}.get(kind, ("assistant",))
    require(role in roles, f"{where}: `{kind}` blocks can only be in `{roles[0]}` messages")
    if kind == "text":
        require(block["text"].strip(), "messages: text content blocks must contain non-whitespace text")
    elif kind == "tool_result":
        empty_error = block.get("is_error") and not block.get("content")
        require(not empty_error, f"{where}: content cannot be empty if `is_error` is true")
    elif kind == "tool_use":
        require(_ID.fullmatch(block["id"]), f"{where}.tool_use.id: String should match pattern")
        require(_NAME.fullmatch(block["name"]), f"{where}.tool_use.name: String should match pattern")
        require(isinstance(block["input"], dict), f"{where}.tool_use.input: Input should be a valid dictionary")
    elif kind == "thinking":
        signature = block.get("signature", "")
        forged = signature.startswith(_SIGNED) and signature != _signature(block["thinking"])
        require(signature and not forged, f"{where}: Invalid `signature` in `thinking` block")
    else:
        require(kind == "redacted_thinking" and block.get("data"), f"{where}: unknown block `{kind}`")
