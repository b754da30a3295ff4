"""Which provider and which model a name means, and which names mean none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.errors import InvalidRequest
from clasper.core.model_ref import MAX_MODEL_NAME, OFFLINE, PROVIDERS, ModelRef, parse_model_ref, provider_id

NAMES = [
    ("gpt-4o-mini", "openai", "gpt-4o-mini"),
    ("openai/gpt-4o-mini", "openai", "gpt-4o-mini"),
    ("OpenAI/gpt-4o-mini", "openai", "gpt-4o-mini"),
    ("offline/offline-1", "offline", "offline-1"),
    ("openrouter/openai/gpt-4o", "openrouter", "openai/gpt-4o"),
    ("openrouter/meta-llama/llama-3:free", "openrouter", "meta-llama/llama-3:free"),
    ("anthropic/claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5"),
    ("google/gemini-2.0-flash", "gemini", "gemini-2.0-flash"),
    ("Google/gemini-2.0-flash", "gemini", "gemini-2.0-flash"),
    ("gemini/models/gemini-2.0-flash", "gemini", "models/gemini-2.0-flash"),
    ("xai/grok-4", "xai", "grok-4"),
    ("groq/llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile"),
    ("mistral/mistral-large-latest", "mistral", "mistral-large-latest"),
    ("meta-llama/llama-3", "openai", "meta-llama/llama-3"),
    ("  gpt-4o \n", "openai", "gpt-4o"),
    ("openai", "openai", "openai"),
    ("/x", "openai", "/x"),
    ("@cf/meta/llama-3", "openai", "@cf/meta/llama-3"),
    ("accounts/fireworks/models/x", "openai", "accounts/fireworks/models/x"),
    ("openrouter/~openai/gpt-latest", "openrouter", "~openai/gpt-latest"),
    ("anthropic/claude-3.5-sonnet:beta", "anthropic", "claude-3.5-sonnet:beta"),
    ("claude-sonnet-4-5@20250929", "openai", "claude-sonnet-4-5@20250929"),
    ("ft:gpt-4o-mini:org::id", "openai", "ft:gpt-4o-mini:org::id"),
    ("llama3.2:3b-instruct-q4_K_M", "openai", "llama3.2:3b-instruct-q4_K_M"),
]


@pytest.mark.parametrize(("text", "provider", "model"), NAMES)
def test_the_model_that_a_name_means(text: str, provider: str, model: str) -> None:
    assert parse_model_ref(text, "openai") == ModelRef(provider, model)


@pytest.mark.parametrize(
    ("default_provider", "provider"), [("offline", "offline"), ("google", "gemini"), ("OpenAI", "openai"), ("", "")]
)
def test_a_bare_name_is_a_model_of_the_default_provider(default_provider: str, provider: str) -> None:
    assert parse_model_ref("m", default_provider) == ModelRef(provider, "m")
    assert parse_model_ref("groq/m", default_provider) == ModelRef("groq", "m")


TOO_LONG = "x" * (MAX_MODEL_NAME + 1)
BAD_NAMES = [
    pytest.param("", 1, id="empty"),
    pytest.param("  ", 1, id="blank"),
    pytest.param("openai/", 1, id="provider alone"),
    pytest.param("google/", 1, id="alias alone"),
    pytest.param(TOO_LONG, 1, id="too long"),
    pytest.param(f"openrouter/{TOO_LONG}", 1, id="too long after its provider"),
    pytest.param(f"nobody/{'x' * MAX_MODEL_NAME}", 1, id="too long with its prefix"),
    pytest.param("gpt\x00-4", 1, id="null"),
    pytest.param("gpt\r\n-4", 1, id="line break"),
    pytest.param("openai/gpt\x1b[31m", 1, id="escape"),
    pytest.param("gpt\u200b-4", 1, id="invisible"),
    pytest.param("gpt\ud800", 1, id="half a character"),
    pytest.param("gpt-4o of my friend", 1, id="a text"),
    pytest.param("模型", 1, id="letters of no host"),
    pytest.param("gpt-4o\tmini", 1, id="tab"),
    pytest.param("<b>gpt</b>", 1, id="markup"),
    pytest.param(f"{TOO_LONG}\x07x", 2, id="long and loud"),
]


@pytest.mark.parametrize(("text", "count"), BAD_NAMES)
def test_a_name_that_means_no_model_is_refused_with_every_reason(text: str, count: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_model_ref(text, "openai")
    assert caught.value.details["fieldErrors"].keys() == {"model"}
    assert len(caught.value.details["fieldErrors"]["model"]) == count


def test_the_longest_name_fits_every_provider() -> None:
    model = "x" * MAX_MODEL_NAME
    for provider in (*PROVIDERS, OFFLINE):
        assert parse_model_ref(f"{provider}/{model}", "openai") == ModelRef(provider, model)


@given(
    provider=st.sampled_from([*PROVIDERS, OFFLINE]),
    model=st.from_regex(r"[a-z0-9][a-z0-9/:._-]{0,40}", fullmatch=True),
    default_provider=st.sampled_from([*PROVIDERS, OFFLINE]),
)
def test_a_reference_written_down_is_read_back(provider: str, model: str, default_provider: str) -> None:
    ref = ModelRef(provider, model)
    assert parse_model_ref(str(ref), default_provider) == ref


@pytest.mark.parametrize(("name", "expected"), [("XAI", "xai"), ("google", "gemini"), ("nobody", "nobody"), ("", "")])
def test_a_provider_has_one_name(name: str, expected: str) -> None:
    assert provider_id(name) == expected
