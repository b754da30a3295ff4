"""How chat-completions answers are spelled: a body, or the chunks of a stream, into one Completion. No network here.

Every field may be missing or null: hosts that imitate OpenAI's leave out what they please.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.base import Completion, Finish, ModelCall, ProviderError, ToolCall
from clasper.gateways.llm.failures import body_failure, error_object, failure
from clasper.gateways.llm.names import WireNames

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


class _Answer(msgspec.Struct, gc=False):
    """A whole answer or one chunk of a stream: they differ only in `message` and `delta`."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Answer)


def decode_completion(body: bytes, call: ModelCall, provider: str) -> Completion:
    """The completion of a whole answer. Raises ProviderError for anything else, also for an error in a 200."""
    answer = _decode(body, provider)
    choice = answer.choices[0] if answer.choices else None
    if choice is None:
        raise failure("bad_response", provider, detail="an answer without choices")
    draft = _Draft()
    draft.add(choice.message or _Message(), whole=True)
    return draft.completion(
        call, provider, finish=choice.finish_reason or "stop", usage=answer.usage, model=answer.model
    )


class StreamAssembly:
    """Puts the chunks of one stream together. `finished`: the model ended its answer; `done`: the stream did."""

    __slots__ = ("_call", "_draft", "_finish", "_model", "_provider", "_usage", "done")

    def __init__(self, call: ModelCall, provider: str) -> None:
        self._call = call
        self._provider = provider
        self._draft = _Draft()
        self._finish: str | None = None
        self._model: str | None = None
        self._usage: _Usage | None = None
        self.done = False

    @property
    def finished(self) -> bool:
        return self._finish is not None

    @property
    def usage(self) -> Usage | None:
        return _usage(self._usage)

    def add(self, payload: bytes) -> str:
        """Takes one chunk and returns its text, mostly a few letters or nothing. Raises ProviderError."""
        if payload == b"[DONE]":
            self.done = True
            return ""
        chunk = _decode(payload, self._provider)
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.model:
            self._model = chunk.model
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        if choice.finish_reason:
            self._finish = choice.finish_reason
        return "" if choice.delta is None else self._draft.add(choice.delta)

    def completion(self) -> Completion:
        """The whole answer. Raises ProviderError when the stream ended before the model did."""
        if self._finish is None:
            cut = failure("connection", self._provider, detail="the stream ended before the answer did")
            cut.usage = self.usage
            raise cut
        return self._draft.completion(
            self._call, self._provider, finish=self._finish, usage=self._usage, model=self._model
        )


@dataclass(slots=True)
class _DraftCall:
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


class _Draft:
    """An answer under construction, from one message or from many deltas."""

    __slots__ = ("_by_index", "_calls", "_extra_content", "_reasoning", "_refusal", "_text")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[_DraftCall] = []
        self._by_index: dict[int, _DraftCall] = {}
        self._extra_content: Any = None
        self._reasoning: list[dict[str, Any]] = []

    def add(self, message: _Message, *, whole: bool = False) -> str:
        """Takes a delta, or a `whole` message, in which every tool call is one of its own. Returns its text."""
        content = message.content
        text = content if isinstance(content, str) else _joined(content)
        if text:
            self._text.append(text)
        if message.refusal:
            self._refusal.append(message.refusal)
        if message.extra_content is not None:
            self._extra_content = message.extra_content
        if message.reasoning_details:
            for detail in message.reasoning_details:
                _join_reasoning(self._reasoning, detail, whole=whole)
        for piece in message.tool_calls or ():
            (self._opened(piece) if whole else self._call_of(piece)).add(piece)
        return text

    def _call_of(self, piece: _Call) -> _DraftCall:
        """The call that a piece continues. Hosts leave out the index, or number all parallel calls 0."""
        known = self._by_index.get(piece.index) if piece.index is not None else self._last()
        return self._opened(piece) if known is None or known.is_another(piece) else known

    def _last(self) -> _DraftCall | None:
        return self._calls[-1] if self._calls else None

    def _opened(self, piece: _Call) -> _DraftCall:
        opened = _DraftCall()
        self._calls.append(opened)
        if piece.index is not None:
            self._by_index[piece.index] = opened
        return opened

    def completion(
        self, call: ModelCall, provider: str, *, finish: str, usage: _Usage | None, model: str | None
    ) -> Completion:
        tool_calls = self._tool_calls(call)
        text, refusal = "".join(self._text), "".join(self._refusal)
        tokens = _usage(usage)
        return Completion(
            text=text or refusal,
            tool_calls=tool_calls,
            finish="refusal" if refusal else _finish(finish, bool(tool_calls)),
            usage=tokens or Usage(),
            usage_reported=tokens is not None,
            model=model or call.model,
            extra=self._extra(tool_calls, provider),
        )

    def _tool_calls(self, call: ModelCall) -> tuple[ToolCall, ...]:
        if not self._calls:
            return ()
        names = WireNames(call.tools)
        # Counted on through the conversation, so that an id made up here is unique in it.
        earlier = sum(len(message.tool_calls) for message in call.messages)
        return tuple(
            ToolCall(draft.id or f"call_{earlier + n}", names.ours(draft.name), "".join(draft.arguments))
            for n, draft in enumerate(self._calls)
        )

    def _extra(self, tool_calls: tuple[ToolCall, ...], provider: str) -> dict[str, Any]:
        """What the host wants back with this answer: its own fields of the message and of each tool call."""
        kept = {
            made.id: draft.extra_content
            for made, draft in zip(tool_calls, self._calls, strict=True)
            if draft.extra_content is not None
        }
        own: dict[str, Any] = {}
        if self._extra_content is not None:
            own["extra_content"] = self._extra_content
        if self._reasoning:
            own["reasoning_details"] = self._reasoning
        return {provider: {"message": own, "tool_calls": kept}} if own or kept else {}


_REASONING_TEXTS = ("text", "summary", "data")


def _join_reasoning(known: list[dict[str, Any]], piece: dict[str, Any], *, whole: bool) -> None:
    """Takes a reasoning detail; pieces of one detail in a stream follow each other and share type and index."""
    last = known[-1] if known else None
    if whole or last is None or any(last.get(key) != piece.get(key) for key in ("type", "index")):
        known.append(dict(piece))
        return
    for key, value in piece.items():
        if key in _REASONING_TEXTS and isinstance(value, str) and isinstance(last.get(key), str):
            last[key] += value
        elif value is not None:
            last[key] = value


def _decode(body: bytes, provider: str) -> _Answer:
    try:
        answer = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(body, provider) from error
    inside = answer.error or (answer.choices and answer.choices[0].error)
    if inside:
        refused = _error_inside(inside, provider)
        refused.usage = _usage(answer.usage)
        raise refused
    return answer


def _unreadable(body: bytes, provider: str) -> ProviderError:
    return failure("bad_response", provider, detail=body[:200].decode("utf-8", "replace"))


def _error_inside(error: Any, provider: str) -> ProviderError:
    found = error_object({"error": error})
    return body_failure(found, provider) if found else failure("bad_response", provider, detail=str(error))


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


def _finish(reason: str, has_calls: bool) -> Finish:
    finish = _FINISH.get(reason, "stop")
    if finish in ("stop", "tool_calls"):
        # Some hosts say `stop` beside tool calls, some `tool_calls` without any.
        return "tool_calls" if has_calls else "stop"
    return finish


def _usage(reported: _Usage | None) -> Usage | None:
    """Disjoint buckets. What the total holds beyond prompt and completion was spent on thinking and is paid as output:
    some hosts leave it out of `completion_tokens`."""
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
