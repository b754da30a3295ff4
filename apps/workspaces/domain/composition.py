"""What a workspace contributes to a prompt that does not depend on the hour: soul, rules, and skills.

Skills that do not fit are listed with one line each, so that no number of skills makes a prompt too long. Only a skill
whose instructions stand in the prompt grants its tools: nobody may use a tool without its rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apps.skills.domain.skill_file import SkillFile
from apps.workspaces.domain.workspace import Workspace

CATALOGUE_MAX_CHARS = 20_000
"""Room for the list of skills that do not fit, besides the room for instructions."""
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


@dataclass(frozen=True, slots=True)
class SkillUse:
    """A skill whose instructions stand in a prompt, and the tools it grants by that."""

    name: str
    version: str
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StaticPrompt:
    """The part of a prompt that only changes with the workspace.

    `sections` names each part with its length in characters; `listed_skills` names the skills that did not fit.
    """

    text: str
    sections: tuple[tuple[str, int], ...]
    skills: tuple[SkillUse, ...]
    listed_skills: tuple[str, ...]


def compose_static(
    workspace: Workspace,
    *,
    role: str,
    skills_max_chars: int,
    force_include: Sequence[str] = (),
    allowed_skills: frozenset[str] | None = None,
) -> StaticPrompt:
    """Soul, rules, identity, tools, user and skills, in this order; empty parts are left out.

    All enabled skills stand in full when they fit into `skills_max_chars`; else first the ones that are `always` on or
    named in `force_include`, then the others by name, each if it still fits. `allowed_skills` narrows the choice (None:
    every skill). Unknown names are ignored. An empty workspace gives one general sentence.
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
        parts.append(("soul", _general_sentence(role)))
    return StaticPrompt(
        text=_PART_BREAK.join(text for _, text in parts),
        sections=tuple((name, len(text)) for name, text in parts),
        skills=tuple(SkillUse(skill.name, skill.version, skill.tools) for skill in chosen),
        listed_skills=tuple(skill.name for skill in listed),
    )


def choose_skills(
    skills: Iterable[SkillFile], max_chars: int, force_include: Sequence[str] = ()
) -> tuple[list[SkillFile], list[SkillFile]]:
    """Splits skills into those given in full and those only listed, both by name."""
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
    return sorted(chosen, key=_by_name), sorted(listed, key=_by_name)


def _by_name(skill: SkillFile) -> str:
    return skill.name


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


def _general_sentence(role: str) -> str:
    return f"You are a helpful assistant in the role of {role}. Be accurate and brief, and say so when you do not know."
