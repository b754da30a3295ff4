"""How chat-completions responses are written: a body, or the chunks of a stream, into one Completion.

Every field may be missing or null: providers that imitate OpenAI leave out what they please.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.accumulator import StreamAccumulator, WrittenCall
from clasper.gateways.llm.base import Completion, Finish, ModelCall, ToolCall

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None


class _Part(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    extra_content: Any = None
    reasoning_details: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    error: Any = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Response(msgspec.Struct, gc=False):
    """A whole response or one chunk of a stream: they differ only in `message` and `delta`."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Response)


@dataclass(slots=True)
class _PartialCall:
    """A tool call under construction."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    extra_content: Any = None

    def is_another(self, piece: _Call) -> bool:
        """Whether a piece opens another call: its id differs or, without ids, it is named and this one is complete."""
        if piece.id and self.id:
            return piece.id != self.id
        return bool(piece.function and piece.function.name and self.name and _is_json("".join(self.arguments)))

    def add(self, piece: _Call) -> None:
        self.id = self.id or piece.id or ""
        if piece.extra_content is not None:
            self.extra_content = piece.extra_content
        if piece.function is not None:
            self.name = self.name or piece.function.name or ""
            self.arguments.append(_arguments(piece.function.arguments))


class ChatAccumulator(StreamAccumulator):
    """Accumulates chat completions."""

    __slots__ = ("_by_index", "_calls", "_extra_content", "_reasoning", "_refusals", "_reported", "_texts")

    def __init__(self, call: ModelCall, provider: str) -> None:
        super().__init__(call, provider)
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._calls: list[_PartialCall] = []
        self._by_index: dict[int, _PartialCall] = {}
        self._extra_content: Any = None
        self._reasoning: list[dict[str, Any]] = []
        self._reported: _Usage | None = None

    @property
    def usage(self) -> Usage | None:
        return _usage(self._reported)

    def add(self, payload: bytes) -> str:
        if payload == b"[DONE]":
            self.done = True
            return ""
        choice = self._read(payload)
        return "" if choice is None or choice.delta is None else self._add_message(choice.delta)

    def whole(self, body: bytes) -> Completion:
        choice = self._read(body)
        if choice is None:
            raise self._failure("a response without choices")
        self._add_message(choice.message or _Message(), whole=True)
        self.finish_reason = self.finish_reason or "stop"
        return self.completion()

    def _read(self, body: bytes) -> _Choice | None:
        """The choice of a response or chunk, after taking what surrounds it."""
        response = self._decode(_decoder, body)
        if response.usage is not None:
            self._reported = response.usage
        if response.model:
            self._model = response.model
        choice = response.choices[0] if response.choices else None
        if error := response.error or (choice and choice.error):
            raise self._error_inside(error)
        if choice is not None and choice.finish_reason:
            self.finish_reason = choice.finish_reason
        return choice

    def _add_message(self, message: _Message, *, whole: bool = False) -> str:
        """Takes a delta, or a `whole` message, in which every tool call is one of its own. Returns its text."""
        content = message.content
        text = content if isinstance(content, str) else _joined(content)
        if text:
            self._texts.append(text)
        if message.refusal:
            self._refusals.append(message.refusal)
        if message.extra_content is not None:
            self._extra_content = message.extra_content
        if message.reasoning_details:
            for detail in message.reasoning_details:
                _join_reasoning(self._reasoning, detail, whole=whole)
        if message.tool_calls:
            for piece in message.tool_calls:
                (self._opened(piece) if whole else self._call_of(piece)).add(piece)
        return text

    def _call_of(self, piece: _Call) -> _PartialCall:
        """The call that a piece continues. Providers leave out the index, or number all parallel calls 0."""
        last = self._calls[-1] if self._calls else None
        known = last if piece.index is None else self._by_index.get(piece.index)
        return self._opened(piece) if known is None or known.is_another(piece) else known

    def _opened(self, piece: _Call) -> _PartialCall:
        opened = _PartialCall()
        self._calls.append(opened)
        if piece.index is not None:
            self._by_index[piece.index] = opened
        return opened

    def _text(self) -> str:
        return "".join(self._texts) or "".join(self._refusals)

    def _written_calls(self) -> list[WrittenCall]:
        return [WrittenCall(call.id, call.name, "".join(call.arguments)) for call in self._calls]

    def _finish(self, reason: str, text: str, *, has_calls: bool) -> Finish:
        if self._refusals:
            return "refusal"
        finish = _FINISH.get(reason, "stop")
        if finish in ("stop", "tool_calls"):
            # Some providers say `stop` beside tool calls, some `tool_calls` without any.
            return "tool_calls" if has_calls else "stop"
        return finish

    def _extra(self, tool_calls: Sequence[ToolCall]) -> dict[str, Any]:
        """The provider's own fields of the message and of each tool call."""
        kept = {
            made.id: call.extra_content
            for made, call in zip(tool_calls, self._calls, strict=True)
            if call.extra_content is not None
        }
        own: dict[str, Any] = {}
        if self._extra_content is not None:
            own["extra_content"] = self._extra_content
        if self._reasoning:
            own["reasoning_details"] = self._reasoning
        return {self._provider: {"message": own, "tool_calls": kept}} if own or kept else {}


_REASONING_TEXTS = ("text", "summary", "data")


def _join_reasoning(known: list[dict[str, Any]], piece: dict[str, Any], *, whole: bool) -> None:
    """Takes a reasoning detail; in a stream, the pieces of one detail are consecutive and share type and index."""
    last = known[-1] if known else None
    if whole or last is None or any(last.get(key) != piece.get(key) for key in ("type", "index")):
        known.append(dict(piece))
        return
    for key, value in piece.items():
        if key in _REASONING_TEXTS and isinstance(value, str) and isinstance(last.get(key), str):
            last[key] += value
        elif value is not None:
            last[key] = value


def _arguments(written: str | dict[str, Any] | None) -> str:
    return written if isinstance(written, str) else msgspec.json.encode(written).decode() if written else ""


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


def _joined(parts: list[_Part] | None) -> str:
    if not parts:
        return ""
    return "".join(part.text for part in parts if part.text and part.type in (None, "text", "output_text"))


def _usage(reported: _Usage | None) -> Usage | None:
    """Disjoint buckets. What exceeds prompt and completion in the total was spent on thinking and is paid as output:
    some providers leave it out of `completion_tokens`."""
    if reported is None or not (reported.prompt_tokens or reported.completion_tokens):
        return None
    prompt, completion = max(0, reported.prompt_tokens or 0), max(0, reported.completion_tokens or 0)
    inside = reported.prompt_tokens_details or _PromptDetails()
    cached = min(max(0, inside.cached_tokens or 0), prompt)
    written = min(max(0, inside.cache_write_tokens or 0), prompt - cached)
    output = max(completion, (reported.total_tokens or 0) - prompt)
    thinking = (reported.completion_tokens_details or _CompletionDetails()).reasoning_tokens or 0
    return Usage(
        input=prompt - cached - written,
        cached=cached,
        cache_write=written,
        output=output,
        reasoning=min(max(0, thinking, output - completion), output),
    )
