"""How large the files of a workspace are and what of them enters a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from apps.skills.domain.text import MAX_CHARS_PER_FILE
from apps.workspaces.domain.composition import compose_static
from apps.workspaces.domain.workspace import Workspace

_DEFAULT_ROLE = "agent"
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file: its size as it is and as it is cut for a prompt, in characters, and a guess at its tokens."""

    name: str
    exists: bool
    raw_chars: int
    injected_chars: int
    truncated: bool
    estimated_tokens: int


@dataclass(frozen=True, slots=True)
class ContextReport:
    """Sizes in characters. The system prompt is counted without memory and time, which change by the day."""

    workspace_path: str
    max_chars_per_file: int
    files: tuple[FileReport, ...]
    total_bootstrap_chars: int
    system_prompt_chars: int
    estimated_system_prompt_tokens: int


def report_context(workspace: Workspace, *, role: str, skills_max_chars: int) -> ContextReport:
    """The report for `role`, which may be empty. A role without a soul of its own is shown with SOUL.md behind it."""
    own_soul = [f"souls/{role}.md"] if role else []
    falls_back = not role or workspace.soul_path(role) not in own_soul
    names = ["AGENTS.md", *own_soul, *(["SOUL.md"] if falls_back else [])]
    names += ["IDENTITY.md", "TOOLS.md", "HEARTBEAT.md", "USER.md"]
    files = tuple(_report_file(workspace, name) for name in names)
    prompt = compose_static(workspace, role=role or _DEFAULT_ROLE, skills_max_chars=skills_max_chars)
    return ContextReport(
        workspace_path=workspace.root,
        max_chars_per_file=MAX_CHARS_PER_FILE,
        files=files,
        total_bootstrap_chars=sum(file.injected_chars for file in files),
        system_prompt_chars=len(prompt.text),
        estimated_system_prompt_tokens=_tokens(len(prompt.text)),
    )


def _report_file(workspace: Workspace, name: str) -> FileReport:
    file = workspace.files.get(name)
    if file is None:
        return FileReport(name, False, 0, 0, False, 0)
    chars = len(file.text)
    return FileReport(name, True, file.raw_chars, chars, file.truncated, _tokens(chars))


def _tokens(chars: int) -> int:
    return -(-chars // _CHARS_PER_TOKEN)
