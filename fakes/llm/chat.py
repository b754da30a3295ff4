"""The chat-completions format as its servers speak it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from clasper.core.usage import Usage
from fakes.llm.wire_format import Answer

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_BASE_PATHS = {"groq": "/openai/v1", "openrouter": "/api/v1"}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


@dataclass(frozen=True, slots=True)
class FakeChat:
    """One of the providers of this format, by Clasper's name for it; all have their quirks."""

    host: str = "openai"

    @property
    def base_path(self) -> str:
        return _BASE_PATHS.get(self.host, "/v1")

    def takes(self, path: str) -> bool:
        return path == f"{self.base_path}/chat/completions"

    def wants_stream(self, path: str, body: Mapping[str, Any]) -> bool:
        return bool(body.get("stream"))

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        return str(body.get("model", ""))

    def problem(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> tuple[int, str] | None:
        if not body.get("model"):
            return 400, "you must provide a model parameter"
        names = [tool["function"]["name"] for tool in body.get("tools", ())]
        if not all(_TOOL_NAME.fullmatch(name) for name in names) or len(set(names)) < len(names):
            return 400, "Invalid 'tools[0].function.name': string does not match pattern."
        if self.host == "mistral" and (problem := _mistral_problem(body)):
            return 422, problem
        if self.host == "groq" and body.get("response_format", {}).get("type") == "json_schema":
            return 400, "This model does not support response format `json_schema`."
        return _order_problem(body.get("messages") or ())

    def prompt_tokens(self, body: Mapping[str, Any]) -> int:
        return len(msgspec.json.encode(body.get("messages", []))) // 4

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
        body = {"id": "chatcmpl-fake", "object": "chat.completion", "model": answer.model, "choices": [choice]}
        return body if answer.usage is None else {**body, "usage": self._usage(answer.usage)}

    def chunks(self, answer: Answer) -> list[bytes]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if answer.thinking:
            deltas.append(self._thinking(answer.thinking, ""))
        field = "refusal" if answer.finish == "refusal" else "content"
        deltas += [{field: word} for word in words_of(answer.text)]
        for call in self._calls(answer):
            arguments = call["function"]["arguments"]
            deltas.append({"tool_calls": [{**call, "function": {**call["function"], "arguments": ""}}]})
            middle = len(arguments) // 2
            for piece in (arguments[:middle], arguments[middle:]):
                deltas.append({"tool_calls": [{"index": call["index"], "function": {"arguments": piece}}]})
        events = [_event(_chunk(delta, model=answer.model)) for delta in deltas]
        events.append(_event(_chunk({}, finish=_finish(answer), model=answer.model)))
        if answer.usage is not None:
            usage = {"object": "chat.completion.chunk", "model": answer.model, "choices": []}
            events.append(_event({**usage, "usage": self._usage(answer.usage)}))
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
            return {"reasoning": thinking, "reasoning_details": [_reasoning(thinking)]}
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

    def _usage(self, usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(usage, Usage):
            return usage
        # xAI leaves its thoughts out of the completion, and counts them in the total only.
        said = usage.output - usage.reasoning if self.host == "xai" else usage.output
        return {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": said,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        }


def words_of(text: str) -> list[str]:
    """The text in pieces that end with whitespace, as models write it."""
    return re.findall(r"\S+\s*|\s+", text)


def _order_problem(messages: Sequence[Mapping[str, Any]]) -> tuple[int, str] | None:
    """Tool results must answer exactly the calls of the assistant's turn before them."""
    if not messages:
        return 400, "Invalid 'messages': empty array."
    open_calls: set[str] = set()
    for position, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                return 400, f"Invalid parameter: messages[{position}] with role 'tool' must answer a preceding call."
            open_calls.remove(message["tool_call_id"])
        elif open_calls:
            return 400, f"messages[{position}]: tool_call_ids did not have response messages: {sorted(open_calls)}"
        open_calls |= {call["id"] for call in message.get("tool_calls") or ()}
    return None


def _mistral_problem(body: Mapping[str, Any]) -> str:
    """Mistral accepts no unknown field, and only ids of nine letters or digits."""
    if "stream_options" in body or "max_completion_tokens" in body:
        return "Extra inputs are not permitted"
    if body.get("temperature", 0) > 1.5:
        return "temperature: Input should be less than or equal to 1.5"
    ids = [call["id"] for message in body["messages"] for call in message.get("tool_calls") or ()]
    if not all(map(_SHORT_ID.fullmatch, ids)):
        return "Tool call id must be a-z, A-Z, 0-9, with a length of 9."
    return ""


def _reasoning(text: str) -> dict[str, Any]:
    return {"type": "reasoning.text", "text": text, "signature": f"signed:{text}", "index": 0, "format": "fake-v1"}


def _finish(answer: Answer) -> str:
    return "stop" if answer.finish == "refusal" else answer.finish


def _chunk(delta: Mapping[str, Any], *, finish: str | None = None, model: str = "fake") -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "model": model, "choices": [choice]}


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
