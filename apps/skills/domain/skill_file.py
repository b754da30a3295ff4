"""A workspace skill: one SKILL.md, read without ever failing.

Whatever an author gets wrong becomes a default where it is harmless (name, description, emoji) and a `problem` where it
is not: a gate or a tool grant that cannot be understood must disable the skill, not open it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from apps.skills.domain.frontmatter import FrontmatterError, Value, parse_mapping, split_frontmatter
from apps.skills.domain.text import decode_text, truncate

MAX_NAME_CHARS = 128
MAX_DESCRIPTION_CHARS = 2_000
MAX_VERSION_CHARS = 64
MAX_EMOJI_CHARS = 16

_NAMESPACES = ("clasper", "openclaw")
"""Where our part of the metadata is; a key of the first one precedes the same key of the second, older one."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_YES = frozenset({"true", "yes", "on", "1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillFile:
    """What a SKILL.md says. `directory` is the name of its directory; a non-empty `problem` disables the skill."""

    directory: str
    name: str
    description: str = ""
    version: str
    """As the author wrote it, else `sha256:` and the first 12 hex digits of the file's hash."""
    instructions: str = ""
    emoji: str = ""
    tools: tuple[str, ...] = ()
    """Tools it grants: exact names, `namespace:*`, or `*`."""
    always: bool = False
    env: tuple[str, ...] = ()
    bins: tuple[str, ...] = ()
    any_bins: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    os: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    """The frontmatter's `metadata` as written, JSON values only; None when the key is absent."""
    problem: str = ""


def parse_skill_file(directory: str, content: bytes) -> SkillFile:
    """The skill in `content`. Never raises."""
    document = split_frontmatter(decode_text(content))
    build = partial(_build, directory, content, truncate(document.body.strip()))
    if document.yaml is None:
        return build({}, None)
    if not document.closed:
        return build({}, None, "Unreadable frontmatter: its closing --- is missing")
    try:
        top = parse_mapping(document.yaml)
    except FrontmatterError as error:
        return build({}, None, f"Unreadable frontmatter: {error}")
    try:
        return build(top, _metadata(top.get("metadata")))
    except FrontmatterError as error:
        return build(top, None, f"Unreadable metadata: {error}")


def _build(
    directory: str,
    content: bytes,
    instructions: str,
    top: Mapping[str, Value],
    metadata: dict[str, Value] | None,
    problem: str = "",
) -> SkillFile:
    """Raises FrontmatterError when gates or grants in `metadata` have the wrong type."""
    known = metadata or {}
    extra: Mapping[str, Value] = {}
    for namespace in _NAMESPACES:
        extra = {**_mapping(known.get(namespace), namespace), **extra}
    requires = _mapping(extra.get("requires"), "requires")
    version = _line(top.get("version"), MAX_VERSION_CHARS) or _line(known.get("version"), MAX_VERSION_CHARS)
    return SkillFile(
        directory=directory,
        name=_line(top.get("name"), MAX_NAME_CHARS) or _line(directory, MAX_NAME_CHARS) or "skill",
        description=_line(top.get("description"), MAX_DESCRIPTION_CHARS),
        version=version or f"sha256:{hashlib.sha256(content).hexdigest()[:12]}",
        instructions=instructions,
        emoji=_line(extra.get("emoji"), MAX_EMOJI_CHARS),
        tools=_names(extra.get("tools"), "tools"),
        always=_is_yes(extra.get("always")),
        env=_names(requires.get("env"), "requires.env"),
        bins=_names(requires.get("bins"), "requires.bins"),
        any_bins=_names(requires.get("anyBins", requires.get("any_bins")), "requires.anyBins"),
        config=_names(requires.get("config"), "requires.config"),
        os=_names(extra.get("os"), "os"),
        metadata=metadata,
        problem=problem,
    )


def _metadata(value: Value) -> dict[str, Value] | None:
    if isinstance(value, str):
        value = parse_mapping(value)
    if value is not None and not isinstance(value, dict):
        raise FrontmatterError("it must be a mapping")
    return value


def _mapping(value: Value, where: str) -> Mapping[str, Value]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FrontmatterError(f"{where} must be a mapping")
    return value


def _names(value: Value, where: str) -> tuple[str, ...]:
    """A list of names, or names in one text separated by commas."""
    if value is None:
        return ()
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or any(item is None or isinstance(item, list | dict) for item in items):
        raise FrontmatterError(f"{where} must be a list of names")
    names = [_line(item, MAX_NAME_CHARS) for item in items]
    return tuple(dict.fromkeys(name for name in names if name))


def _is_yes(value: Value) -> bool:
    return value is True or (isinstance(value, str | int) and str(value).strip().lower() in _YES)


def _line(value: Value, limit: int) -> str:
    """A scalar as one clean line of at most `limit` characters; empty for anything else."""
    if value is None or isinstance(value, list | dict):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return " ".join(_CONTROL.sub(" ", text).split())[:limit].rstrip()
