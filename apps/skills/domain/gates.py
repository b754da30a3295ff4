"""Gates: what must be present on the machine before a workspace skill is offered to a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apps.skills.domain.skill_file import SkillFile

_OS_ALIASES = {"macos": "darwin", "mac": "darwin", "windows": "win32"}


@dataclass(frozen=True, slots=True)
class Platform:
    """The machine as gates see it.

    `os` is `linux`, `darwin` or `win32`; `env` contains the names of the variables that are set and not empty.
    """

    os: str
    env: frozenset[str]
    has_bin: Callable[[str], bool]
    config: Callable[[str], bool]


def check_gates(skill: SkillFile, platform: Platform) -> str:
    """Why the skill is disabled, or an empty text. `always` opens every gate, but a `problem` still counts."""
    if skill.problem:
        return skill.problem
    if skill.always:
        return ""
    if skill.os and platform.os not in {_OS_ALIASES.get(name.lower(), name.lower()) for name in skill.os}:
        return f"Unsupported OS: {platform.os} (needs {', '.join(skill.os)})"
    for name in skill.env:
        if name not in platform.env:
            return f"Missing env: {name}"
    for name in skill.bins:
        if not platform.has_bin(name):
            return f"Missing bin: {name}"
    if skill.any_bins and not any(map(platform.has_bin, skill.any_bins)):
        return f"Missing any bin of: {', '.join(skill.any_bins)}"
    for name in skill.config:
        if not platform.config(name):
            return f"Missing config: {name}"
    return ""
