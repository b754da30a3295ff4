"""How a model is named: `provider/model`, or bare for the default provider."""

from __future__ import annotations

import re
from dataclasses import dataclass

from clasper.core.errors import InvalidRequest

PROVIDERS = ("openai", "anthropic", "gemini", "xai", "groq", "mistral", "openrouter")
"""All providers, in the order in which they are searched for a bare model."""

OFFLINE = "offline"
"""The provider that only pretends to be one."""

MAX_MODEL_NAME = 128
"""Characters of a model's name, without its provider."""

_MODEL_NAME = re.compile(r"[A-Za-z0-9._:/@+~-]*")
"""The characters in which hosts write model names. Names are stored and shown unredacted, so nothing else is one."""
_ALIASES = {"google": "gemini"}
_PREFIXES = frozenset({*PROVIDERS, OFFLINE})


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model of a provider; `model` is the name that the provider knows, slashes and all."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


def provider_id(name: str) -> str:
    """The provider's name as Clasper writes it: lower case, aliases resolved. Unknown names are kept."""
    lower = name.lower()
    return _ALIASES.get(lower, lower)


def parse_model_ref(text: str, default_provider: str) -> ModelRef:
    """The model that `text` names: `provider/model` for a known provider, else a model of the default provider.

    Only the first slash counts, so `openrouter/openai/gpt-4o` is OpenRouter's `openai/gpt-4o`. A provider is known by
    its name, whether or not this server can reach it: asking another one for a model of that name would be wrong.
    Raises InvalidRequest (field `model`) for a name that is empty, too long or has a character that no host uses.
    """
    name = text.strip()
    prefix, slash, rest = name.partition("/")
    provider = provider_id(prefix)
    named = bool(slash) and provider in _PREFIXES
    ref = ModelRef(provider, rest) if named else ModelRef(provider_id(default_provider), name)
    if errors := _name_errors(ref.model):
        raise InvalidRequest(field_errors={"model": errors})
    return ref


def _name_errors(model: str) -> list[str]:
    if not model:
        return ["Name a model, such as openai/gpt-4o-mini."]
    errors = []
    if len(model) > MAX_MODEL_NAME:
        errors.append(f"A model's name has at most {MAX_MODEL_NAME} characters.")
    if not _MODEL_NAME.fullmatch(model):
        errors.append("A model's name has only letters, digits and . _ : / @ + ~ -")
    return errors
