"""The content blocks of an Anthropic message under construction. No network here.

Thinking is never text. It is kept, signed as it came, in `Completion.extra` for the next request of a tool loop, which
the API refuses without it: a list of the answer's blocks in their order, `thinking` and `redacted_thinking` whole,
`text` as its length and `tool_use` as its id, since the rest of these is in the message itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clasper.gateways.llm.accumulator import WrittenCall
from clasper.gateways.llm.anthropic.request import THINKING_BLOCKS
from clasper.gateways.llm.base import ToolCall


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
class _PartialBlock:
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


class Blocks:
    """The blocks of one message.

    Where the call's schema is enforced (`forced`), the input of the first tool is the text. Text, which the model then
    writes only when it does not use the tool, is held back until that is known.
    """

    __slots__ = ("_blocks", "_by_index", "_forced", "_output")

    def __init__(self, *, forced: bool) -> None:
        self._forced = forced
        self._output: _PartialBlock | None = None
        self._blocks: list[_PartialBlock] = []
        self._by_index: dict[int | None, _PartialBlock] = {}

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def open(self, block: Block, index: int | None = None) -> str:
        """Begins a block and returns its text. Raises UnicodeDecodeError when its input is not UTF-8."""
        given = bytes(block.input)
        opened = _PartialBlock(
            kind=block.type or "",
            id=block.id or "",
            name=block.name or "",
            given=given.decode() if given.startswith(b"{") else "{}",
            data=block.data or "",
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
        """Ends a block and returns the part of its text that only its end reveals."""
        block = self._by_index.get(index)
        if block is None or block is not self._output or block.parts:
            return ""
        block.parts.append(block.given)
        return block.given

    def held_back(self) -> str:
        """The text that was not returned because a tool's input was expected, and none came."""
        return self.text if self._forced and self._output is None else ""

    def _add(self, block: _PartialBlock, delta: Delta) -> str:
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

    @property
    def text(self) -> str:
        if self._output is not None:
            return self._output.joined
        return "".join(part for block in self._blocks if block.kind == "text" for part in block.parts)

    @property
    def calls(self) -> list[WrittenCall]:
        if self._forced:
            return []
        uses = (block for block in self._blocks if block.kind == "tool_use")
        return [WrittenCall(use.id, use.name, use.joined or use.given) for use in uses]

    def kept(self, tool_calls: Sequence[ToolCall]) -> list[dict[str, Any]] | None:
        """What goes into `Completion.extra`, None without thinking; `tool_calls` are those made of `calls`."""
        if self._forced or not any(block.kind in THINKING_BLOCKS for block in self._blocks):
            return None
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
                # The API would refuse thinking that was cut off before it was signed.
                signature = "".join(block.signature)
                kept.append({"type": block.kind, "thinking": block.joined, "signature": signature})
        return kept
