"""The model providers, what the settings say about them, and how they are reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from django.conf import settings
from yarl import URL

from clasper.core.errors import Unavailable
from clasper.core.model_ref import OFFLINE, PROVIDERS, ModelRef
from clasper.gateways.llm.anthropic import AnthropicFormat
from clasper.gateways.llm.base import Provider
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.gemini import GeminiFormat
from clasper.gateways.llm.offline import Offline
from clasper.gateways.llm.openai_chat import ChatFormat
from clasper.gateways.llm.openai_chat.dialects import COMPATIBLE, GROQ, MISTRAL, OPENAI, OPENROUTER, XAI, Dialect
from clasper.gateways.llm.wire_format import WireFormat


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """A provider as its operator runs it.

    `model` is asked when no setting names one: small, cheap, and listed by the price data. `wire_format` makes the
    format from the provider's name, a base URL, and whether that is the provider's own address.
    """

    url: str
    model: str
    wire_format: Callable[[str, URL, bool], WireFormat]


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """What the settings say about a provider."""

    api_key: str
    base_url: str
    headers: tuple[tuple[str, str], ...]
    timeout: float

    @property
    def configured(self) -> bool:
        """Whether the provider may be asked. A malformed key or address counts: using it raises an error."""
        return bool(self.api_key or self.base_url)


def _chat(dialect: Dialect, elsewhere: Dialect | None = None) -> Callable[[str, URL, bool], WireFormat]:
    """The chat format in a dialect. At another base URL OpenAI is mostly another server; other providers are mostly
    behind a gateway there, and speak the same dialect."""

    def wire_format(name: str, base: URL, own: bool) -> WireFormat:
        endpoint = base.with_path(f"{base.path.rstrip('/')}/chat/completions").with_query(base.query)
        return ChatFormat(name, endpoint, dialect if own or elsewhere is None else elsewhere)

    return wire_format


def _anthropic(name: str, base: URL, own: bool) -> WireFormat:
    return AnthropicFormat(name, base)


def _gemini(name: str, base: URL, own: bool) -> WireFormat:
    return GeminiFormat(name, base)


PROVIDER_SPECS: Mapping[str, ProviderSpec] = {
    "openai": ProviderSpec("https://api.openai.com/v1", "gpt-4o-mini", _chat(OPENAI, elsewhere=COMPATIBLE)),
    "anthropic": ProviderSpec("https://api.anthropic.com/v1", "claude-haiku-4-5", _anthropic),
    "gemini": ProviderSpec("https://generativelanguage.googleapis.com/v1beta", "gemini-2.5-flash", _gemini),
    "xai": ProviderSpec("https://api.x.ai/v1", "grok-3-mini", _chat(XAI)),
    "groq": ProviderSpec("https://api.groq.com/openai/v1", "llama-3.1-8b-instant", _chat(GROQ)),
    "mistral": ProviderSpec("https://api.mistral.ai/v1", "mistral-small-latest", _chat(MISTRAL)),
    "openrouter": ProviderSpec("https://openrouter.ai/api/v1", "openai/gpt-4o-mini", _chat(OPENROUTER)),
}

OFFLINE_MODEL = "offline-1"


def standard_model(provider: str) -> ModelRef | None:
    """The provider's model when the settings name none; None for an unknown provider."""
    if provider == OFFLINE:
        return ModelRef(OFFLINE, OFFLINE_MODEL)
    return ModelRef(provider, PROVIDER_SPECS[provider].model) if provider in PROVIDER_SPECS else None


def provider_settings(name: str) -> ProviderSettings:
    """What the settings say about one of PROVIDER_SPECS."""
    prefix = name.upper()
    headers = settings.CLASPER_PROVIDER_HEADERS.get(name, {})
    return ProviderSettings(
        api_key=getattr(settings, f"{prefix}_API_KEY"),
        base_url=getattr(settings, f"{prefix}_BASE_URL"),
        headers=tuple(headers.items()) if headers else (),
        timeout=settings.CLASPER_PROVIDER_TIMEOUTS_MS.get(name, 0) / 1000 or float("inf"),
    )


def configured(name: str) -> bool:
    """Whether the settings contain what the provider needs."""
    if name == OFFLINE:
        return not settings.PRODUCTION
    return name in PROVIDER_SPECS and provider_settings(name).configured


def provider_for(name: str) -> Provider:
    """The provider under the current settings. Raises Unavailable `model_not_configured`, which names the setting."""
    if name == OFFLINE:
        if settings.PRODUCTION:
            raise _unusable("The offline model is for development; in production set LLM_PROVIDER to a real provider.")
        return Offline()
    if name not in PROVIDER_SPECS:
        usable = ", ".join((*PROVIDERS, OFFLINE))
        raise _unusable(f"There is no model provider {name[:64]!r} here; there are: {usable}.")
    found = provider_settings(name)
    if not found.configured:
        prefix = name.upper()
        raise _unusable(f"The model provider {name} is not configured; set {prefix}_API_KEY (or {prefix}_BASE_URL).")
    return _http_provider(name, found)


@lru_cache(maxsize=64)
def _http_provider(name: str, found: ProviderSettings) -> HttpProvider:
    prefix = name.upper()
    if not _is_header_text(found.api_key) or " " in found.api_key:
        raise _unusable(f"{prefix}_API_KEY contains a space, a line break or a character outside ASCII; set it again.")
    for header, value in found.headers:
        if not (isinstance(value, str) and header and _is_header_text(header + value)):
            raise _unusable(f"CLASPER_PROVIDER_HEADERS: {name}: the header {header[:64]!r} is not valid in HTTP.")
    spec = PROVIDER_SPECS[name]
    base = _checked_url(found.base_url or spec.url, f"{prefix}_BASE_URL")
    wire_format = spec.wire_format(name, base, base.host == URL(spec.url).host)
    return HttpProvider(wire_format, found.api_key, str(base), dict(found.headers), found.timeout)


def _is_header_text(text: str) -> bool:
    return all(" " <= character <= "~" for character in text)


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
