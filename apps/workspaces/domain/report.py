"""How large the files of a workspace are and what of them enters a prompt."""

from __future__ import annotations

from typing import Annotated

from apps.skills.domain.text import MAX_CHARS_PER_FILE
from apps.workspaces.domain.composition import compose_static
from apps.workspaces.domain.workspace import Workspace
from clasper.core.schemas import Count, Resource, about

_DEFAULT_ROLE = "agent"
_CHARS_PER_TOKEN = 4


class ContextFile(Resource, frozen=True, kw_only=True, rename="camel"):
    """A file: its size as it is and as it is cut for a prompt, in characters, and an estimate of its tokens."""

    name: Annotated[str, about(example="SOUL.md")]
    exists: bool
    raw_chars: Count = 0
    injected_chars: Annotated[Count, about("Characters after truncation.")] = 0
    truncated: Annotated[bool, about(example=False)] = False
    estimated_tokens: Count = 0


class ContextReport(Resource, frozen=True, kw_only=True, rename="camel"):
    """Sizes in characters."""

    workspace_path: Annotated[str, about(example="./workspace")]
    max_chars_per_file: Annotated[Count, about(example=MAX_CHARS_PER_FILE)]
    files: tuple[ContextFile, ...]
    total_bootstrap_chars: Count
    system_prompt_chars: Annotated[Count, about("Without memory and time, which change by the day.", example=1200)]
    estimated_system_prompt_tokens: Annotated[Count, about(example=300)]


def report_context(workspace: Workspace, *, role: str, skills_max_chars: int) -> ContextReport:
    """The report for `role`, which may be empty. A role without a soul of its own is shown with SOUL.md as well."""
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


def _report_file(workspace: Workspace, name: str) -> ContextFile:
    file = workspace.files.get(name)
    if file is None:
        return ContextFile(name=name, exists=False)
    chars = len(file.text)
    return ContextFile(
        name=name,
        exists=True,
        raw_chars=file.raw_chars,
        injected_chars=chars,
        truncated=file.truncated,
        estimated_tokens=_tokens(chars),
    )


def _tokens(chars: int) -> int:
    return -(-chars // _CHARS_PER_TOKEN)
