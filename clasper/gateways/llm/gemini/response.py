"""How generateContent responses are written: a body, or the chunks of a stream, into one Completion.

Every chunk of a stream is written like a whole response, and every field may be missing or null.

What the provider wants back with an answer is kept in `Completion.extra[provider]`, one entry a part, in order:
`{"text": characters}`, `{"call": our id, "id": the provider's id if there is one}` or `{"thought": text}`, with the
part's `signature` if it had one. Consecutive texts without a signature are one entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.http import UNREADABLE_JSON
from clasper.gateways.llm.accumulator import StreamAccumulator, WrittenCall
from clasper.gateways.llm.base import Completion, Finish, ModelCall, ProviderError, ToolCall
from clasper.gateways.llm.failures import body_failure, read_error

_FINISH: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "MODEL_ARMOR": "content_filter",
}
"""Reasons that are not here, such as MALFORMED_FUNCTION_CALL, mean that the model failed."""
_BLOCKED = "PROHIBITED_CONTENT"
_NOT_YET = "FINISH_REASON_UNSPECIFIED"


class _FunctionCall(msgspec.Struct, gc=False):
    name: str | None = None
    args: msgspec.Raw = msgspec.Raw()
    id: str | None = None


class _Part(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Counts(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    total_token_count: int | None = None


class _Response(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Counts | None = None
    model_version: str | None = None
    error: Any = None

    @property
    def blocked(self) -> bool:
        """Whether the prompt itself was refused, so that there is no answer."""
        return not self.candidates and self.prompt_feedback is not None and bool(self.prompt_feedback.block_reason)


_decoder = msgspec.json.Decoder(_Response)


class GeminiAccumulator(StreamAccumulator):
    """Accumulates generateContent responses. Nothing marks the end of their streams, so `done` stays False."""

    __slots__ = ("_calls", "_counts", "_entries", "_is_marked", "_texts", "_unsigned")

    def __init__(self, call: ModelCall, provider: str) -> None:
        super().__init__(call, provider)
        self._texts: list[str] = []
        self._calls: list[_FunctionCall] = []
        self._entries: list[dict[str, Any]] = []
        self._unsigned = 0
        self._is_marked = False
        self._counts: _Counts | None = None

    @property
    def usage(self) -> Usage | None:
        return _usage(self._counts)

    def add(self, payload: bytes) -> str:
        return self._take(self._decode(_decoder, payload))

    def whole(self, body: bytes) -> Completion:
        response = self._decode(_decoder, body)
        self._take(response)
        if not response.candidates and not response.blocked:
            raise self._failure("a response without candidates")
        self.finish_reason = self.finish_reason or "STOP"
        return self.completion()

    def _take(self, response: _Response) -> str:
        counts = response.usage_metadata
        # Some servers count only in the last chunk and send counts without tokens before it.
        if counts is not None and (counts.prompt_token_count or counts.total_token_count):
            self._counts = counts
        if response.error:
            raise self._error_inside(response.error)
        if response.model_version:
            self._model = response.model_version
        if not response.candidates:
            if response.blocked:
                self.finish_reason = _BLOCKED
            return ""
        candidate = response.candidates[0]
        if candidate.finish_reason and candidate.finish_reason != _NOT_YET:
            self.finish_reason = candidate.finish_reason
        content = candidate.content
        return "" if content is None or not content.parts else self._add_parts(content.parts)

    def _add_parts(self, parts: Sequence[_Part]) -> str:
        """Takes the parts of a chunk and returns their text."""
        text = ""
        for part in parts:
            if part.function_call is not None:
                self._add_call(part.function_call, part.thought_signature)
            elif part.thought:
                if part.thought_signature:
                    self._mark({"thought": part.text or "", "signature": part.thought_signature})
            else:
                piece = part.text or ""
                if part.thought_signature:
                    self._mark({"text": len(piece), "signature": part.thought_signature})
                else:
                    self._unsigned += len(piece)
                if piece:
                    self._texts.append(piece)
                    text = text + piece if text else piece
        return text

    def _add_call(self, call: _FunctionCall, signature: str | None) -> None:
        if not call.name:
            return
        entry: dict[str, Any] = {"call": len(self._calls)}
        if call.id:
            entry["id"] = call.id
        if signature:
            entry["signature"] = signature
        self._calls.append(call)
        self._close_text()
        self._entries.append(entry)
        self._is_marked = self._is_marked or len(entry) > 1

    def _mark(self, entry: dict[str, Any]) -> None:
        self._close_text()
        self._entries.append(entry)
        self._is_marked = True

    def _close_text(self) -> None:
        if self._unsigned:
            self._entries.append({"text": self._unsigned})
            self._unsigned = 0

    def _text(self) -> str:
        return "".join(self._texts)

    def _written_calls(self) -> list[WrittenCall]:
        return [WrittenCall(call.id or "", call.name or "", self._arguments(call.args)) for call in self._calls]

    def _arguments(self, written: msgspec.Raw) -> str:
        """The arguments without the blanks of the body around them."""
        text = bytes(written)
        if text in (b"", b"null"):
            return "{}"
        try:
            return msgspec.json.format(text, indent=-1).decode()
        except UNREADABLE_JSON as error:
            raise self._unreadable(text) from error

    def _finish(self, reason: str, text: str, *, has_calls: bool) -> Finish:
        finish = _FINISH.get(reason, "error")
        return "tool_calls" if finish == "stop" and has_calls else finish

    def _extra(self, tool_calls: Sequence[ToolCall]) -> dict[str, Any]:
        if not self._is_marked:
            return {}
        self._close_text()
        entries = [
            {**entry, "call": tool_calls[entry["call"]].id} if "call" in entry else entry for entry in self._entries
        ]
        return {self._provider: entries}

    def _unreadable(self, body: bytes) -> ProviderError:
        # Google wraps an error in a list where it takes the whole stream for one.
        found = read_error(body)
        return super()._unreadable(body) if found is None else body_failure(found, self._provider, usage=self.usage)


def _usage(counts: _Counts | None) -> Usage | None:
    """Disjoint buckets. Whatever exceeds the prompt in the total is output, whether or not it is counted separately."""
    if counts is None or not (counts.prompt_token_count or counts.total_token_count):
        return None
    prompt, tools = max(0, counts.prompt_token_count or 0), max(0, counts.tool_use_prompt_token_count or 0)
    cached = min(max(0, counts.cached_content_token_count or 0), prompt)
    thinking = max(0, counts.thoughts_token_count or 0)
    counted = max(0, counts.candidates_token_count or 0) + thinking
    output = max(counted, (counts.total_token_count or 0) - prompt - tools)
    return Usage(input=prompt - cached + tools, cached=cached, output=output, reasoning=thinking)
