"""How Anthropic's responses are written: a body, or the events of a stream, into one Completion. No network here.

Every field may be missing or null, and what is unknown is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.accumulator import StreamAccumulator, WrittenCall
from clasper.gateways.llm.anthropic.blocks import Block, Blocks, Delta
from clasper.gateways.llm.anthropic.request import forces_schema
from clasper.gateways.llm.base import Completion, Finish, ModelCall, ToolCall

_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class _Response(msgspec.Struct, gc=False):
    type: str | None = None
    content: list[Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str | None = None
    index: int | None = None
    message: _Response | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: _Usage | None = None
    error: Any = None


_responses = msgspec.json.Decoder(_Response)
_events = msgspec.json.Decoder(_Event)


class AnthropicAccumulator(StreamAccumulator):
    """Accumulates messages, from the blocks of a body or from the events of a stream."""

    __slots__ = ("_blocks", "_reported")

    def __init__(self, call: ModelCall, provider: str) -> None:
        super().__init__(call, provider)
        self._blocks = Blocks(forced=forces_schema(call))
        self._reported: _Usage | None = None

    @property
    def usage(self) -> Usage | None:
        return _usage(self._reported)

    def whole(self, body: bytes) -> Completion:
        message = self._decode(_responses, body)
        self._take_message(message)
        if message.error is not None or message.type == "error":
            raise self._error_inside(message.error)
        if message.content is None and message.stop_reason is None:
            raise self._failure("a response without content")
        for block in message.content or ():
            self._open(block)
            self._blocks.close()
        self.finish_reason = message.stop_reason or "end_turn"
        return self.completion()

    def add(self, payload: bytes) -> str:
        event = self._decode(_events, payload)
        kind = event.type
        if kind == "content_block_delta":
            return "" if event.delta is None else self._blocks.add(event.delta, event.index)
        if kind == "content_block_start":
            return "" if event.content_block is None else self._open(event.content_block, event.index)
        if kind == "content_block_stop":
            return self._blocks.close(event.index)
        if kind == "error" or event.error is not None:
            raise self._error_inside(event.error)
        return self._outside_blocks(event)

    def _open(self, block: Block, index: int | None = None) -> str:
        try:
            return self._blocks.open(block, index)
        except UnicodeDecodeError as error:
            raise self._unreadable(error.object) from error

    def _outside_blocks(self, event: _Event) -> str:
        if event.message is not None:
            self._take_message(event.message)
        self._count(event.usage)
        stop_reason = None if event.delta is None else event.delta.stop_reason
        if event.type == "message_stop":
            self.done = True
            stop_reason = stop_reason or ("end_turn" if self._blocks else None)
        if self.finished or not stop_reason:
            return ""
        self.finish_reason = stop_reason
        return self._blocks.held_back()

    def _take_message(self, message: _Response) -> None:
        self._model = message.model or self._model
        self._count(message.usage)

    def _count(self, reported: _Usage | None) -> None:
        if reported is not None:
            self._reported = reported if self._reported is None else _later(self._reported, reported)

    def _text(self) -> str:
        return self._blocks.text

    def _written_calls(self) -> list[WrittenCall]:
        return self._blocks.calls

    def _finish(self, reason: str, text: str, *, has_calls: bool) -> Finish:
        finish = _FINISH.get(reason, "stop")
        if finish not in ("stop", "tool_calls"):
            return finish
        if has_calls:
            return "tool_calls"
        # Paused within a tool of the provider's own: with a text it has stopped, without one there is no answer.
        return "error" if reason == "pause_turn" and not text else "stop"

    def _extra(self, tool_calls: Sequence[ToolCall]) -> dict[str, Any]:
        kept = self._blocks.kept(tool_calls)
        return {} if kept is None else {self._provider: kept}


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
