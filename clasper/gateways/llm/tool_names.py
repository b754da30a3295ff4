"""Tool names as model providers accept them, and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256

from clasper.gateways.llm.base import ToolSpec

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_-]")
_MAX_CHARS = 64


class ToolNames:
    """Tool names as every provider accepts them: letters, digits, `_` and `-`, at most 64, not beginning with a digit.

    Control planes name tools `ns:tool`; OpenAI and most servers refuse the colon, Gemini a digit at the beginning.
    """

    __slots__ = ("_from_wire", "_to_wire")

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self._to_wire: dict[str, str] = {}
        self._from_wire: dict[str, str] = {}
        taken = {tool.name for tool in tools}
        for tool in tools:
            name = _acceptable(tool.name)
            if name != tool.name and (name in taken or name in self._from_wire):
                name = f"{name[: _MAX_CHARS - 9]}_{sha256(tool.name.encode()).hexdigest()[:8]}"
            self._to_wire[tool.name] = name
            self._from_wire[name] = tool.name

    def to_wire(self, name: str) -> str:
        return self._to_wire.get(name) or _acceptable(name)

    def from_wire(self, name: str) -> str:
        return self._from_wire.get(name, name)


def _acceptable(name: str) -> str:
    name = _FORBIDDEN.sub("_", name)
    return name[:_MAX_CHARS] if name[:1].isalpha() or name[:1] == "_" else f"_{name}"[:_MAX_CHARS]
