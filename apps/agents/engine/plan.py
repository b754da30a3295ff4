"""Prepare: everything that can be known of a run without asking anybody outside.

The workspace's prompt and skills, the model and its price, the conversation and its size. It happens before admission,
because the worst case that admission reserves depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings

from apps.agents.domain.conversation import context_warning, kickoff_message, prompt_ceiling
from apps.agents.domain.prompt import PromptCache, finish, time_block
from apps.agents.domain.run import RunRequest
from apps.agents.domain.tools import Grant
from apps.governance.domain.permissions import PROMPT_OVERRIDE, model_permitted
from apps.governance.domain.prices import Price
from apps.governance.domain.risk import RiskInput, score_risk
from apps.governance.services.prices import price_book
from apps.traces.domain.record import Redacted, Risk
from apps.traces.services.recording import redact_content
from apps.workspaces.services import load_workspace
from clasper.core.errors import ContextTooLong, InvalidRequest, PermissionDenied, Unavailable
from clasper.gateways.llm.base import Message
from clasper.gateways.llm.registry import DEFAULT_MODELS, ModelRef, parse_model_ref, provider_for

DEFAULT_WINDOW = 128_000
"""Assumed for models whose window nobody published."""

TEMPERATURE = 0.4
"""What runs have always used: lively enough to converse, steady enough to follow rules."""

_prompts = PromptCache()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may answer, with its price and window."""

    ref: ModelRef
    price: Price
    window: int


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
    candidates = _candidates(request)
    system, workspace_bytes, use = _system_prompt(request)
    turns = [turn.content for turn in request.history]
    message = _user_message(request)
    foreign_bytes = sum(map(_size, (*turns, message)))
    if request.system_prompt is not None:
        foreign_bytes, workspace_bytes = foreign_bytes + workspace_bytes, 0
    estimate = -(-(workspace_bytes + foreign_bytes) // 4)
    window = candidates[0].window
    if estimate >= window:
        raise ContextTooLong(
            f"The conversation is about {estimate} tokens and the model's window is {window}.",
            details={"estimated_tokens": estimate, "context_window": window},
        )
    return Plan(
        request=request,
        candidates=candidates,
        messages=(
            Message("system", system),
            *(Message(turn.role, turn.content) for turn in request.history),
            Message("user", message),
        ),
        grants=use.grants,
        skill_versions=use.versions,
        workspace_hash=use.workspace_hash,
        workspace_bytes=workspace_bytes,
        foreign_bytes=foreign_bytes,
        prompt_estimate=estimate,
        warning=context_warning(tokens=estimate, window=window, threshold=settings.CLASPER_CONTEXT_WARNING_THRESHOLD),
        content=redact_content(_content(request, use.sections)),
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
    return _score(tool_names, "pii" if plan.content.found else "none")


@lru_cache(maxsize=1024)
def _score(tool_names: tuple[str, ...], sensitivity: str) -> Risk:
    score = score_risk(
        RiskInput(
            tool_count=len(tool_names), tool_names=tool_names, temperature=TEMPERATURE, data_sensitivity=sensitivity
        )
    )
    factors = {**score.factors, "riskFactors": list(score.risk_factors)}
    return Risk(score=score.score, level=score.level, factors=factors)


def default_model() -> ModelRef:
    """The model of runs that name none. Raises Unavailable when the settings name none either."""
    provider = settings.LLM_PROVIDER
    name = settings.LLM_MODEL_DEFAULT or DEFAULT_MODELS.get(provider, "")
    if not name:
        raise Unavailable("No model is configured; set LLM_MODEL_DEFAULT.", code="model_not_configured")
    return parse_model_ref(name, provider)


def named_tools(plan: Plan) -> tuple[str, ...]:
    """Tools the run's skills grant by name, known before the control plane is asked."""
    return tuple(sorted({tool for grant in plan.grants for tool in grant.tools if not tool.endswith("*")}))


def _candidates(request: RunRequest) -> tuple[Candidate, ...]:
    provider = settings.LLM_PROVIDER
    refs = [parse_model_ref(request.model, provider) if request.model else default_model()]
    if settings.LLM_MODEL_FALLBACK:
        fallback = parse_model_ref(settings.LLM_MODEL_FALLBACK, provider)
        refs += [fallback] if fallback != refs[0] else []
    if not model_permitted(request.principal, str(refs[0])):
        raise PermissionDenied(
            "The credential may not use this model.", details={"permission": "model", "model": str(refs[0])}
        )
    refs = refs[:1] + [ref for ref in refs[1:] if model_permitted(request.principal, str(ref))]
    for ref in refs:
        provider_for(ref.provider)
    prices = price_book()
    return tuple(_candidate(ref, prices.price(ref.provider, ref.model)) for ref in refs)


def _candidate(ref: ModelRef, price: Price) -> Candidate:
    return Candidate(ref, price, price.context_window or DEFAULT_WINDOW)


@dataclass(frozen=True, slots=True)
class _WorkspaceUse:
    grants: tuple[Grant, ...]
    versions: Mapping[str, str]
    workspace_hash: str
    sections: Mapping[str, int]


def _system_prompt(request: RunRequest) -> tuple[str, int, _WorkspaceUse]:
    """The system prompt, its size in bytes, and what of the workspace stands in it."""
    workspace = load_workspace()
    zone = request.timezone or settings.CLASPER_DEFAULT_TIMEZONE or "UTC"
    local_now = request.now.astimezone(ZoneInfo(zone))
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
    use = _WorkspaceUse(
        grants=tuple(Grant(skill.name, skill.tools) for skill in prompt.skills if skill.tools),
        versions={skill.name: skill.version for skill in prompt.skills},
        workspace_hash=workspace.hash,
        sections=dict(prompt.sections),
    )
    if request.system_prompt is None:
        return prompt.text, _size(prompt.text), use
    if not request.principal.has(PROMPT_OVERRIDE):
        raise PermissionDenied(
            "metadata.system_prompt replaces the workspace's rules, which this credential may not do.",
            details={"permission": PROMPT_OVERRIDE},
        )
    if not request.system_prompt.strip():
        raise InvalidRequest(field_errors={"metadata": ["system_prompt: The prompt is empty."]})
    return request.system_prompt, _size(request.system_prompt), use


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _user_message(request: RunRequest) -> str:
    if not request.kickoff_plan:
        return request.message
    return kickoff_message(note=request.kickoff_note, message=request.message)


def _content(request: RunRequest, sections: Mapping[str, int]) -> dict[str, Any]:
    """What the trace keeps of the request, before redaction."""
    return {
        "message": request.message,
        "messages": [{"role": turn.role, "content": turn.content} for turn in request.history],
        "metadata": dict(request.options),
        "task_title": request.task_title,
        "prompt_sections": dict(sections),
    }
