"""Prepare: everything that can be known of a run without asking anybody outside.

The workspace's prompt and skills, the model and its price, the conversation and its size. It happens before admission,
because the worst case that admission reserves depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from zoneinfo import ZoneInfo

from django.conf import settings

from apps.agents.domain.conversation import context_warning, kickoff_message, one_system
from apps.agents.domain.prompt import PromptCache, finish, time_block
from apps.agents.domain.requests import Turn
from apps.agents.domain.run import Conversation, RunRequest
from apps.agents.domain.stored_request import store_request
from apps.agents.domain.tools import Grant
from apps.agents.engine.models import Candidate, candidates_for
from apps.governance.domain.risk import RiskInput, Sensitivity, score_risk
from apps.identity.domain.permissions import PROMPT_OVERRIDE
from apps.traces.domain.record import Redacted, Risk
from apps.traces.services.recording import redact_content
from apps.workspaces.domain.release import Release
from apps.workspaces.services.releases import current_release
from clasper.core.errors import ContextTooLong, InvalidRequest, PermissionDenied
from clasper.gateways.llm.base import Message, ToolCall

_prompts = PromptCache()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run ready to be admitted. Sizes are those of the first model call, without tools."""

    request: RunRequest
    candidates: tuple[Candidate, ...]
    messages: tuple[Message, ...]
    grants: tuple[Grant, ...]
    skill_versions: Mapping[str, str]
    snapshot_hash: str
    workspace_bytes: int
    foreign_bytes: int
    prompt_estimate: int
    warning: str
    content: Redacted

    @property
    def model(self) -> Candidate:
        """The model that is asked first."""
        return self.candidates[0]


def prepare(request: RunRequest, release: Release | None) -> Plan:
    """Builds the plan of a run that uses this release; a run with instructions of its own uses none.

    Raises PermissionDenied (model or prompt override not allowed), Unavailable (model not configured), ContextTooLong.
    """
    candidates = candidates_for(request.scope, request.options, release)
    prompt = _system_prompt(request, release)
    system, turns = one_system(prompt.text, request.conversation.history)
    conversation = (*(_as_message(turn) for turn in turns), Message("user", _user_message(request.conversation)))
    own_bytes = _size(prompt.text) if prompt.own else 0
    foreign_bytes = _size(system) - own_bytes + sum(map(_message_size, conversation))
    estimate = -(-(own_bytes + foreign_bytes) // 4)
    window = candidates[0].window
    if estimate >= window:
        raise ContextTooLong(
            f"The conversation is about {estimate} tokens and the model's window is {window}.",
            details={"estimated_tokens": estimate, "context_window": window},
        )
    return Plan(
        request=request,
        candidates=candidates,
        messages=(Message("system", system), *conversation),
        grants=prompt.grants,
        skill_versions=prompt.versions,
        snapshot_hash=prompt.snapshot_hash,
        workspace_bytes=own_bytes,
        foreign_bytes=foreign_bytes,
        prompt_estimate=estimate,
        warning=context_warning(tokens=estimate, window=window, threshold=settings.CLASPER_CONTEXT_WARNING_THRESHOLD),
        content=redact_content(store_request(request, prompt.sections)),
    )


def risk_of(plan: Plan, tool_names: tuple[str, ...]) -> Risk:
    """The run's risk: the tools it may use, the temperature, and whether personal data was found in what was asked."""
    return _score(tool_names, plan.request.options.temperature, "pii" if plan.content.found else "none")


@lru_cache(maxsize=1024)
def _score(tool_names: tuple[str, ...], temperature: float, sensitivity: Sensitivity) -> Risk:
    score = score_risk(
        RiskInput(
            tool_count=len(tool_names), tool_names=tool_names, temperature=temperature, data_sensitivity=sensitivity
        )
    )
    factors = {**score.factors, "riskFactors": list(score.risk_factors)}
    return Risk(score=score.score, level=score.level, factors=factors)


def current_grants(request: RunRequest) -> tuple[Grant, ...]:
    """What the skills of the current release grant the run, whatever release it repeats."""
    return _workspace_prompt(request, current_release()).grants


def named_tools(plan: Plan) -> tuple[str, ...]:
    """Tools the run's skills grant by name, known before the control plane is asked."""
    return tuple(sorted({tool for grant in plan.grants for tool in grant.tools if not tool.endswith("*")}))


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A system prompt, and what of the release it holds. `own` says that all of it was written by the operator."""

    text: str
    own: bool
    snapshot_hash: str = ""
    grants: tuple[Grant, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, int] = field(default_factory=dict)


def _system_prompt(request: RunRequest, release: Release | None) -> _Prompt:
    asked = request.conversation
    found = _workspace_prompt(request, release) if release else _Prompt(asked.instructions or "", own=False)
    if asked.system_prompt is None:
        return found
    if not request.scope.principal.has(PROMPT_OVERRIDE):
        raise PermissionDenied(
            "The request's prompt replaces that of the workspace or task, which this credential may not do.",
            details={"permission": PROMPT_OVERRIDE},
        )
    if not asked.system_prompt.strip():
        raise InvalidRequest(field_errors={"metadata": ["system_prompt: The prompt is empty."]})
    return replace(found, text=asked.system_prompt, own=False)


def _workspace_prompt(request: RunRequest, release: Release) -> _Prompt:
    workspace = release.workspace
    zone = request.conversation.timezone or settings.CLASPER_DEFAULT_TIMEZONE or "UTC"
    local_now = (request.replay.as_of if request.replay else request.now).astimezone(ZoneInfo(zone))
    static = _prompts.static(
        workspace,
        role=request.scope.agent_role,
        skills_max_chars=settings.CLASPER_SKILLS_MAX_CHARS,
        force_include=request.conversation.force_include_skills,
        allowed_skills=request.scope.principal.allowed_skills,
    )
    prompt = finish(
        static,
        memory=workspace.memory(local_now.date()),
        time=time_block(local_now, zone) if settings.CLASPER_INCLUDE_TIME_CONTEXT else "",
    )
    return _Prompt(
        prompt.text,
        own=True,
        snapshot_hash=workspace.snapshot_hash,
        grants=tuple(Grant(skill.name, skill.tools) for skill in prompt.skills if skill.tools),
        versions={skill.name: skill.version for skill in prompt.skills},
        sections=dict(prompt.sections),
    )


def _as_message(turn: Turn) -> Message:
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in turn.tool_calls or ())
    return Message(turn.role, turn.text, calls, turn.tool_call_id or "")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _message_size(message: Message) -> int:
    return _size(message.content) + sum(_size(call.name) + _size(call.arguments) for call in message.tool_calls)


def _user_message(asked: Conversation) -> str:
    if asked.kickoff is None:
        return asked.message
    return kickoff_message(note=asked.kickoff.note, message=asked.message)
