"""The system prompt of a run: what the workspace contributes, then what is remembered, then what time it is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cachetools import LRUCache

from apps.workspaces.domain.composition import SkillUse, StaticPrompt, compose_static
from apps.workspaces.domain.workspace import Memory, Workspace

__all__ = ["Prompt", "PromptCache", "SkillUse", "StaticPrompt", "compose_static", "finish"]

# strftime would answer in the language of the process's locale.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A complete system prompt.

    `sections` names each part with its length in characters, `skills` are those whose instructions it holds, and
    `listed_skills` those it only names.
    """

    text: str
    sections: tuple[tuple[str, int], ...]
    skills: tuple[SkillUse, ...]
    listed_skills: tuple[str, ...]


class PromptCache:
    """The `size` static prompts used last, by workspace snapshot, role and choice of skills. Thread-safe."""

    def __init__(self, size: int = 64) -> None:
        self._lock = threading.Lock()
        self._prompts: LRUCache[tuple[object, ...], StaticPrompt] = LRUCache(size)

    def static(
        self,
        workspace: Workspace,
        *,
        role: str,
        skills_max_chars: int,
        force_include: Sequence[str] = (),
        allowed_skills: frozenset[str] | None = None,
    ) -> StaticPrompt:
        """The same as `compose_static`, composed once."""
        # A role counts by the soul it gets, so that a caller inventing roles cannot empty the cache.
        soul = workspace.soul_path(role)
        forced = frozenset(force_include)
        if forced:
            forced &= {skill.file.name for skill in workspace.enabled_skills}
        key = (workspace.revision, soul or f"role {role}", skills_max_chars, forced, allowed_skills)
        with self._lock:
            if (prompt := self._prompts.get(key)) is not None:
                return prompt
        prompt = compose_static(
            workspace,
            role=role,
            skills_max_chars=skills_max_chars,
            force_include=tuple(forced),
            allowed_skills=allowed_skills,
        )
        with self._lock:
            self._prompts[key] = prompt
        return prompt


def finish(static: StaticPrompt, *, memory: Memory | None, time: str = "") -> Prompt:
    """A static prompt with the memory and the time block (see `time_block`) of one run; either may be left out."""
    parts = [("memory", memory_block(memory) if memory else ""), ("time", time)]
    parts = [(name, text) for name, text in parts if text]
    return Prompt(
        text="\n\n".join([static.text, *(text for _, text in parts)]),
        sections=static.sections + tuple((name, len(text)) for name, text in parts),
        skills=static.skills,
        listed_skills=static.listed_skills,
    )


def memory_block(memory: Memory) -> str:
    """Long-term memory and the logs of yesterday and today under one heading; empty when there is nothing."""
    parts = (
        ("Long-term Memory", memory.long_term),
        (f"Yesterday ({memory.yesterday_date.isoformat()})", memory.yesterday),
        (f"Today ({memory.today_date.isoformat()})", memory.today),
    )
    texts = [f"### {heading}\n\n{text}" for heading, text in parts if text]
    return "\n\n".join(["## Recent Memory", *texts]) if texts else ""


def time_block(local_now: datetime, timezone: str) -> str:
    """Date, time and zone in words: `Sunday, November 22, 2026`, `2:59 AM`, `Europe/Berlin`."""
    day, month = _DAYS[local_now.weekday()], _MONTHS[local_now.month - 1]
    half = "AM" if local_now.hour < 12 else "PM"
    return (
        "## Current Time\n\n"
        f"- **Date:** {day}, {month} {local_now.day}, {local_now.year}\n"
        f"- **Time:** {local_now.hour % 12 or 12}:{local_now.minute:02} {half}\n"
        f"- **Timezone:** {timezone}"
    )
