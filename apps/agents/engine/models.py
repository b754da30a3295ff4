"""Which models may answer a run, with their prices and context windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.conf import settings

from apps.agents.domain.run import ModelOptions, RunScope
from apps.governance.domain.prices import Price
from apps.governance.services.prices import price_book
from apps.identity.domain.permissions import model_permitted
from apps.workspaces.domain.release import Release
from clasper.core.errors import InvalidRequest, PermissionDenied, Unavailable
from clasper.core.model_ref import ModelRef, parse_model_ref, provider_id
from clasper.core.redaction import redact_text
from clasper.gateways.llm.base import Provider
from clasper.gateways.llm.registry import configured, provider_for, standard_model

__all__ = [
    "DEFAULT_WINDOW",
    "TIERS",
    "Candidate",
    "candidates_for",
    "configured",
    "default_model",
    "named_model",
    "provider_url",
    "standard_model",
]

DEFAULT_WINDOW = 128_000
"""Assumed for models whose window nobody published."""

TIERS: Mapping[str, str] = {
    "default": "LLM_MODEL_DEFAULT",
    "cheap": "LLM_MODEL_CHEAP",
    "best": "LLM_MODEL_BEST",
    "fallback": "LLM_MODEL_FALLBACK",
}
"""Names that stand for a model, and the setting that says which. A tier that is not set is the default model."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may answer, with the host to ask, its price and its window."""

    ref: ModelRef
    provider: Provider
    price: Price
    window: int


def default_model() -> ModelRef:
    """The model of runs that name none. Raises Unavailable when the settings name none either."""
    if settings.LLM_MODEL_DEFAULT:
        return parse_model_ref(settings.LLM_MODEL_DEFAULT, settings.LLM_PROVIDER)
    ref = standard_model(provider_id(settings.LLM_PROVIDER))
    if ref is None:
        raise Unavailable("No model is configured; set LLM_MODEL_DEFAULT.", code="model_not_configured")
    return ref


def named_model(name: str) -> ModelRef:
    """The model that a tier's name or a model reference means. Raises InvalidRequest for a name that is neither."""
    setting = TIERS.get(name)
    if setting is None:
        return parse_model_ref(name, settings.LLM_PROVIDER)
    chosen = getattr(settings, setting)
    return parse_model_ref(chosen, settings.LLM_PROVIDER) if chosen else default_model()


def candidates_for(scope: RunScope, options: ModelOptions, release: Release | None) -> tuple[Candidate, ...]:
    """The model asked first, and the fallback if there is one that the caller may use.

    The request's own choice precedes the release's, its role's (CLASPER_ROLE_MODELS), and the default. Raises
    PermissionDenied for a model that the credential may not use, InvalidRequest for a name that is not a model's,
    Unavailable for a provider that is not configured.
    """
    if redact_text(options.model) != options.model:
        # The names of models are stored, logged and exported as metrics, and lists filter by them.
        raise InvalidRequest(field_errors={"model": ["This is personal data or a secret, not a model's name."]})
    released = release.model if release else ""
    name = options.model or released or settings.CLASPER_ROLE_MODELS.get(scope.agent_role, "")
    first = named_model(name) if name else default_model()
    if not model_permitted(scope.principal, str(first)):
        raise PermissionDenied(
            "The credential may not use this model.", details={"permission": "model", "model": str(first)}
        )
    refs = [first]
    if settings.LLM_MODEL_FALLBACK:
        fallback = named_model("fallback")
        if fallback != first and model_permitted(scope.principal, str(fallback)):
            refs.append(fallback)
    return tuple(_candidate(ref) for ref in refs)


def _candidate(ref: ModelRef) -> Candidate:
    provider, price = provider_for(ref.provider), price_book().price(ref.provider, ref.model)
    return Candidate(ref, provider, price, price.context_window or DEFAULT_WINDOW)


def provider_url(name: str) -> str:
    """The address at which the provider is asked. Raises Unavailable for a provider that is not configured."""
    return provider_for(name).base_url
