"""Tool names as model hosts take them, and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256

from clasper.gateways.llm.base import ToolSpec

_FORBIDDEN_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME = 64


class WireNames:
    """Tool names as every host takes them (letters, digits, `_` and `-`, at most 64, no digit first), and back.

    Control planes name tools `ns:tool`; OpenAI and most servers refuse the colon, Gemini a digit at the beginning.
    """

    __slots__ = ("_ours", "_theirs")

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self._theirs: dict[str, str] = {}
        self._ours: dict[str, str] = {}
        taken = {tool.name for tool in tools}
        for tool in tools:
            name = _strict(tool.name)
            if name != tool.name and (name in taken or name in self._ours):
                name = f"{name[: _MAX_NAME - 9]}_{sha256(tool.name.encode()).hexdigest()[:8]}"
            self._theirs[tool.name] = name
            self._ours[name] = tool.name

    def theirs(self, name: str) -> str:
        return self._theirs.get(name) or _strict(name)

    def ours(self, name: str) -> str:
        return self._ours.get(name, name)


def _strict(name: str) -> str:
    name = _FORBIDDEN_IN_NAMES.sub("_", name)
    return name[:_MAX_NAME] if name[:1].isalpha() or name[:1] == "_" else f"_{name}"[:_MAX_NAME]
