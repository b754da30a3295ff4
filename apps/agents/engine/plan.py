"""Prepare: everything that can be known of a run without asking anybody outside.

The workspace's prompt and skills, the model and its price, the conversation and its size. It happens before admission,
because the worst case that admission reserves depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from zoneinfo import ZoneInfo

from django.conf import settings

from apps.agents.domain.requests import Turn
from apps.agents.domain.run import RunRequest
from apps.agents.domain.stored_request import store_request
from apps.agents.engine.models import Candidate, candidates_for
from apps.governance.domain.risk import RiskInput, Sensitivity, score_risk
from apps.identity.domain.permissions import PROMPT_OVERRIDE
from apps.traces.domain.record import Redacted, TraceRisk
from apps.traces.services.recording import redact_content
from apps.workspaces.domain.composition import Prompt, SkillUse, compose_static, finish, memory_block, time_block
from apps.workspaces.domain.release import Release
from apps.workspaces.services.releases import current_release
from clasper.core.errors import ContextTooLong, InvalidRequest, PermissionDenied
from clasper.gateways.llm.base import Message, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run ready to be admitted. Sizes are those of the first model call, without tools."""

    request: RunRequest
    candidates: tuple[Candidate, ...]
    messages: tuple[Message, ...]
    skills: tuple[SkillUse, ...]
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
    asked = request.conversation
    system, turns = one_system(prompt.text, asked.history)
    message = asked.kickoff.message(asked.message) if asked.kickoff else asked.message
    conversation = (*map(_as_message, turns), Message("user", message))
    # Only a prompt of the operator's own prose is estimated as such, not one that the request brings.
    own_bytes = utf8_size(prompt.text) if release and asked.system_prompt is None else 0
    foreign_bytes = utf8_size(system) - own_bytes + sum(map(_message_size, conversation))
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
        skills=prompt.skills,
        snapshot_hash=release.workspace.snapshot_hash if release else "",
        workspace_bytes=own_bytes,
        foreign_bytes=foreign_bytes,
        prompt_estimate=estimate,
        warning=_context_warning(estimate, window),
        content=redact_content(store_request(request, dict(prompt.sections))),
    )


def risk_of(plan: Plan, tool_names: tuple[str, ...]) -> TraceRisk:
    """The run's risk: the tools it may use, the temperature, and whether personal data was found in what was asked."""
    return _score(tool_names, plan.request.options.temperature, "pii" if plan.content.found else "none")


@lru_cache(maxsize=1024)
def _score(tool_names: tuple[str, ...], temperature: float, sensitivity: Sensitivity) -> TraceRisk:
    score = score_risk(
        RiskInput(
            tool_count=len(tool_names), tool_names=tool_names, temperature=temperature, data_sensitivity=sensitivity
        )
    )
    factors = {**score.factors, "riskFactors": list(score.risk_factors)}
    return TraceRisk(score=score.score, level=score.level, factors=factors)


def current_skills(request: RunRequest) -> tuple[SkillUse, ...]:
    """The skills that the run would use of the current release, whatever release it repeats."""
    return _workspace_prompt(request, current_release()).skills


def named_tools(plan: Plan) -> tuple[str, ...]:
    """Tools the run's skills grant by name, known before the control plane is asked."""
    return tuple(sorted({tool for skill in plan.skills for tool in skill.tools if not tool.endswith("*")}))


def _system_prompt(request: RunRequest, release: Release | None) -> Prompt:
    asked = request.conversation
    prompt = _workspace_prompt(request, release) if release else Prompt(asked.instructions or "")
    if asked.system_prompt is None:
        return prompt
    if not request.scope.principal.has(PROMPT_OVERRIDE):
        raise PermissionDenied(
            "The request's prompt replaces that of the workspace or task, which this credential may not do.",
            details={"permission": PROMPT_OVERRIDE},
        )
    if not asked.system_prompt.strip():
        raise InvalidRequest(field_errors={"metadata": ["system_prompt: The prompt is empty."]})
    return replace(prompt, text=asked.system_prompt)


def _workspace_prompt(request: RunRequest, release: Release) -> Prompt:
    zone = request.conversation.timezone or settings.CLASPER_DEFAULT_TIMEZONE or "UTC"
    local_now = (request.replay.as_of if request.replay else request.now).astimezone(ZoneInfo(zone))
    static = compose_static(
        release.workspace,
        role=request.scope.agent_role,
        skills_max_chars=settings.CLASPER_SKILLS_MAX_CHARS,
        force_include=request.conversation.force_include_skills,
        allowed_skills=request.scope.principal.allowed_skills,
    )
    return finish(
        static,
        memory=memory_block(release.workspace, local_now.date()),
        time=time_block(local_now, zone) if settings.CLASPER_INCLUDE_TIME_CONTEXT else "",
    )


def one_system(system: str, turns: Sequence[Turn]) -> tuple[str, tuple[Turn, ...]]:
    """The system prompt with all system turns after it, in order and with blank lines between, and the other turns.

    Some providers read one system prompt only, and only at the start.
    """
    parts = [system, *(turn.text for turn in turns if turn.role == "system")]
    text = "\n\n".join(part for part in parts if part.strip())
    return text, tuple(turn for turn in turns if turn.role != "system")


def _as_message(turn: Turn) -> Message:
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in turn.tool_calls or ())
    return Message(turn.role, turn.text, calls, turn.tool_call_id or "")


def utf8_size(text: str) -> int:
    """The bytes of the text in UTF-8; a lone surrogate, which JSON may contain, counts three."""
    return len(text.encode("utf-8", "surrogatepass"))


def _message_size(message: Message) -> int:
    calls = message.tool_calls
    return utf8_size(message.content) + sum(utf8_size(call.name) + utf8_size(call.arguments) for call in calls)


def _context_warning(tokens: int, window: int) -> str:
    percent = 100 * tokens / window
    if percent <= settings.CLASPER_CONTEXT_WARNING_THRESHOLD:
        return ""
    return f"Context usage is {percent:.1f}% of {window} tokens. Consider compacting history."
