"""What a run uses of its workspace."""

from __future__ import annotations

from dataclasses import dataclass

from apps.workspaces.domain.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Release:
    """The workspace's files and skills at one moment, and the model that runs must use (empty: not prescribed)."""

    workspace: Workspace
    model: str = ""
