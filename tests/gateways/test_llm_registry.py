"""Which provider a model's name means, and what the settings must hold for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from clasper.core.errors import InvalidRequest, Unavailable
from clasper.gateways.llm.offline import Offline
from clasper.gateways.llm.openai_chat import OpenAIChat
from clasper.gateways.llm.openai_request import COMPATIBLE, OPENAI
from clasper.gateways.llm.registry import DEFAULT_MODELS, ModelRef, configured, parse_model_ref, provider_for

NAMES = [
    ("gpt-4o-mini", "openai", "gpt-4o-mini"),
    ("openai/gpt-4o-mini", "openai", "gpt-4o-mini"),
    ("OpenAI/gpt-4o-mini", "openai", "gpt-4o-mini"),
    ("offline/offline-1", "offline", "offline-1"),
    ("openrouter/openai/gpt-4o", "openrouter", "openai/gpt-4o"),
    ("openrouter/meta-llama/llama-3:free", "openrouter", "meta-llama/llama-3:free"),
    ("anthropic/claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5"),
    ("meta-llama/llama-3", "openai", "meta-llama/llama-3"),
    ("  gpt-4o  ", "openai", "gpt-4o"),
    ("openai", "openai", "openai"),
    ("/x", "openai", "/x"),
]


@pytest.mark.parametrize(("text", "provider", "model"), NAMES)
def test_the_model_that_a_name_means(text: str, provider: str, model: str) -> None:
    assert parse_model_ref(text, "openai") == ModelRef(provider, model)


def test_a_name_without_provider_is_a_model_of_the_default_one() -> None:
    assert parse_model_ref("offline-1", "offline") == ModelRef("offline", "offline-1")
    assert str(parse_model_ref("openrouter/openai/x", "openai")) == "openrouter/openai/x"


@pytest.mark.parametrize("text", ["", "  ", "openai/", "offline/ ".strip()])
def test_no_model_is_an_error(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_model_ref(text, "openai")
    assert "model" in caught.value.details["fieldErrors"]


@given(model=st.from_regex(r"[a-z0-9][a-z0-9/:._-]{0,40}", fullmatch=True))
def test_a_prefixed_name_is_that_providers_model_whatever_it_holds(model: str) -> None:
    assert parse_model_ref(f"openrouter/{model}", "openai") == ModelRef("openrouter", model)
    ref = parse_model_ref(str(ModelRef("openai", model)), "offline")
    assert ref == ModelRef("openai", model)


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
def test_the_address_decides_endpoint_and_dialect(settings: Settings, url: str, endpoint: str, dialect: object) -> None:
    configure(settings, key="sk-1", url=url)
    provider = provider_for("openai")
    assert isinstance(provider, OpenAIChat)
    assert (str(provider.endpoint), provider.dialect, provider.name) == (endpoint, dialect, "openai")


def test_a_provider_is_built_once_and_follows_the_settings(settings: Settings) -> None:
    configure(settings, key="sk-1")
    first = provider_for("openai")
    assert provider_for("openai") is first
    configure(settings, key="sk-2")
    second = provider_for("openai")
    assert isinstance(second, OpenAIChat)
    assert second.api_key == "sk-2"


@pytest.mark.parametrize("key", ["sk-1\n", "sk 1", "sk-ключ", "sk-\r\nX-Evil: 1", "\x00"])
def test_a_key_that_no_header_can_carry_is_a_configuration_error(settings: Settings, key: str) -> None:
    configure(settings, key=key)
    with pytest.raises(Unavailable, match="OPENAI_API_KEY holds") as caught:
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


@pytest.mark.parametrize("name", ["nobody", "anthropic", "", "x" * 500])
def test_an_unknown_provider_says_which_there_are(settings: Settings, name: str) -> None:
    with pytest.raises(Unavailable, match="there are: openai, offline") as caught:
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


def test_every_provider_that_can_be_used_has_a_default_model() -> None:
    assert DEFAULT_MODELS == {"openai": "gpt-4o-mini", "offline": "offline-1"}
