"""What can be asked: every provider, whether it is configured, which of its models runs may take, and what they cost.

A check asks one tiny question. It is a run like any other: with a trace, an audit entry, and its cost booked.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any

from django.conf import settings

from apps.agents.domain.run import Conversation, ModelOptions, RunRequest, RunScope, TraceRef
from apps.agents.engine.models import (
    DEFAULT_WINDOW,
    TIERS,
    configured,
    default_model,
    named_model,
    provider_url,
    standard_model,
)
from apps.agents.engine.provider_slots import circuit_state
from apps.agents.services.runs import collect
from apps.governance.domain.prices import Price
from apps.governance.services.prices import price_book
from clasper.core.auth import Principal
from clasper.core.errors import ClasperError, Unavailable
from clasper.core.ids import new_id
from clasper.core.model_ref import OFFLINE, PROVIDERS, ModelRef
from clasper.core.money import usd

__all__ = [
    "Check",
    "ModelEntry",
    "ProviderEntry",
    "check_provider",
    "default_circuit",
    "default_model",
    "list_providers",
    "open_circuits",
]

CHECK_ROLE = "check"
CHECK_OUTPUT_TOKENS = 512
"""Enough for a model that thinks before it says one word."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model, what it is used for, its window in tokens and its price in USD per million tokens (None: unknown)."""

    name: str
    used_for: tuple[str, ...]
    price_status: str
    price_version: str
    context_window: int
    input_per_million: float | None
    output_per_million: float | None


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """A provider. `problem` says what is missing or wrong, empty when it can be asked."""

    name: str
    configured: bool
    is_default: bool
    base_url: str
    problem: str
    models: tuple[ModelEntry, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """What came of asking a model one tiny question; `error` is empty when it answered. `cost` in USD.

    `trace_id` is empty when the model could not even be asked.
    """

    provider: str
    model: str
    duration_ms: int
    trace_id: str
    cost: float = 0.0
    error: str = ""


def list_providers() -> tuple[ProviderEntry, ...]:
    """Every provider, with the models that the settings assign to tiers and roles, else its standard model.

    Raises InvalidRequest when a setting names no model.
    """
    uses = _uses()
    names = PROVIDERS if settings.PRODUCTION else (*PROVIDERS, OFFLINE)
    return tuple(_entry(name, uses) for name in names)


def default_circuit() -> str:
    """Whether this process asks the default provider: closed, open (it failed too often), half_open, or unusable."""
    try:
        return circuit_state(provider_url(default_model().provider))
    except ClasperError:
        return "unusable"


def open_circuits() -> dict[str, bool]:
    """For every provider that can be asked: whether its circuit breaker is open in this process."""
    names = [name for name in PROVIDERS if configured(name)]
    return {name: circuit_state(provider_url(name)) == "open" for name in names}


async def check_provider(entry: ProviderEntry, *, principal: Principal, tenant_id: str, now: datetime) -> Check:
    """Asks the provider's first model for one word, on behalf of the tenant."""
    model = entry.models[0].name
    if entry.problem:
        return Check(entry.name, model, 0, "", error=entry.problem)
    trace_id = new_id()
    began = monotonic()
    request = RunRequest(
        kind="check",
        scope=RunScope(principal=principal, tenant_id=tenant_id, agent_role=CHECK_ROLE),
        trace=TraceRef(trace_id),
        now=now,
        conversation=Conversation(message="Are you there?", instructions="Answer with the one word: yes."),
        options=ModelOptions(model=f"{entry.name}/{model}", max_output_tokens=CHECK_OUTPUT_TOKENS),
    )
    try:
        finished = await collect(request)
    except ClasperError as error:
        status = f" (HTTP {error.details['status']})" if error.details.get("status") else ""
        text = f"{error.error_code}: {error.message}{status}"
        return Check(entry.name, model, _since(began), trace_id, error=text)
    return Check(entry.name, model, _since(began), trace_id, cost=usd(finished.result.cost.total))


def _since(began: float) -> int:
    return round((monotonic() - began) * 1000)


def _uses() -> dict[ModelRef, list[str]]:
    """The models that the settings name, each with the tiers and roles it serves."""
    uses: dict[ModelRef, list[str]] = defaultdict(list)
    uses[default_model()].append("default")
    for tier, setting in TIERS.items():
        if tier != "default" and getattr(settings, setting):
            uses[named_model(tier)].append(tier)
    for role, name in settings.CLASPER_ROLE_MODELS.items():
        uses[named_model(name)].append(f"role {role}")
    return uses


def _entry(name: str, uses: dict[ModelRef, list[str]]) -> ProviderEntry:
    refs = [ref for ref in uses if ref.provider == name] or [ref for ref in (standard_model(name),) if ref]
    base_url, problem = "", ""
    try:
        base_url = provider_url(name)
    except Unavailable as error:
        problem = error.message
    return ProviderEntry(
        name=name,
        configured=configured(name),
        is_default=name == settings.LLM_PROVIDER,
        base_url=base_url,
        problem=problem,
        models=tuple(_model(ref, uses.get(ref, ())) for ref in refs),
    )


def _model(ref: ModelRef, used_for: Any) -> ModelEntry:
    price = price_book().price(ref.provider, ref.model)
    known = price.status != "unknown"
    return ModelEntry(
        name=ref.model,
        used_for=tuple(used_for),
        price_status=price.status,
        price_version=price.version,
        context_window=price.context_window or DEFAULT_WINDOW,
        input_per_million=_per_million(price, "input") if known else None,
        output_per_million=_per_million(price, "output") if known else None,
    )


def _per_million(price: Price, side: str) -> float:
    """The rate for short prompts; a nano-dollar a token is a thousandth of a dollar per million."""
    rates = price.tiers[0]
    return float(getattr(rates, side) / rates.scale / 1000)
