"""What the fake model says, in each wire format: chat completions, Anthropic's messages, Gemini's generateContent."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.rendering import ID, NUMBER, compact, numbered, rendered, stream_parts

_SENTENCE = "The quarter closed well ahead of plan, and the team agreed on three next steps for the coming week. "
ANSWER = f"Report {NUMBER}. {_SENTENCE * 4}"[:400]
"""What the model says. Whole answers are numbered, streams are not."""
PROMPT_TOKENS, ANSWER_TOKENS = 1250, 150
TOOL_NAME = "lookup"

CHAT_PATH = b"/v1/chat/completions"
MESSAGES_PATH = b"/v1/messages"
GEMINI_PATH = b"/v1beta/models/"
"""Followed by the model and `:generateContent` or `:streamGenerateContent`."""
MODELS = {"chat": "gpt-4o-mini", "messages": "claude-haiku-4-5", "gemini": "gemini-2.5-flash"}
WIRES = tuple(MODELS)

_CREATED = 1_770_000_000
_STREAMED = re.compile(rb'"stream": ?true')
_TOOL_CALL = {
    "id": "call_benchmark",
    "type": "function",
    "function": {"name": TOOL_NAME, "arguments": '{"query":"quarter"}'},
}
USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": ANSWER_TOKENS,
    "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the model: `whole` is a format (see `numbered`), `parts` are a stream's, written in turn."""

    whole: bytes
    parts: tuple[bytes, ...]
    at_once: bytes

    @classmethod
    def of(cls, body: Any, parts: tuple[bytes, ...]) -> Reply:
        return cls(numbered(rendered(body)), parts, b"".join(parts))


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything said on one wire. Only chat completions know `tool_call`."""

    wire: str
    text: Reply
    tool_call: Reply | None = None


def answers(pieces: Sequence[str]) -> dict[str, Answers]:
    """The answers of each wire; a stream says `pieces`, one a chunk."""
    return {"chat": _chat(pieces), "messages": _messages(pieces), "gemini": _gemini(pieces)}


def wire_of(path: bytes) -> str:
    """The wire that is spoken at the path; empty when there is none."""
    if path == CHAT_PATH:
        return "chat"
    if path == MESSAGES_PATH:
        return "messages"
    return "gemini" if path.startswith(GEMINI_PATH) else ""


def wants_stream(wire: str, path: bytes, body: bytes) -> bool:
    """Whether the request asks for a stream."""
    if wire == "gemini":
        return path.endswith(b":streamGenerateContent")
    return b'"stream"' in body and _STREAMED.search(body) is not None


def pieces_of(chunks: int, chars: int = 0) -> list[str]:
    """A stream's text in so many pieces: ANSWER cut evenly, or with `chars` as much text as gives each so many."""
    if chars:
        text = "".join(itertools.islice(itertools.cycle(_SENTENCE), chunks * chars))
        return [text[start : start + chars] for start in range(0, len(text), chars)]
    cuts = [len(ANSWER) * n // chunks for n in range(chunks + 1)]
    return [ANSWER[start:end] for start, end in itertools.pairwise(cuts)]


def _chat(pieces: Sequence[str]) -> Answers:
    opening = _chat_event({"role": "assistant", "content": ""})
    return Answers(
        "chat",
        Reply.of(
            _completion({"content": ANSWER}, "stop"),
            stream_parts(opening, [_chat_event({"content": piece}) for piece in pieces], _chat_end("stop")),
        ),
        Reply.of(
            _completion({"content": None, "tool_calls": [_TOOL_CALL]}, "tool_calls"),
            stream_parts(opening, [_chat_event({"tool_calls": [{"index": 0, **_TOOL_CALL}]})], _chat_end("tool_calls")),
        ),
    )


def _completion(message: dict[str, Any], finish_reason: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return {
        "id": f"chatcmpl-{ID}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": MODELS["chat"],
        "choices": [choice],
        "usage": USAGE,
    }


def _chat_event(delta: dict[str, Any] | None, finish_reason: str | None = None, usage: Any = None) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    chunk = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": MODELS["chat"],
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + compact(chunk) + b"\n\n"


def _chat_end(finish_reason: str) -> bytes:
    return _chat_event({}, finish_reason) + _chat_event(None, usage=USAGE) + b"data: [DONE]\n\n"


def _messages(pieces: Sequence[str]) -> Answers:
    opening = _named_event("message_start", message=_message([], None, output_tokens=1))
    opening += _named_event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    opening += _named_event("ping")
    chunks = [_named_event("content_block_delta", index=0, delta={"type": "text_delta", "text": p}) for p in pieces]
    end = _named_event("content_block_stop", index=0)
    stopped = {"stop_reason": "end_turn", "stop_sequence": None}
    end += _named_event("message_delta", delta=stopped, usage={"output_tokens": ANSWER_TOKENS})
    end += _named_event("message_stop")
    whole = _message([{"type": "text", "text": ANSWER}], "end_turn", output_tokens=ANSWER_TOKENS)
    return Answers("messages", Reply.of(whole, stream_parts(opening, chunks, end)))


def _message(content: list[dict[str, Any]], stop_reason: str | None, *, output_tokens: int) -> dict[str, Any]:
    return {
        "id": f"msg_{ID}",
        "type": "message",
        "role": "assistant",
        "model": MODELS["messages"],
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": PROMPT_TOKENS,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
        },
    }


def _named_event(name: str, **fields: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + compact({"type": name, **fields}) + b"\n\n"


def _gemini(pieces: Sequence[str]) -> Answers:
    chunks = [_gemini_event(_generated(piece)) for piece in pieces]
    end = _gemini_event(_generated("", "STOP", ANSWER_TOKENS))
    return Answers("gemini", Reply.of(_generated(ANSWER, "STOP", ANSWER_TOKENS), stream_parts(b"", chunks, end)))


def _generated(text: str, finish_reason: str = "", answer_tokens: int = 0) -> dict[str, Any]:
    """A whole answer, or one chunk: each carries counts, and only the last those of the answer."""
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    usage: dict[str, Any] = {"promptTokenCount": PROMPT_TOKENS, "totalTokenCount": PROMPT_TOKENS + answer_tokens}
    usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": PROMPT_TOKENS}]
    if finish_reason:
        candidate["finishReason"] = finish_reason
        usage["candidatesTokenCount"] = answer_tokens
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": MODELS["gemini"],
        "responseId": f"response-{ID}",
    }


def _gemini_event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + compact(chunk) + b"\r\n\r\n"
