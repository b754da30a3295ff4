"""`manage.py providers`: what is configured, what it costs, and whether it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.traces.models import Trace
from clasper.core.model_ref import PROVIDERS
from fakes.llm import WIRE_FORMATS, FakeProvider, error
from tests.world import Server


@pytest.fixture
def anthropic(server: Server, settings: Any) -> Iterator[FakeProvider]:
    fake = FakeProvider.start(WIRE_FORMATS["anthropic"])
    settings.LLM_PROVIDER = "anthropic"
    settings.ANTHROPIC_API_KEY, settings.ANTHROPIC_BASE_URL = "test-key", fake.url
    yield fake
    fake.close()


def told(*arguments: str, exits: int | None = None) -> str:
    out = StringIO()
    if exits is None:
        call_command("providers", *arguments, stdout=out)
    else:
        with pytest.raises(SystemExit) as caught:
            call_command("providers", *arguments, stdout=out)
        assert caught.value.code == exits
    return out.getvalue()


def test_it_lists_every_provider_with_models_and_prices(anthropic: FakeProvider, settings: Any) -> None:
    settings.LLM_MODEL_BEST = "gemini/gemini-2.5-pro"
    settings.CLASPER_ROLE_MODELS = {"planner": "claude-opus-4-5"}
    lines = {line.split()[0]: line for line in told().splitlines() if line.strip()}
    assert lines.keys() >= {*PROVIDERS, "offline"}
    assert "not configured" in lines["openai"]
    assert all(word in lines["anthropic"] for word in ("default", "claude-haiku-4-5", "200,000", "1 / 5"))
    assert all(word in lines["gemini"] for word in ("gemini-2.5-pro", "best", "1.25 / 10"))
    assert "role planner" in lines["claude-opus-4-5"]
    assert anthropic.requests == []


def test_json_is_for_programs(anthropic: FakeProvider) -> None:
    found = json.loads(told("anthropic", "--json"))
    assert [entry["name"] for entry in found["providers"]] == ["anthropic"]
    assert found["providers"][0]["models"][0] == {
        "name": "claude-haiku-4-5",
        "used_for": ["default"],
        "price_status": "priced",
        "price_version": found["providers"][0]["models"][0]["price_version"],
        "context_window": 200_000,
        "input_per_million": 1.0,
        "output_per_million": 5.0,
    }
    assert found["checks"] == []


def test_a_check_is_a_run_with_a_trace_and_a_cost(anthropic: FakeProvider, server: Server) -> None:
    told_line = told("--check", "--tenant", "acme").splitlines()[-1]
    trace = Trace.objects.get()
    assert told_line.startswith("anthropic/claude-haiku-4-5: answered in ")
    assert trace.id in told_line
    assert (trace.tenant_id, trace.kind, trace.status) == ("acme", "check", "success")
    assert trace.cost > 0
    assert f"{trace.cost / 10**9:.9f} USD" in told_line
    assert [entry["event_type"] for entry in server.audit(tenant_id="acme")] == ["agent.start", "agent.complete"]
    assert anthropic.problems == []


def test_a_provider_that_does_not_answer_is_reported(anthropic: FakeProvider) -> None:
    anthropic.script(error(401))
    text = told("--check", exits=1)
    assert "anthropic/claude-haiku-4-5: provider_error: " in text
    assert "(HTTP 401)" in text


def test_a_wrong_setting_is_named(anthropic: FakeProvider, settings: Any) -> None:
    settings.MISTRAL_API_KEY = "two words"
    assert "MISTRAL_API_KEY contains a space" in told("mistral", "--check", exits=1)
    settings.LLM_MODEL_DEFAULT = "anthropic/"
    with pytest.raises(CommandError, match="Name a model"):
        told()


def test_an_unknown_provider_says_which_there_are(server: Server) -> None:
    with pytest.raises(CommandError, match="no provider nobody; there are: openai, "):
        told("nobody")


def test_without_any_provider_a_check_says_what_to_set(server: Server) -> None:
    with pytest.raises(CommandError, match="OPENAI_API_KEY"):
        told("openai", "--check")
