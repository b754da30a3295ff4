"""The workspace over HTTP: its skills, its first-run instructions, and the size of its files in a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, UnsetType
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import principal_of, read_query
from apps.identity.domain.permissions import SKILLS_READ, WORKSPACE_READ, WORKSPACE_WRITE
from apps.workspaces.domain.report import ContextReport
from apps.workspaces.domain.workspace import Workspace, WorkspaceSkill, is_role
from apps.workspaces.services import BootStatus, boot_status, complete_boot, context_report, load_workspace
from clasper.core.clock import utc_now
from clasper.core.http import operation
from clasper.core.schemas import Codec, Count, Query, Resource, about


class SkillInWorkspace(Resource, frozen=True, kw_only=True, rename="camel"):
    """A skill of the workspace."""

    name: Annotated[str, about(example="summarize")]
    description: Annotated[str, about(example="Summarizes a text.")]
    enabled: bool
    gate_reason: Annotated[str | UnsetType, about("Why the skill is disabled.")] = UNSET
    location: Annotated[str, about(example="./workspace/skills/summarize/SKILL.md")]
    metadata: Annotated[Mapping[str, Any] | UnsetType, about("As in SKILL.md.")] = UNSET


class WorkspaceSkills(Resource, frozen=True, kw_only=True):
    """The skills of the workspace."""

    enabled: Annotated[Count, about("How many of the skills are enabled.")]
    total: Count
    skills: tuple[SkillInWorkspace, ...]


class BootCompleted(Resource, frozen=True, kw_only=True):
    """BOOT.md is completed."""

    status: Literal["ok"] = "ok"


def _read_role(role: str) -> str:
    if role and not is_role(role):
        raise ValueError("Use 1 to 64 letters, digits, _ or -.")
    return role


class ContextQuery(Query, frozen=True, kw_only=True):
    """Whose context."""

    role: Annotated[str, Codec(read=_read_role), about("Role whose soul is looked up: A-Z a-z 0-9 _ -, 1 to 64.")] = ""


class WorkspaceSkillsView(APIView):
    """Skills in the workspace's directory."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": SKILLS_READ}

    @operation("list_workspace_skills", response=WorkspaceSkills)
    def get(self, request: Request) -> Response:
        """Lists the skills of the workspace, with the reason why one is disabled."""
        workspace = load_workspace(fresh=True)
        return Response(
            WorkspaceSkills(
                enabled=len(workspace.enabled_skills),
                total=len(workspace.skills),
                skills=tuple(_shown(workspace, skill) for skill in workspace.skills),
            )
        )


class BootView(APIView):
    """First-run instructions."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": WORKSPACE_READ}

    @operation("get_boot", response=BootStatus)
    def get(self, request: Request) -> Response:
        """Shows the workspace's BOOT.md and whether it is completed."""
        return Response(boot_status())


class BootCompleteView(APIView):
    """The end of the first run."""

    required_scopes: ClassVar[dict[str, str]] = {"POST": WORKSPACE_WRITE}

    @operation("complete_boot", response=BootCompleted)
    def post(self, request: Request) -> Response:
        """Marks BOOT.md as completed. Repeating it changes nothing; 404 when there is no BOOT.md."""
        complete_boot(actor=principal_of(request).actor, now=utc_now())
        return Response(BootCompleted())


class ContextView(APIView):
    """The size of the workspace's files."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": WORKSPACE_READ}

    @operation("get_context", query=ContextQuery, response=ContextReport)
    def get(self, request: Request) -> Response:
        """Shows how long each file is, what truncation leaves of it, and how long the system prompt is."""
        _, query = read_query(ContextQuery, request)
        return Response(context_report(load_workspace(fresh=True), query.role))


def _shown(workspace: Workspace, skill: WorkspaceSkill) -> SkillInWorkspace:
    return SkillInWorkspace(
        name=skill.file.name,
        description=skill.file.description,
        enabled=skill.enabled,
        gate_reason=UNSET if skill.enabled else skill.gate_reason,
        location=f"{workspace.root}/{skill.path}",
        metadata=UNSET if skill.file.metadata is None else skill.file.metadata,
    )
