"""Whole prompts of a workspace, put together as a run does it."""

from __future__ import annotations

from datetime import datetime

from apps.workspaces.domain.composition import Prompt, compose_static, finish, memory_block, time_block
from apps.workspaces.domain.workspace import Workspace


def whole_prompt(
    workspace: Workspace,
    *,
    local_now: datetime,
    timezone: str = "UTC",
    role: str = "agent",
    with_time: bool = False,
    skills_max_chars: int = 100_000,
    force_include: tuple[str, ...] = (),
) -> Prompt:
    """The prompt for `role` at `local_now`, a time in the zone named `timezone`."""
    static = compose_static(
        workspace, role=role, skills_max_chars=skills_max_chars, force_include=force_include, allowed_skills=None
    )
    time = time_block(local_now, timezone) if with_time else ""
    return finish(static, memory=memory_block(workspace, local_now.date()), time=time)
