"""The doors to the workspace on disk: its skills, its first-run instructions, and what its files weigh in a prompt."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.workspaces.domain.report import ContextReport, FileReport
from apps.workspaces.domain.workspace import Workspace, WorkspaceSkill, is_role
from apps.workspaces.services import boot_status, complete_boot, context_report, load_workspace
from clasper.core.auth import Principal
from clasper.core.clock import utc_now
from clasper.core.errors import InvalidRequest, Unauthenticated

_SKILLS = inline_serializer(
    "WorkspaceSkills",
    {
        "enabled": serializers.IntegerField(help_text="How many of the skills are enabled."),
        "total": serializers.IntegerField(),
        "skills": inline_serializer(
            "WorkspaceSkill",
            {
                "name": serializers.CharField(),
                "description": serializers.CharField(allow_blank=True),
                "enabled": serializers.BooleanField(),
                "gateReason": serializers.CharField(required=False, help_text="Why the skill is disabled."),
                "location": serializers.CharField(),
                "metadata": serializers.DictField(required=False),
            },
            many=True,
        ),
    },
)
_BOOT = inline_serializer(
    "BootStatus",
    {
        "hasBoot": serializers.BooleanField(),
        "isComplete": serializers.BooleanField(),
        "content": serializers.CharField(allow_null=True, help_text="BOOT.md until it is completed, then null."),
    },
)
_COMPLETED = inline_serializer("BootCompleted", {"status": serializers.ChoiceField(["ok"])})
_CONTEXT = inline_serializer(
    "ContextReport",
    {
        "workspacePath": serializers.CharField(),
        "maxCharsPerFile": serializers.IntegerField(),
        "files": inline_serializer(
            "ContextFile",
            {
                "name": serializers.CharField(),
                "exists": serializers.BooleanField(),
                "rawChars": serializers.IntegerField(),
                "injectedChars": serializers.IntegerField(help_text="Characters after truncation."),
                "truncated": serializers.BooleanField(),
                "estimatedTokens": serializers.IntegerField(),
            },
            many=True,
        ),
        "totalBootstrapChars": serializers.IntegerField(),
        "systemPromptChars": serializers.IntegerField(help_text="Without memory and time, which change by the day."),
        "estimatedSystemPromptTokens": serializers.IntegerField(),
    },
)


class WorkspaceSkillsView(APIView):
    """Skills in the workspace's directory."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": "skills:read"}

    @extend_schema(operation_id="list_workspace_skills", responses=_SKILLS, tags=["workspace"])
    def get(self, request: Request) -> Response:
        """Lists the skills of the workspace, with the reason why one is disabled."""
        workspace = load_workspace(fresh=True)
        return Response(
            {
                "enabled": len(workspace.enabled_skills),
                "total": len(workspace.skills),
                "skills": [_skill_json(workspace, skill) for skill in workspace.skills],
            }
        )


class BootView(APIView):
    """First-run instructions."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": "workspace:read"}

    @extend_schema(operation_id="get_boot", responses=_BOOT, tags=["workspace"])
    def get(self, request: Request) -> Response:
        """Shows the workspace's BOOT.md and whether it is completed."""
        status = boot_status()
        return Response({"hasBoot": status.has_boot, "isComplete": status.is_complete, "content": status.content})


class BootCompleteView(APIView):
    """The end of the first run."""

    required_scopes: ClassVar[dict[str, str]] = {"POST": "workspace:write"}

    @extend_schema(operation_id="complete_boot", request=None, responses=_COMPLETED, tags=["workspace"])
    def post(self, request: Request) -> Response:
        """Marks BOOT.md as completed. Repeating it changes nothing; 404 when there is no BOOT.md."""
        complete_boot(actor=_actor(request), now=utc_now())
        return Response({"status": "ok"})


class ContextView(APIView):
    """The weight of the workspace's files."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": "workspace:read"}

    @extend_schema(
        operation_id="get_context",
        parameters=[
            OpenApiParameter("role", str, description="Role whose soul is looked up: A-Z a-z 0-9 _ -, 1 to 64.")
        ],
        responses=_CONTEXT,
        tags=["workspace"],
    )
    def get(self, request: Request) -> Response:
        """Shows how long each file is, what truncation leaves of it, and how long the system prompt is."""
        role = request.query_params.get("role", "")
        if role and not is_role(role):
            raise InvalidRequest("Invalid query", field_errors={"role": ["Use 1 to 64 letters, digits, _ or -."]})
        return Response(_context_json(context_report(load_workspace(fresh=True), role)))


def _actor(request: Request) -> str:
    if isinstance(request.auth, Principal):
        return request.auth.actor
    raise Unauthenticated()


def _skill_json(workspace: Workspace, skill: WorkspaceSkill) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": skill.file.name,
        "description": skill.file.description,
        "enabled": skill.enabled,
        "location": f"{workspace.root}/{skill.path}",
    }
    if not skill.enabled:
        shown["gateReason"] = skill.gate_reason
    if skill.file.metadata is not None:
        shown["metadata"] = skill.file.metadata
    return shown


def _context_json(report: ContextReport) -> dict[str, Any]:
    return {
        "workspacePath": report.workspace_path,
        "maxCharsPerFile": report.max_chars_per_file,
        "files": [_file_json(file) for file in report.files],
        "totalBootstrapChars": report.total_bootstrap_chars,
        "systemPromptChars": report.system_prompt_chars,
        "estimatedSystemPromptTokens": report.estimated_system_prompt_tokens,
    }


def _file_json(file: FileReport) -> dict[str, Any]:
    return {
        "name": file.name,
        "exists": file.exists,
        "rawChars": file.raw_chars,
        "injectedChars": file.injected_chars,
        "truncated": file.truncated,
        "estimatedTokens": file.estimated_tokens,
    }
