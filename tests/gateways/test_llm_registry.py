"""What the settings must hold for a provider, and how it is then reached."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django.fixtures import Settings
from yarl import URL

from apps.governance.domain.prices import PriceBook
from clasper.core.errors import Unavailable
from clasper.core.model_ref import PROVIDERS
from clasper.gateways.llm.base import Message, ModelCall
from clasper.gateways.llm.exchange import HttpProvider
from clasper.gateways.llm.offline import Offline
from clasper.gateways.llm.openai_chat import ChatFormat
from clasper.gateways.llm.openai_chat.dialects import COMPATIBLE, OPENAI, Dialect
from clasper.gateways.llm.registry import PROVIDER_SPECS, configured, provider_for, standard_model

CALL = ModelCall(model="m-1", messages=(Message("user", "Hi"),), max_output_tokens=9, timeout=1)


def configure(settings: Settings, *, key: str = "", url: str = "", production: bool = False) -> None:
    settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL, settings.PRODUCTION = key, url, production


@pytest.mark.parametrize(
    ("key", "url", "expected"), [("", "", False), ("sk-1", "", True), ("", "http://localhost:1/v1", True)]
)
def test_openai_needs_a_key_or_an_address(settings: Settings, key: str, url: str, expected: bool) -> None:
    configure(settings, key=key, url=url)
    assert configured("openai") is expected
    assert not configured("nobody")
    if not expected:
        with pytest.raises(Unavailable, match="OPENAI_API_KEY") as caught:
            provider_for("openai")
        assert caught.value.error_code == "model_not_configured"


ENDPOINTS = [
    ("", "https://api.openai.com/v1/chat/completions", OPENAI),
    ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions", OPENAI),
    ("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1/chat/completions", COMPATIBLE),
    ("http://[::1]:9", "http://[::1]:9/chat/completions", COMPATIBLE),
    ("https://x.example/a/b?api-version=1", "https://x.example/a/b/chat/completions?api-version=1", COMPATIBLE),
]


@pytest.mark.parametrize(("url", "endpoint", "dialect"), ENDPOINTS)
def test_the_address_decides_endpoint_and_dialect(
    settings: Settings, url: str, endpoint: str, dialect: Dialect
) -> None:
    configure(settings, key="sk-1", url=url)
    provider = provider_for("openai")
    assert isinstance(provider, HttpProvider)
    assert provider.wire_format == ChatFormat("openai", URL(endpoint), dialect)


OWN_ADDRESSES = [
    ("openai", "https://api.openai.com/v1/chat/completions", {"Authorization": "Bearer k"}),
    ("anthropic", "https://api.anthropic.com/v1/messages", {"x-api-key": "k", "anthropic-version": "2023-06-01"}),
    (
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/models/m-1:generateContent",
        {"x-goog-api-key": "k"},
    ),
    ("xai", "https://api.x.ai/v1/chat/completions", {"Authorization": "Bearer k"}),
    ("groq", "https://api.groq.com/openai/v1/chat/completions", {"Authorization": "Bearer k"}),
    ("mistral", "https://api.mistral.ai/v1/chat/completions", {"Authorization": "Bearer k"}),
    ("openrouter", "https://openrouter.ai/api/v1/chat/completions", {"Authorization": "Bearer k"}),
]


@pytest.mark.parametrize(("name", "address", "headers"), OWN_ADDRESSES, ids=[each[0] for each in OWN_ADDRESSES])
def test_each_provider_is_asked_at_its_own_address(
    settings: Settings, name: str, address: str, headers: dict[str, str]
) -> None:
    setattr(settings, f"{name.upper()}_API_KEY", "k")
    provider = provider_for(name)
    assert isinstance(provider, HttpProvider)
    assert provider.name == name
    assert str(provider.wire_format.address(CALL, stream=False)) == address
    assert dict(provider.wire_format.headers("k")) == headers
    assert headers.keys() & dict(provider.wire_format.headers("")).keys() <= {"anthropic-version"}


def test_every_provider_there_is_has_a_host() -> None:
    assert tuple(PROVIDER_SPECS) == PROVIDERS
    assert [each[0] for each in OWN_ADDRESSES] == list(PROVIDERS)


def test_headers_and_timeouts_of_a_provider_come_from_the_settings(settings: Settings) -> None:
    configure(settings, key="sk-1")
    settings.CLASPER_PROVIDER_HEADERS = {"openai": {"X-Team": "shop"}}
    settings.CLASPER_PROVIDER_TIMEOUTS_MS = {"openai": 2500}
    provider = provider_for("openai")
    assert isinstance(provider, HttpProvider)
    assert (provider.extra_headers, provider.timeout) == ({"X-Team": "shop"}, 2.5)


@pytest.mark.parametrize("headers", [{"X-A": "a\nb"}, {"": "a"}, {"X-Ü": "a"}, {"X-A": 5}], ids=str)
def test_a_header_that_http_cannot_carry_is_a_configuration_error(settings: Settings, headers: dict[str, Any]) -> None:
    configure(settings, key="sk-1")
    settings.CLASPER_PROVIDER_HEADERS = {"openai": headers}
    with pytest.raises(Unavailable, match="CLASPER_PROVIDER_HEADERS: openai"):
        provider_for("openai")


def test_a_provider_is_built_once_and_follows_the_settings(settings: Settings) -> None:
    configure(settings, key="sk-1")
    first = provider_for("openai")
    assert provider_for("openai") is first
    configure(settings, key="sk-2")
    second = provider_for("openai")
    assert isinstance(second, HttpProvider)
    assert second.api_key == "sk-2"


@pytest.mark.parametrize("key", ["sk-1\n", "sk 1", "sk-ключ", "sk-\r\nX-Evil: 1", "\x00"])
def test_a_key_that_no_header_can_carry_is_a_configuration_error(settings: Settings, key: str) -> None:
    configure(settings, key=key)
    with pytest.raises(Unavailable, match="OPENAI_API_KEY contains") as caught:
        provider_for("openai")
    assert caught.value.error_code == "model_not_configured"
    assert key not in caught.value.message


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://x/v1", "http://", "http://u:p@x/v1", "/v1", "http://x:99999/v1", "http://[::1", "x y"],
)
def test_an_address_that_is_none_is_a_configuration_error(settings: Settings, url: str) -> None:
    configure(settings, key="sk-1", url=url)
    with pytest.raises(Unavailable, match="OPENAI_BASE_URL must be"):
        provider_for("openai")


@pytest.mark.parametrize("name", ["nobody", "google", "", "x" * 500])
def test_an_unknown_provider_says_which_there_are(settings: Settings, name: str) -> None:
    with pytest.raises(Unavailable, match="there are: openai, anthropic, gemini") as caught:
        provider_for(name)
    assert caught.value.error_code == "model_not_configured"
    assert len(caught.value.message) < 200


def test_the_offline_model_is_refused_in_production(settings: Settings) -> None:
    configure(settings)
    assert configured("offline")
    assert isinstance(provider_for("offline"), Offline)
    configure(settings, production=True)
    assert not configured("offline")
    with pytest.raises(Unavailable, match="LLM_PROVIDER"):
        provider_for("offline")


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_standard_model_of_every_provider_is_priced(name: str) -> None:
    ref = standard_model(name)
    assert ref is not None
    assert ref.provider == name
    assert PriceBook({}).price(name, ref.model).status == "priced"
