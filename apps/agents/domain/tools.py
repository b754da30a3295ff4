"""The tool loop: which tools a run may use, and what a call asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from apps.identity.domain.permissions import match_grant, tool_permitted
from apps.workspaces.domain.composition import SkillUse
from clasper.core.auth import Principal


@dataclass(frozen=True, slots=True)
class ToolDecision:
    """Whether a tool may be used, and why not."""

    allowed: bool
    reason: str = ""
    skill: str = ""


def decide_tool(name: str, *, skills: Sequence[SkillUse], principal: Principal, offered: Iterable[str]) -> ToolDecision:
    """Both permission layers, denied by default: a skill of the run must grant the tool, the caller must be allowed it,
    and the control plane must have it."""
    skill = next((skill.name for skill in skills if match_grant(skill.tools, name)), "")
    if not skill:
        return ToolDecision(False, "Not in skill permissions")
    if not tool_permitted(principal, name):
        return ToolDecision(False, "Not in tenant permissions", skill)
    if name not in offered:
        return ToolDecision(False, "Unknown tool", skill)
    return ToolDecision(True, skill=skill)


@dataclass(frozen=True, slots=True)
class ParsedArguments:
    """Arguments of a call, or the error that the model gets instead."""

    value: Mapping[str, Any]
    error: str = ""


def parse_arguments(text: str) -> ParsedArguments:
    """The JSON object a model wrote as arguments; nothing at all means an empty object."""
    if not text.strip():
        return ParsedArguments({})
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return ParsedArguments({}, "The arguments are not valid JSON.")
    if not isinstance(value, dict):
        return ParsedArguments({}, "The arguments must be a JSON object.")
    return ParsedArguments(value)
