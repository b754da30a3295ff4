"""Prepare: everything that can be known of a run without asking anybody outside.

The workspace's prompt and skills, the model and its price, the conversation and its size. It happens before admission,
because the worst case that admission reserves depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.conf import settings

from apps.agents.domain.conversation import context_warning, kickoff_message, one_system, prompt_ceiling
from apps.agents.domain.prompt import PromptCache, finish, time_block
from apps.agents.domain.requests import Turn
from apps.agents.domain.run import TEMPERATURE, RunRequest
from apps.agents.domain.tools import Grant
from apps.agents.engine.models import Candidate, candidates_for
from apps.governance.domain.risk import RiskInput, Sensitivity, score_risk
from apps.identity.domain.permissions import PROMPT_OVERRIDE
from apps.traces.domain.record import Redacted, Risk
from apps.traces.services.recording import redact_content
from apps.workspaces.services import load_workspace
from clasper.core.clock import iso
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
    workspace_hash: str
    workspace_bytes: int
    foreign_bytes: int
    prompt_estimate: int
    warning: str
    content: Redacted

    @property
    def model(self) -> Candidate:
        """The model that is asked first."""
        return self.candidates[0]


def prepare(request: RunRequest) -> Plan:
    """Builds the plan.

    Raises PermissionDenied (model or prompt override not allowed), Unavailable (model not configured), ContextTooLong.
    """
    candidates = candidates_for(request)
    prompt = _system_prompt(request)
    system, turns = one_system(prompt.text, request.history)
    conversation = (*(_as_message(turn) for turn in turns), Message("user", _user_message(request)))
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
        workspace_hash=prompt.workspace_hash,
        workspace_bytes=own_bytes,
        foreign_bytes=foreign_bytes,
        prompt_estimate=estimate,
        warning=context_warning(tokens=estimate, window=window, threshold=settings.CLASPER_CONTEXT_WARNING_THRESHOLD),
        content=redact_content(_content(request, prompt.sections)),
    )


def worst_prompt(plan: Plan, *, added_bytes: int, schema_bytes: int, messages: int) -> int:
    """Most tokens the prompt of a call can cost; `added_bytes` are what models and tools added since the start."""
    return prompt_ceiling(
        workspace_bytes=plan.workspace_bytes,
        foreign_bytes=plan.foreign_bytes + added_bytes,
        schema_bytes=schema_bytes,
        messages=messages,
    )


def risk_of(plan: Plan, tool_names: tuple[str, ...]) -> Risk:
    """The run's risk: the tools it may use, the temperature, and whether personal data was found in what was asked."""
    return _score(tool_names, plan.request.temperature, "pii" if plan.content.found else "none")


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
    """What the skills of the workspace grant the run as the files are now, whatever workspace it repeats."""
    return _workspace_prompt(replace(request, workspace=None)).grants


def named_tools(plan: Plan) -> tuple[str, ...]:
    """Tools the run's skills grant by name, known before the control plane is asked."""
    return tuple(sorted({tool for grant in plan.grants for tool in grant.tools if not tool.endswith("*")}))


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A system prompt. `own` says that all of it was written by the operator; the rest tells what of the workspace
    stands in it."""

    text: str
    own: bool
    workspace_hash: str = ""
    grants: tuple[Grant, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, int] = field(default_factory=dict)


def _system_prompt(request: RunRequest) -> _Prompt:
    own = request.instructions
    found = _workspace_prompt(request) if own is None else _Prompt(own, own=False)
    if request.system_prompt is None:
        return found
    if not request.principal.has(PROMPT_OVERRIDE):
        raise PermissionDenied(
            "The request's prompt replaces that of the workspace or task, which this credential may not do.",
            details={"permission": PROMPT_OVERRIDE},
        )
    if not request.system_prompt.strip():
        raise InvalidRequest(field_errors={"metadata": ["system_prompt: The prompt is empty."]})
    return replace(found, text=request.system_prompt, own=False)


def _workspace_prompt(request: RunRequest) -> _Prompt:
    workspace = request.workspace or load_workspace()
    zone = request.timezone or settings.CLASPER_DEFAULT_TIMEZONE or "UTC"
    local_now = (request.as_of or request.now).astimezone(ZoneInfo(zone))
    static = _prompts.static(
        workspace,
        role=request.agent_role,
        skills_max_chars=settings.CLASPER_SKILLS_MAX_CHARS,
        force_include=request.force_include_skills,
        allowed_skills=request.principal.allowed_skills,
    )
    prompt = finish(
        static,
        memory=workspace.memory(local_now.date()),
        time=time_block(local_now, zone) if settings.CLASPER_INCLUDE_TIME_CONTEXT else "",
    )
    return _Prompt(
        prompt.text,
        own=True,
        workspace_hash=workspace.hash,
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


def _user_message(request: RunRequest) -> str:
    if not request.kickoff_plan:
        return request.message
    return kickoff_message(note=request.kickoff_note, message=request.message)


def _own_content(request: RunRequest) -> dict[str, Any]:
    """What a replay needs to know besides the conversation, as far as it is not what it always is."""
    found: dict[str, Any] = {}
    if request.instructions is not None:
        found["instructions"] = request.instructions
        # Where there is a workspace it is metadata.system_prompt; here that is the caller's own and means nothing.
        if request.system_prompt is not None:
            found["system_prompt"] = request.system_prompt
    if request.as_of is not None:
        found["as_of"] = iso(request.as_of)
    if request.expects is not None:
        found["expects"] = {"schema": request.expects.schema.raw if request.expects.schema else None}
    if request.temperature != TEMPERATURE:
        found["temperature"] = request.temperature
    if request.max_output_tokens is not None:
        found["max_tokens"] = request.max_output_tokens
    return found


def _content(request: RunRequest, sections: Mapping[str, int]) -> dict[str, Any]:
    """What the trace keeps of the request, before redaction."""
    return {
        **_own_content(request),
        "message": request.message,
        "messages": msgspec.to_builtins(request.history),
        "metadata": dict(request.options),
        "task_title": request.task_title,
        "prompt_sections": dict(sections),
    }
