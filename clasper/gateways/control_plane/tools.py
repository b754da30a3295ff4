"""Tools of a control plane: what it lists, and how a call of one ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from clasper.gateways.control_plane.responses import decode, json_or_none
from clasper.gateways.control_plane.transport import Response
from clasper.gateways.http import UNREADABLE_JSON

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

    `status` is the backend's, 0 without a response.
    """

    ok: bool
    result: Any = None
    error: str = ""
    status: int = 0


class _ToolList(msgspec.Struct):
    tools: list[Any]


_tool_list = msgspec.json.Decoder(_ToolList)
_any = msgspec.json.Decoder()


def parse_tools(response: Response) -> tuple[Tool, ...]:
    """The tools of a listing; entries that are not tools and repeated names are left out. Raises BackendFailed."""
    entries = decode("list tools", response, _tool_list).tools
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


def tool_outcome(response: Response, max_bytes: int) -> ToolOutcome:
    """How the tool call ended that got this response, read up to `max_bytes`."""
    status = response.status
    if not response.ok:
        return ToolOutcome(ok=False, error=_tool_error(response), status=status)
    if response.too_large:
        return ToolOutcome(ok=False, error=f"The tool's result is larger than {max_bytes} bytes.", status=status)
    try:
        return ToolOutcome(ok=True, result=_any.decode(response.body) if response.body else None, status=status)
    except UNREADABLE_JSON:
        return ToolOutcome(ok=False, error="The tool's result is not JSON.", status=status)


def _tool_error(response: Response) -> str:
    """The backend's own sentence when the call was wrong; never when the backend failed, as it may reveal internals."""
    if response.status in (401, 403):
        return "The backend refused the tool call."
    if 400 <= response.status < 500 and not response.too_large:
        body = json_or_none(response)
        text = body.get("error") if isinstance(body, dict) else None
        if isinstance(text, str) and text:
            return text[:MAX_ERROR_CHARS]
    return f"The tool failed: the backend answered {response.status}."
