"""An answer of Anthropic's under construction: its blocks, and what becomes of them. No network here.

Thinking is never text. It is kept, signed as it came, in `Completion.extra` for the next request of a tool loop, which
the API refuses without it: a list of the answer's blocks in their order, `thinking` and `redacted_thinking` whole,
`text` as its length and `tool_use` as its id, since the rest of these is in the message itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from clasper.core.usage import Usage
from clasper.gateways.llm.anthropic.request import THINKING_BLOCKS, forces_schema
from clasper.gateways.llm.base import Completion, Finish, ModelCall, ProviderError, ToolCall
from clasper.gateways.llm.failures import failure
from clasper.gateways.llm.names import WireNames

_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}


class Block(msgspec.Struct, gc=False):
    """A content block, whole or as a stream begins it."""

    type: str | None = None
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class Delta(msgspec.Struct, gc=False):
    """The next piece of a block, or why the message ended."""

    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


@dataclass(slots=True)
class _DraftBlock:
    """A block under construction. `parts` are of its text, its thinking or the JSON text of its input."""

    kind: str
    id: str = ""
    name: str = ""
    given: str = "{}"
    data: str = ""
    parts: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)

    @property
    def joined(self) -> str:
        return "".join(self.parts)

    @property
    def arguments(self) -> str:
        return self.joined or self.given


class Draft:
    """An answer under construction, from the blocks of a body or from the events of a stream.

    Where the call's schema is enforced, the input of the first tool is the text; a text, which the model then writes
    only when it does not use the tool, is held back until that is known.
    """

    __slots__ = ("_blocks", "_by_index", "_call", "_forced", "_output", "_provider")

    def __init__(self, call: ModelCall, provider: str) -> None:
        self._call = call
        self._provider = provider
        self._forced = forces_schema(call)
        self._output: _DraftBlock | None = None
        self._blocks: list[_DraftBlock] = []
        self._by_index: dict[int | None, _DraftBlock] = {}

    @property
    def begun(self) -> bool:
        return bool(self._blocks)

    def open(self, block: Block, index: int | None = None) -> str:
        """Begins a block and returns its text."""
        opened = _DraftBlock(
            block.type or "", block.id or "", block.name or "", self._json_text(block.input), block.data or ""
        )
        self._blocks.append(opened)
        self._by_index[index] = opened
        if self._forced and self._output is None and opened.kind == "tool_use":
            self._output = opened
        return self._add(opened, Delta(block.text, None, block.thinking, block.signature))

    def add(self, delta: Delta, index: int | None) -> str:
        """Takes the next piece of a block and returns its text."""
        block = self._by_index.get(index)
        if block is None:
            return self.open(Block("text", delta.text), index) if delta.text else ""
        return self._add(block, delta)

    def close(self, index: int | None = None) -> str:
        """Ends a block and returns what of its text only its end tells."""
        block = self._by_index.get(index)
        if block is None or block is not self._output or block.parts:
            return ""
        block.parts.append(block.given)
        return block.given

    def held_back(self) -> str:
        """The text that was not returned because a tool's input was to come, and none came."""
        return self._texts() if self._forced and self._output is None else ""

    def _add(self, block: _DraftBlock, delta: Delta) -> str:
        kind = block.kind
        if kind == "text":
            if not delta.text:
                return ""
            block.parts.append(delta.text)
            return "" if self._forced else delta.text
        if kind == "tool_use":
            if not delta.partial_json:
                return ""
            block.parts.append(delta.partial_json)
            return delta.partial_json if block is self._output else ""
        if kind == "thinking":
            if delta.thinking:
                block.parts.append(delta.thinking)
            if delta.signature:
                block.signature.append(delta.signature)
        return ""

    def _json_text(self, value: msgspec.Raw) -> str:
        written = bytes(value)
        if not written.startswith(b"{"):
            return "{}"
        try:
            return written.decode()
        except UnicodeDecodeError as error:
            raise unreadable(written, self._provider) from error

    def completion(self, stop_reason: str, usage: Usage | None, model: str | None) -> Completion:
        """The whole answer; `model` None is the one asked for, `usage` None is what nobody counted."""
        text = self._texts() if self._output is None else self._output.joined
        tool_calls = () if self._forced else self._tool_calls()
        return Completion(
            text=text,
            tool_calls=tool_calls,
            finish=_finish(stop_reason, text, bool(tool_calls)),
            usage=usage or Usage(),
            usage_reported=usage is not None,
            model=model or self._call.model,
            extra={} if self._forced else self._extra(tool_calls),
        )

    def _texts(self) -> str:
        return "".join(part for block in self._blocks if block.kind == "text" for part in block.parts)

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        uses = [block for block in self._blocks if block.kind == "tool_use"]
        if not uses:
            return ()
        names = WireNames(self._call.tools)
        # Counted on through the conversation, so that an id made up here is unique in it.
        earlier = sum(len(message.tool_calls) for message in self._call.messages)
        return tuple(
            ToolCall(use.id or f"call_{earlier + n}", names.ours(use.name), use.arguments) for n, use in enumerate(uses)
        )

    def _extra(self, tool_calls: tuple[ToolCall, ...]) -> dict[str, Any]:
        if not any(block.kind in THINKING_BLOCKS for block in self._blocks):
            return {}
        ids = iter(tool_calls)
        kept: list[dict[str, Any]] = []
        for block in self._blocks:
            if block.kind == "text":
                kept.append({"type": "text", "length": len(block.joined)})
            elif block.kind == "tool_use":
                kept.append({"type": "tool_use", "id": next(ids).id})
            elif block.kind == "redacted_thinking" and block.data:
                kept.append({"type": block.kind, "data": block.data})
            elif block.kind == "thinking" and block.signature:
                # What was cut off before it was signed, the API would not take back.
                signature = "".join(block.signature)
                kept.append({"type": block.kind, "thinking": block.joined, "signature": signature})
        return {self._provider: kept}


def unreadable(body: bytes, provider: str, usage: Usage | None = None) -> ProviderError:
    """What bytes that are no JSON of this wire mean; `usage` is what was counted before them."""
    unreadable = failure("bad_response", provider, detail=body[:200].decode("utf-8", "replace"))
    unreadable.usage = usage
    return unreadable


def _finish(reason: str, text: str, has_calls: bool) -> Finish:
    """An answer paused within a tool of the host's own has stopped if it has a text; without one it is no answer."""
    finish = _FINISH.get(reason, "stop")
    if finish not in ("stop", "tool_calls"):
        return finish
    if has_calls:
        return "tool_calls"
    return "error" if reason == "pause_turn" and not text else "stop"
