"""Which providers there are, what the settings say about them, and which of them a model's name means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from django.conf import settings
from yarl import URL

from clasper.core.errors import InvalidRequest, Unavailable
from clasper.gateways.llm.base import Provider
from clasper.gateways.llm.offline import Offline
from clasper.gateways.llm.openai_chat import OpenAIChat
from clasper.gateways.llm.openai_request import COMPATIBLE, OPENAI, Dialect

OFFLINE = "offline"

DEFAULT_MODELS = {"openai": "gpt-4o-mini", OFFLINE: "offline-1"}
"""The model of a provider when LLM_MODEL_DEFAULT is not set."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model of a provider; `model` is the name that the provider knows, slashes and all."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True, slots=True)
class _ChatHost:
    """A host of the chat-completions wire: its settings, and its own dialect at its own address."""

    key_setting: str
    url_setting: str
    url: str
    dialect: Dialect


_CHAT_HOSTS = {"openai": _ChatHost("OPENAI_API_KEY", "OPENAI_BASE_URL", "https://api.openai.com/v1", OPENAI)}

_PREFIXES = frozenset({*_CHAT_HOSTS, OFFLINE, "anthropic", "gemini", "google", "xai", "groq", "mistral", "openrouter"})
"""Names that mean a provider before the first slash, also those that this server has no wire for: asking for one of
them must say so instead of asking another provider for a model of that name."""


def parse_model_ref(text: str, default_provider: str) -> ModelRef:
    """The model that `text` names: `provider/model` for a known provider, else a model of the default provider.

    Only the first slash counts, so `openrouter/openai/gpt-4o` is OpenRouter's `openai/gpt-4o`. Raises InvalidRequest
    when no model is named.
    """
    name = text.strip()
    prefix, slash, rest = name.partition("/")
    provider = prefix.lower()
    ref = ModelRef(provider, rest) if slash and provider in _PREFIXES else ModelRef(default_provider, name)
    if not ref.model:
        raise InvalidRequest(field_errors={"model": ["Name a model, such as openai/gpt-4o-mini."]})
    return ref


def configured(name: str) -> bool:
    """Whether the settings hold what the provider needs. A key or address that is malformed counts as present."""
    if name == OFFLINE:
        return not settings.PRODUCTION
    host = _CHAT_HOSTS.get(name)
    return host is not None and bool(getattr(settings, host.key_setting) or getattr(settings, host.url_setting))


def provider_for(name: str) -> Provider:
    """The provider, as the settings are now. Raises Unavailable `model_not_configured`, naming the setting to set."""
    if name == OFFLINE:
        if settings.PRODUCTION:
            raise _unusable("The offline model is for development; in production set LLM_PROVIDER to a real provider.")
        return Offline()
    host = _CHAT_HOSTS.get(name)
    if host is None:
        usable = ", ".join((*_CHAT_HOSTS, OFFLINE))
        raise _unusable(f"There is no model provider {name[:64]!r} here; there are: {usable}.")
    if not configured(name):
        raise _unusable(f"The model provider {name} is not configured; set {host.key_setting} (or {host.url_setting}).")
    return _chat(name, getattr(settings, host.key_setting), getattr(settings, host.url_setting))


@lru_cache(maxsize=32)
def _chat(name: str, key: str, base_url: str) -> OpenAIChat:
    host = _CHAT_HOSTS[name]
    if not all("!" <= character <= "~" for character in key):
        raise _unusable(f"{host.key_setting} holds a blank, a line break or a character outside ASCII; set it anew.")
    url = _checked_url(base_url or host.url, host.url_setting)
    dialect = host.dialect if url.host == URL(host.url).host else COMPATIBLE
    endpoint = url.with_path(f"{url.path.rstrip('/')}/chat/completions").with_query(url.query)
    return OpenAIChat(name, endpoint, key, dialect)


def _checked_url(text: str, setting: str) -> URL:
    try:
        url = URL(text)
        port_is_valid = url.explicit_port is None or url.explicit_port > 0
    except ValueError:
        url, port_is_valid = URL(), False
    if url.scheme not in ("http", "https") or not url.host or not port_is_valid or url.user or url.password:
        raise _unusable(f"{setting} must be an http or https address without credentials, like https://host/v1.")
    return url


def _unusable(message: str) -> Unavailable:
    return Unavailable(message, code="model_not_configured")
