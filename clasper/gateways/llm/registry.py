"""Which providers there are, what the settings say about them, and how each is reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from django.conf import settings
from yarl import URL

from clasper.core.errors import Unavailable
from clasper.core.model_ref import OFFLINE, PROVIDERS, ModelRef
from clasper.gateways.llm.anthropic import AnthropicWire
from clasper.gateways.llm.base import Provider
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.gemini import GeminiWire
from clasper.gateways.llm.offline import Offline
from clasper.gateways.llm.openai_chat import ChatWire
from clasper.gateways.llm.openai_chat.dialects import COMPATIBLE, GROQ, MISTRAL, OPENAI, OPENROUTER, XAI, Dialect
from clasper.gateways.llm.wire import Wire


@dataclass(frozen=True, slots=True)
class Host:
    """A provider as its makers run it.

    `model` is asked when no setting names one: small, cheap, and listed by the price data. `wire` makes the wire for a
    base URL, told whether that is the provider's own address.
    """

    url: str
    model: str
    wire: Callable[[str, URL, bool], Wire]


@dataclass(frozen=True, slots=True)
class Account:
    """What the settings say about a provider."""

    api_key: str
    base_url: str
    headers: tuple[tuple[str, str], ...]
    timeout: float

    @property
    def configured(self) -> bool:
        """Whether the provider may be asked. A key or address that is malformed counts, and is complained about."""
        return bool(self.api_key or self.base_url)


def _chat(dialect: Dialect, elsewhere: Dialect | None = None) -> Callable[[str, URL, bool], Wire]:
    """The chat wire in a dialect. OpenAI's other addresses are mostly other servers; those of other providers are
    gateways to them, and speak the same dialect."""

    def wire(name: str, base: URL, own: bool) -> Wire:
        endpoint = base.with_path(f"{base.path.rstrip('/')}/chat/completions").with_query(base.query)
        return ChatWire(name, endpoint, dialect if own or elsewhere is None else elsewhere)

    return wire


def _anthropic(name: str, base: URL, own: bool) -> Wire:
    return AnthropicWire(name, base)


def _gemini(name: str, base: URL, own: bool) -> Wire:
    return GeminiWire(name, base)


HOSTS: Mapping[str, Host] = {
    "openai": Host("https://api.openai.com/v1", "gpt-4o-mini", _chat(OPENAI, elsewhere=COMPATIBLE)),
    "anthropic": Host("https://api.anthropic.com/v1", "claude-haiku-4-5", _anthropic),
    "gemini": Host("https://generativelanguage.googleapis.com/v1beta", "gemini-2.5-flash", _gemini),
    "xai": Host("https://api.x.ai/v1", "grok-3-mini", _chat(XAI)),
    "groq": Host("https://api.groq.com/openai/v1", "llama-3.1-8b-instant", _chat(GROQ)),
    "mistral": Host("https://api.mistral.ai/v1", "mistral-small-latest", _chat(MISTRAL)),
    "openrouter": Host("https://openrouter.ai/api/v1", "openai/gpt-4o-mini", _chat(OPENROUTER)),
}

OFFLINE_MODEL = "offline-1"


def standard_model(provider: str) -> ModelRef | None:
    """The model of a provider for which the settings name none; None for an unknown provider."""
    if provider == OFFLINE:
        return ModelRef(OFFLINE, OFFLINE_MODEL)
    return ModelRef(provider, HOSTS[provider].model) if provider in HOSTS else None


def account(name: str) -> Account:
    """What the settings say about one of HOSTS."""
    prefix = name.upper()
    headers = settings.CLASPER_PROVIDER_HEADERS.get(name, {})
    return Account(
        api_key=getattr(settings, f"{prefix}_API_KEY"),
        base_url=getattr(settings, f"{prefix}_BASE_URL"),
        headers=tuple(headers.items()) if headers else (),
        timeout=settings.CLASPER_PROVIDER_TIMEOUTS_MS.get(name, 0) / 1000 or float("inf"),
    )


def configured(name: str) -> bool:
    """Whether the settings hold what the provider needs."""
    if name == OFFLINE:
        return not settings.PRODUCTION
    return name in HOSTS and account(name).configured


def provider_for(name: str) -> Provider:
    """The provider, as the settings are now. Raises Unavailable `model_not_configured`, naming the setting to set."""
    if name == OFFLINE:
        if settings.PRODUCTION:
            raise _unusable("The offline model is for development; in production set LLM_PROVIDER to a real provider.")
        return Offline()
    if name not in HOSTS:
        usable = ", ".join((*PROVIDERS, OFFLINE))
        raise _unusable(f"There is no model provider {name[:64]!r} here; there are: {usable}.")
    found = account(name)
    if not found.configured:
        prefix = name.upper()
        raise _unusable(f"The model provider {name} is not configured; set {prefix}_API_KEY (or {prefix}_BASE_URL).")
    return _reached(name, found)


@lru_cache(maxsize=64)
def _reached(name: str, found: Account) -> HttpProvider:
    prefix = name.upper()
    if not _is_header_text(found.api_key) or " " in found.api_key:
        raise _unusable(f"{prefix}_API_KEY holds a blank, a line break or a character outside ASCII; set it anew.")
    for header, value in found.headers:
        if not (isinstance(value, str) and header and _is_header_text(header + value)):
            raise _unusable(f"CLASPER_PROVIDER_HEADERS: {name}: the header {header[:64]!r} is no text fit for HTTP.")
    host = HOSTS[name]
    base = _checked_url(found.base_url or host.url, f"{prefix}_BASE_URL")
    wire = host.wire(name, base, base.host == URL(host.url).host)
    return HttpProvider(wire, found.api_key, str(base), dict(found.headers), found.timeout)


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
