"""Tools of a control plane: what it lists, and how a call of one ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from clasper.gateways.control_plane.answers import GARBAGE, decode, json_or_none
from clasper.gateways.control_plane.transport import Answer

MAX_TOOLS = 512
TOOL_RESULT_BYTES = 64 * 1024
MAX_ERROR_CHARS = 500


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the control plane describes it; `parameters` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """The end of a tool call: a JSON `result`, or an `error` that the model may read.

    `status` is the backend's, 0 without an answer.
    """

    ok: bool
    result: Any = None
    error: str = ""
    status: int = 0


class _ToolList(msgspec.Struct):
    tools: list[Any]


_tool_list = msgspec.json.Decoder(_ToolList)
_any = msgspec.json.Decoder()


def parse_tools(answer: Answer) -> tuple[Tool, ...]:
    """The tools of a listing; entries that are none, and names given twice, are left out. Raises BackendFailed."""
    entries = decode("list tools", answer, _tool_list).tools
    tools: dict[str, Tool] = {}
    for entry in entries[:MAX_TOOLS]:
        if not isinstance(entry, Mapping):
            continue
        name, description, parameters = entry.get("name"), entry.get("description"), entry.get("parameters")
        if not isinstance(name, str) or not name or name in tools:
            continue
        if parameters is None:
            parameters = {"type": "object", "properties": {}}
        if isinstance(parameters, dict):
            tools[name] = Tool(name, description if isinstance(description, str) else "", parameters)
    return tuple(tools.values())


def tool_outcome(answer: Answer, max_bytes: int) -> ToolOutcome:
    """How a tool call ended that got this answer, read up to `max_bytes`."""
    if answer.ok:
        if answer.too_large:
            return ToolOutcome(
                ok=False, error=f"The tool's result is larger than {max_bytes} bytes.", status=answer.status
            )
        if not answer.body:
            return ToolOutcome(ok=True, status=answer.status)
        try:
            return ToolOutcome(ok=True, result=_any.decode(answer.body), status=answer.status)
        except GARBAGE:
            return ToolOutcome(ok=False, error="The tool's result is not JSON.", status=answer.status)
    return ToolOutcome(ok=False, error=_tool_error(answer), status=answer.status)


def _tool_error(answer: Answer) -> str:
    """The backend's own sentence for faults of the call; never for faults of the backend, which may tell internals."""
    if answer.status in (401, 403):
        return "The backend refused the tool call."
    if 400 <= answer.status < 500 and not answer.too_large:
        fault = json_or_none(answer)
        text = fault.get("error") if isinstance(fault, dict) else None
        if isinstance(text, str) and text:
            return text[:MAX_ERROR_CHARS]
    return f"The tool failed: the backend answered {answer.status}."
