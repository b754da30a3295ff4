"""A workspace as one frozen value: its texts, its skills, and the hash of its snapshot."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from apps.skills.domain.gates import Platform, check_gates
from apps.skills.domain.skill_file import SkillFile, parse_skill_file
from apps.skills.domain.text import decode_text, truncate

_ROLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SKILL_PATH = re.compile(r"skills/([^/]+)/SKILL\.md")


def is_role(text: str) -> bool:
    """Whether `text` may name an agent's role. Nothing else ever becomes part of a path."""
    return _ROLE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text of the workspace. `text` is what a prompt may contain of it: at most 20,000 characters."""

    path: str
    raw_chars: int
    text: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class WorkspaceSkill:
    """A skill of the workspace; `gate_reason` says why it is disabled, and is empty when it is not."""

    file: SkillFile
    gate_reason: str = ""

    @property
    def enabled(self) -> bool:
        return not self.gate_reason

    @property
    def path(self) -> str:
        return f"skills/{self.file.directory}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workspace:
    """One snapshot. `root` is where it was read from; `files` are all texts but the skills, by path."""

    root: str
    missing: bool = False
    snapshot_hash: str
    """`sha256:` over the path and the bytes of everything read, skills included. The boot marker does not count."""
    revision: str
    """Changes whenever anything a prompt depends on changes: the snapshot, or which skills are enabled."""
    files: Mapping[str, TextFile] = field(default_factory=dict)
    skills: tuple[WorkspaceSkill, ...] = ()
    """In the order of their directories."""
    boot_complete: bool = False
    skipped: tuple[tuple[str, str], ...] = ()
    """Path and reason of files that were not read."""

    def text(self, path: str) -> str:
        """The text at `path`, stripped; empty when there is no such file."""
        file = self.files.get(path)
        return file.text.strip() if file else ""

    def soul_path(self, role: str) -> str:
        """Where the soul of `role` is: its own file, else SOUL.md, else an empty text."""
        return next((path for path in (f"souls/{role}.md", "SOUL.md") if self.text(path)), "")

    @property
    def enabled_skills(self) -> tuple[WorkspaceSkill, ...]:
        return tuple(skill for skill in self.skills if skill.enabled)


Parsed = TextFile | SkillFile


def parse_file(path: str, content: bytes) -> Parsed:
    """One file of a workspace, as text or as a skill. Never raises."""
    match = _SKILL_PATH.fullmatch(path)
    if match:
        return parse_skill_file(match[1], content)
    raw = decode_text(content)
    text = truncate(raw)
    return TextFile(path, len(raw), text, text is not raw)


def assemble_workspace(
    *,
    root: str,
    files: Mapping[str, tuple[str, Parsed]],
    platform: Platform,
    missing: bool = False,
    boot_complete: bool = False,
    skipped: tuple[tuple[str, str], ...] = (),
) -> Workspace:
    """A workspace of parsed files: by path, the hex SHA-256 of the file's bytes, and what they say."""
    snapshot_hash = hash_snapshot({path: digest for path, (digest, _) in files.items()})
    parsed = {path: files[path][1] for path in sorted(files)}
    skills = gate_skills(parsed.values(), platform)
    return Workspace(
        root=root,
        missing=missing,
        snapshot_hash=snapshot_hash,
        revision=_revision(snapshot_hash, skills),
        files={path: file for path, file in parsed.items() if isinstance(file, TextFile)},
        skills=skills,
        boot_complete=boot_complete,
        skipped=skipped,
    )


def regate(workspace: Workspace, platform: Platform) -> Workspace:
    """The workspace with its gates checked again; the same object when nothing opened or closed."""
    skills = gate_skills((skill.file for skill in workspace.skills), platform)
    if skills == workspace.skills:
        return workspace
    return replace(workspace, skills=skills, revision=_revision(workspace.snapshot_hash, skills))


def gate_skills(files: Iterable[Parsed], platform: Platform) -> tuple[WorkspaceSkill, ...]:
    """Every skill with the reason that disables it. Of several skills with one name the first one keeps it."""
    owners: dict[str, str] = {}
    skills: list[WorkspaceSkill] = []
    for file in (file for file in files if isinstance(file, SkillFile)):
        owner = owners.setdefault(file.name, file.directory)
        reason = check_gates(file, platform)
        if owner != file.directory:
            reason = f"Duplicate name: skills/{owner} is called {file.name} too"
        skills.append(WorkspaceSkill(file, reason))
    return tuple(skills)


def hash_snapshot(digests: Mapping[str, str]) -> str:
    """`sha256:` and 64 hex digits over every path with the digest of its bytes, in code-point order of the paths."""
    lines = "".join(f"{path}\0{digests[path]}\n" for path in sorted(digests))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _revision(snapshot_hash: str, skills: tuple[WorkspaceSkill, ...]) -> str:
    gates = "\n".join(skill.file.name for skill in skills if skill.enabled)
    return f"{snapshot_hash}+{hashlib.sha256(gates.encode()).hexdigest()[:16]}"
