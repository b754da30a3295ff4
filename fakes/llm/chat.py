"""The chat-completions format as its servers speak it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from clasper.core.usage import Usage
from fakes.llm.wire_format import Answer, FakeWireFormat, require

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_BASE_PATHS = {"groq": "/openai/v1", "openrouter": "/api/v1"}
_HEAD = {"id": "chatcmpl-fake", "created": 1_770_000_000}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


@dataclass(frozen=True, slots=True)
class FakeChat(FakeWireFormat):
    """One of the providers of this format, by Clasper's name for it; all have their quirks."""

    host: str = "openai"
    prompt_fields: ClassVar = ("messages",)

    @property
    def base_path(self) -> str:
        return _BASE_PATHS.get(self.host, "/v1")

    def takes(self, path: str) -> bool:
        return path == f"{self.base_path}/chat/completions"

    def check(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> None:
        require(body.get("model"), "you must provide a model parameter")
        names = [tool["function"]["name"] for tool in body.get("tools", ())]
        named = all(map(_TOOL_NAME.fullmatch, names)) and len(set(names)) == len(names)
        require(named, "Invalid 'tools[0].function.name': string does not match pattern.")
        if self.host == "mistral":
            _check_mistral(body)
        if self.host == "groq":
            structured = body.get("response_format", {}).get("type") == "json_schema"
            require(not structured, "This model does not support response format `json_schema`.")
        _check_order(body.get("messages") or ())

    def whole(self, answer: Answer) -> dict[str, Any]:
        refused = answer.finish == "refusal"
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if refused else answer.text or None,
            "refusal": answer.text if refused else None,
        }
        if answer.thinking:
            message |= self._thinking(answer.thinking, answer.text)
        if answer.calls:
            message["tool_calls"] = self._calls(answer)
        choice = {"index": 0, "message": message, "finish_reason": _finish(answer), "logprobs": None}
        body = {**_HEAD, "object": "chat.completion", "model": answer.model, "choices": [choice]}
        return body if answer.usage is None else {**body, "usage": self.usage(answer.usage)}

    def chunks(self, answer: Answer) -> list[bytes]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if answer.thinking:
            deltas.append(self._thinking(answer.thinking, ""))
        field = "refusal" if answer.finish == "refusal" else "content"
        deltas += [{field: word} for word in answer.text_pieces]
        for call in self._calls(answer):
            arguments = call["function"]["arguments"]
            deltas.append({"tool_calls": [{**call, "function": {**call["function"], "arguments": ""}}]})
            middle = len(arguments) // 2
            for piece in (arguments[:middle], arguments[middle:]):
                deltas.append({"tool_calls": [{"index": call["index"], "function": {"arguments": piece}}]})
        events = [_event(_chunk(delta, model=answer.model)) for delta in deltas]
        events.append(_event(_chunk({}, finish=_finish(answer), model=answer.model)))
        if answer.usage is not None:
            usage = {**_HEAD, "object": "chat.completion.chunk", "model": answer.model, "choices": []}
            events.append(_event({**usage, "usage": self.usage(answer.usage)}))
        comments = [b": OPENROUTER PROCESSING\n\n"] if self.host == "openrouter" else []
        return [*comments, *events, b"data: [DONE]\n\n"]

    def opening(self, words: Sequence[str]) -> list[bytes]:
        return [_event(_chunk({"content": word})) for word in words]

    def error(self, status: int, message: str, *, code: str = "") -> dict[str, Any]:
        return {"error": {"message": message, "type": "fake", "param": None, "code": code or _CODES.get(status)}}

    def stream_error(self, message: str, *, code: str = "") -> bytes:
        return _event({"error": {"message": message, "type": "server_error", "code": code or None}})

    def _thinking(self, thinking: str, text: str) -> dict[str, Any]:
        """How a provider sends thoughts: as a field, as details to be sent back, or as parts of the content."""
        if self.host == "openrouter":
            details = {"type": "reasoning.text", "text": thinking, "signature": f"signed:{thinking}"}
            return {"reasoning": thinking, "reasoning_details": [{**details, "index": 0, "format": "fake-v1"}]}
        if self.host == "mistral":
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": thinking}], "closed": True}
            return {"content": [thought, *([{"type": "text", "text": text}] if text else [])]}
        return {"reasoning" if self.host == "groq" else "reasoning_content": thinking}

    def _calls(self, answer: Answer) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        for n, (name, arguments) in enumerate(answer.calls):
            call: dict[str, Any] = {"index": n, "type": "function", "function": {"name": name, "arguments": arguments}}
            if answer.call_ids:
                call["id"] = f"fakeCall{n}" if self.host == "mistral" else f"call_fake_{n}"
            calls.append(call)
        return calls

    def counts(self, usage: Usage) -> dict[str, Any]:
        # xAI leaves its thoughts out of the completion, and counts them in the total only.
        said = usage.output - usage.reasoning if self.host == "xai" else usage.output
        return {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": said,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        }


def _check_order(messages: Sequence[Mapping[str, Any]]) -> None:
    """Tool results must answer exactly the calls of the assistant's turn before them."""
    require(messages, "Invalid 'messages': empty array.")
    open_calls: set[str] = set()
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if message["role"] == "tool":
            known = message["tool_call_id"] in open_calls
            require(known, f"Invalid parameter: {where} with role 'tool' must answer a preceding call.")
            open_calls.remove(message["tool_call_id"])
        else:
            require(not open_calls, f"{where}: tool_call_ids did not have response messages: {sorted(open_calls)}")
        open_calls |= {call["id"] for call in message.get("tool_calls") or ()}


def _check_mistral(body: Mapping[str, Any]) -> None:
    """Mistral accepts no unknown field, and only ids of nine letters or digits."""
    require(not body.keys() & {"stream_options", "max_completion_tokens"}, "Extra inputs are not permitted", 422)
    require(body.get("temperature", 0) <= 1.5, "temperature: Input should be less than or equal to 1.5", 422)
    ids = [call["id"] for message in body["messages"] for call in message.get("tool_calls") or ()]
    short = all(map(_SHORT_ID.fullmatch, ids))
    require(short, "Tool call id must be a-z, A-Z, 0-9, with a length of 9.", 422)


def _finish(answer: Answer) -> str:
    return "stop" if answer.finish == "refusal" else answer.finish


def _chunk(delta: Mapping[str, Any], *, finish: str | None = None, model: str = "fake") -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_HEAD, "object": "chat.completion.chunk", "model": model, "choices": [choice]}


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
