"""How Anthropic's answers are spelled: a body, or the events of a stream, into one Completion. No network here.

Every field may be missing or null, and what is unknown is passed over.
"""

from __future__ import annotations

from typing import Any

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.anthropic.draft import Block, Delta, Draft, unreadable
from clasper.gateways.llm.base import Completion, ModelCall, ProviderError
from clasper.gateways.llm.failures import body_failure, error_object, failure


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class _Answer(msgspec.Struct, gc=False):
    type: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str | None = None
    index: int | None = None
    message: _Answer | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: _Usage | None = None
    error: Any = None


_answers = msgspec.json.Decoder(_Answer)
_events = msgspec.json.Decoder(_Event)


def decode_completion(body: bytes, call: ModelCall, provider: str) -> Completion:
    """The completion of a whole answer. Raises ProviderError for anything else, also for an error in a 200."""
    try:
        answer = _answers.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(body, provider) from error
    usage = _usage(answer.usage)
    if answer.error is not None or answer.type == "error":
        raise _error_inside(answer.error, provider, usage)
    if answer.content is None and answer.stop_reason is None:
        raise failure("bad_response", provider, detail="an answer without content")
    draft = Draft(call, provider)
    for block in answer.content or ():
        draft.open(block)
        draft.close()
    return draft.completion(answer.stop_reason or "end_turn", usage, answer.model)


class StreamAssembly:
    """Puts the events of one stream together. `finished`: the model ended its answer; `done`: the stream did."""

    __slots__ = ("_draft", "_model", "_provider", "_reported", "_stop_reason", "done")

    def __init__(self, call: ModelCall, provider: str) -> None:
        self._provider = provider
        self._draft = Draft(call, provider)
        self._model: str | None = None
        self._reported: _Usage | None = None
        self._stop_reason: str | None = None
        self.done = False

    @property
    def finished(self) -> bool:
        return self._stop_reason is not None

    @property
    def usage(self) -> Usage | None:
        return _usage(self._reported)

    def add(self, payload: bytes) -> str:
        """Takes the data of one event and returns its text, mostly a few letters or nothing. Raises ProviderError."""
        try:
            event = _events.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise unreadable(payload, self._provider, self.usage) from error
        kind = event.type
        if kind == "content_block_delta":
            return "" if event.delta is None else self._draft.add(event.delta, event.index)
        if kind == "content_block_start":
            return "" if event.content_block is None else self._draft.open(event.content_block, event.index)
        if kind == "content_block_stop":
            return self._draft.close(event.index)
        if kind == "error" or event.error is not None:
            raise _error_inside(event.error, self._provider, self.usage)
        return self._outside_blocks(event)

    def _outside_blocks(self, event: _Event) -> str:
        if event.message is not None:
            self._model = event.message.model or self._model
            self._count(event.message.usage)
        self._count(event.usage)
        stop_reason = None if event.delta is None else event.delta.stop_reason
        if event.type == "message_stop":
            self.done = True
            stop_reason = stop_reason or ("end_turn" if self._draft.begun else None)
        if self._stop_reason is not None or not stop_reason:
            return ""
        self._stop_reason = stop_reason
        return self._draft.held_back()

    def _count(self, reported: _Usage | None) -> None:
        if reported is not None:
            self._reported = reported if self._reported is None else _later(self._reported, reported)

    def completion(self) -> Completion:
        """The whole answer. Raises ProviderError when the stream ended before the model did."""
        if self._stop_reason is None:
            cut = failure("connection", self._provider, detail="the stream ended before the answer did")
            cut.usage = self.usage
            raise cut
        return self._draft.completion(self._stop_reason, self.usage, self._model)


def _error_inside(error: Any, provider: str, usage: Usage | None) -> ProviderError:
    found = error_object({"error": error})
    inside = body_failure(found, provider) if found else failure("bad_response", provider, detail=str(error))
    inside.usage = usage
    return inside


def _later(earlier: _Usage, later: _Usage) -> _Usage:
    """Counts are cumulative, and a later event may leave out those that have not changed."""
    return _Usage(
        max(earlier.input_tokens or 0, later.input_tokens or 0),
        max(earlier.cache_read_input_tokens or 0, later.cache_read_input_tokens or 0),
        max(earlier.cache_creation_input_tokens or 0, later.cache_creation_input_tokens or 0),
        max(earlier.output_tokens or 0, later.output_tokens or 0),
        later.output_tokens_details or earlier.output_tokens_details,
    )


def _usage(reported: _Usage | None) -> Usage | None:
    if reported is None:
        return None
    output = max(0, reported.output_tokens or 0)
    thinking = (reported.output_tokens_details or _OutputDetails()).thinking_tokens or 0
    usage = Usage(
        input=max(0, reported.input_tokens or 0),
        cached=max(0, reported.cache_read_input_tokens or 0),
        cache_write=max(0, reported.cache_creation_input_tokens or 0),
        output=output,
        reasoning=min(max(0, thinking), output),
    )
    return usage if usage.total_tokens else None
