"""The system prompt of a run: what the workspace contributes, then what is remembered, then what time it is.

Skills that do not fit are listed with one line each, so that no number of skills makes a prompt too long. Only a skill
whose instructions are in the prompt grants its tools: no tool is used without its instructions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from operator import attrgetter

from cachetools import LRUCache, cached

from apps.skills.domain.skill_file import SkillFile
from apps.workspaces.domain.workspace import Workspace

CATALOGUE_MAX_CHARS = 20_000
"""Room for the list of skills that do not fit, in addition to the room for instructions."""
CATALOGUE_DESCRIPTION_CHARS = 200

_PART_BREAK = "\n\n"
_SKILL_BREAK = "\n\n---\n\n"
_CATALOGUE_INTRO = "### More skills\n\nThese exist too; their instructions and tools are not available in this run."
_HEADED_FILES = (
    ("rules", "Operating Rules", "AGENTS.md"),
    ("identity", "Identity", "IDENTITY.md"),
    ("tools", "Tools", "TOOLS.md"),
    ("user", "User", "USER.md"),
)

# strftime would use the language of the process's locale.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class SkillUse:
    """A skill whose instructions are in a prompt, and the tools that it grants: exact names, `ns:*`, or `*`."""

    name: str
    version: str
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A system prompt, or the part of it that only changes with the workspace.

    `sections` names each part with its length in characters; `listed_skills` names the skills that did not fit.
    """

    text: str
    sections: tuple[tuple[str, int], ...] = ()
    skills: tuple[SkillUse, ...] = ()
    listed_skills: tuple[str, ...] = ()


def _cache_key(
    workspace: Workspace,
    *,
    role: str,
    skills_max_chars: int,
    force_include: Sequence[str] = (),
    allowed_skills: frozenset[str] | None = None,
) -> tuple[object, ...]:
    # The soul that the role gets, so that a caller who invents roles or skills cannot empty the cache.
    soul = workspace.soul_path(role) or f"role {role}"
    forced = frozenset(force_include)
    if forced:
        forced &= {skill.file.name for skill in workspace.enabled_skills}
    return workspace.revision, soul, skills_max_chars, forced, allowed_skills


@cached(LRUCache(maxsize=64), key=_cache_key, lock=threading.Lock())
def compose_static(
    workspace: Workspace,
    *,
    role: str,
    skills_max_chars: int,
    force_include: Sequence[str] = (),
    allowed_skills: frozenset[str] | None = None,
) -> Prompt:
    """Soul, rules, identity, tools, user and skills, in this order; empty parts are left out.

    All enabled skills are included in full when they fit into `skills_max_chars`; otherwise first those that are
    `always` on or named in `force_include`, then the others by name, as far as they fit. `allowed_skills` narrows the
    choice (None: every skill). Unknown names are ignored. For an empty workspace the prompt is one general sentence.

    The prompts used last are kept and returned again.
    """
    enabled = [skill.file for skill in workspace.enabled_skills]
    if allowed_skills is not None:
        enabled = [skill for skill in enabled if skill.name in allowed_skills]
    chosen, listed = choose_skills(enabled, skills_max_chars, force_include)

    soul = workspace.text(workspace.soul_path(role))
    parts = [("soul", soul)] if soul else []
    for name, heading, path in _HEADED_FILES:
        if text := workspace.text(path):
            parts.append((name, f"## {heading}\n\n{text}"))
    if chosen or listed:
        parts.append(("skills", _skills_section(chosen, listed)))
    if not parts:
        sentence = f"You are a helpful assistant in the role of {role}."
        parts.append(("soul", f"{sentence} Be accurate and brief, and say so when you do not know."))
    return Prompt(
        text=_PART_BREAK.join(text for _, text in parts),
        sections=tuple((name, len(text)) for name, text in parts),
        skills=tuple(SkillUse(skill.name, skill.version, skill.tools) for skill in chosen),
        listed_skills=tuple(skill.name for skill in listed),
    )


def choose_skills(
    skills: Iterable[SkillFile], max_chars: int, force_include: Sequence[str] = ()
) -> tuple[list[SkillFile], list[SkillFile]]:
    """Splits skills into those included in full and those only listed, both by name."""
    forced = frozenset(force_include)
    ordered = sorted(skills, key=lambda skill: (not (skill.always or skill.name in forced), skill.name))
    chosen: list[SkillFile] = []
    listed: list[SkillFile] = []
    used = 0
    for skill in ordered:
        size = len(_skill_block(skill)) + (len(_SKILL_BREAK) if chosen else 0)
        if used + size <= max_chars:
            used += size
            chosen.append(skill)
        else:
            listed.append(skill)
    return sorted(chosen, key=attrgetter("name")), sorted(listed, key=attrgetter("name"))


def _skills_section(chosen: Sequence[SkillFile], listed: Sequence[SkillFile]) -> str:
    blocks = [_skill_block(skill) for skill in chosen]
    if listed:
        blocks.append(f"{_CATALOGUE_INTRO}\n\n{_catalogue(listed)}")
    return "## Skills\n\n" + _SKILL_BREAK.join(blocks)


def _skill_block(skill: SkillFile) -> str:
    heading = f"### {skill.emoji} {skill.name}" if skill.emoji else f"### {skill.name}"
    text = skill.instructions or skill.description
    return f"{heading}\n\n{text}" if text else heading


def _catalogue(skills: Sequence[SkillFile]) -> str:
    lines: list[str] = []
    room = CATALOGUE_MAX_CHARS
    for count, skill in enumerate(skills):
        line = _catalogue_line(skill)
        room -= len(line) + 1
        if room < 0:
            lines.append(f"- and {len(skills) - count} more")
            break
        lines.append(line)
    return "\n".join(lines)


def _catalogue_line(skill: SkillFile) -> str:
    description = skill.description
    if len(description) > CATALOGUE_DESCRIPTION_CHARS:
        description = description[: CATALOGUE_DESCRIPTION_CHARS - 1].rstrip() + "…"
    return f"- {skill.name}: {description}" if description else f"- {skill.name}"


def finish(static: Prompt, *, memory: str = "", time: str = "") -> Prompt:
    """The static prompt with the blocks of one run, `memory_block` and `time_block`; either may be empty."""
    parts = [(name, text) for name, text in (("memory", memory), ("time", time)) if text]
    return replace(
        static,
        text="\n\n".join([static.text, *(text for _, text in parts)]),
        sections=static.sections + tuple((name, len(text)) for name, text in parts),
    )


def memory_block(workspace: Workspace, today: date) -> str:
    """Long-term memory and the logs of yesterday and today under one heading; empty when there is nothing.

    `today` is the date in the time zone of the request.
    """
    yesterday = today - timedelta(days=1)
    parts = (
        ("Long-term Memory", "MEMORY.md"),
        (f"Yesterday ({yesterday})", f"memory/{yesterday}.md"),
        (f"Today ({today})", f"memory/{today}.md"),
    )
    texts = [f"### {heading}\n\n{text}" for heading, path in parts if (text := workspace.text(path))]
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
