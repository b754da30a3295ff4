"""Which model answers a run: tiers, roles, requests, providers, credentials, and the fallback in a tool loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from genai_prices.data import providers

from apps.agents.engine.models import named_model
from apps.traces.models import Trace
from clasper.core.model_ref import PROVIDERS
from clasper.core.redaction import redact_text
from clasper.core.usage import Usage
from clasper.gateways.llm.registry import PROVIDER_SPECS
from fakes.llm import Behaviour, FakeProvider, error, reply, tool_calls
from tests.agents.backend import Backend
from tests.agents.hosts import ENDPOINTS, MODELS, Outcome, ask, assert_costs, attempts, hosts, model_steps
from tests.agents.ledger import assert_balanced, nano
from tests.world import ACME, USER, Server, tenant_key

ROOT = Path(__file__).resolve().parents[2]
USAGE = Usage(input=100, output=20)
HAIKU = "claude-haiku-4-5"


@pytest.fixture
def all_hosts(server: Server, settings: Any) -> Iterator[dict[str, FakeProvider]]:
    """Every provider; openai is the default."""
    with hosts(settings, *PROVIDERS) as found:
        yield found


@pytest.fixture
def two_hosts(server: Server, settings: Any) -> Iterator[dict[str, FakeProvider]]:
    """openai, the default, and anthropic."""
    with hosts(settings, "openai", "anthropic") as found:
        yield found


def said(named: str | None, role: str | None = None) -> dict[str, Any]:
    """The fields of a request that name a model, and of a session with this role."""
    body: dict[str, Any] = {} if named is None else {"metadata": {"model": named}}
    return body if role is None else {**body, "session_key": f"user:{USER}:{role}"}


def asked(found: dict[str, FakeProvider]) -> list[str]:
    """The requests at all hosts as `provider/model`."""
    return [f"{name}/{exchange.model}" for name, fake in found.items() for exchange in fake.requests]


# --- The name of a model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """What is named, and the `provider/model` that answers. `role` is the run's, `own` the request's model."""

    id: str
    answers: str
    own: str | None = None
    role: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


TIERS = {"LLM_MODEL_CHEAP": "gpt-4.1-nano", "LLM_MODEL_BEST": f"anthropic/{HAIKU}"}
ROLES = {"CLASPER_ROLE_MODELS": {"planner": f"anthropic/{HAIKU}", "sorter": "cheap"}}
CHOICES = [
    Choice("nothing named", "openai/gpt-4o-mini"),
    Choice("the default by its tier", "openai/gpt-4o-mini", own="default", settings=TIERS),
    Choice("cheap", "openai/gpt-4.1-nano", own="cheap", settings=TIERS),
    Choice("best is elsewhere", f"anthropic/{HAIKU}", own="best", settings=TIERS),
    Choice("fallback", "openai/gpt-4o", own="fallback", settings={"LLM_MODEL_FALLBACK": "gpt-4o"}),
    Choice("cheap unset", "openai/gpt-4o-mini", own="cheap"),
    Choice("best unset", "openai/gpt-4o-mini", own="best"),
    Choice("fallback unset", "openai/gpt-4o-mini", own="fallback"),
    Choice("a bare name", "openai/gpt-4o", own="gpt-4o"),
    Choice("a name with its provider", f"anthropic/{HAIKU}", own=f"anthropic/{HAIKU}"),
    Choice("blanks around", "openai/gpt-4o", own="  gpt-4o "),
    Choice("capitals", f"anthropic/{HAIKU}", own=f"Anthropic/{HAIKU}"),
    Choice("slashes of nobody", "openai/Qwen/Qwen2.5-7B", own="Qwen/Qwen2.5-7B"),
    Choice("a tier of another is a model", "anthropic/best", own="anthropic/best", settings=TIERS),
    Choice("the role's", f"anthropic/{HAIKU}", role="planner", settings=ROLES),
    Choice("the role's tier", "openai/gpt-4.1-nano", role="sorter", settings={**ROLES, **TIERS}),
    Choice("the role's tier unset", "openai/gpt-4o-mini", role="sorter", settings=ROLES),
    Choice("another role", "openai/gpt-4o-mini", role="writer", settings=ROLES),
    Choice("the request before the role", "openai/gpt-4o", own="gpt-4o", role="planner", settings=ROLES),
    Choice("the request's tier before the role", "openai/gpt-4o-mini", own="default", role="planner", settings=ROLES),
]


@pytest.mark.parametrize("case", CHOICES, ids=lambda case: case.id)
def test_the_model_that_is_meant_answers(
    server: Server, backend: Backend, two_hosts: dict[str, FakeProvider], settings: Any, case: Choice
) -> None:
    for name, value in case.settings.items():
        setattr(settings, name, value)
    outcome = ask(server, "send", **said(case.own, case.role))
    assert outcome.status == 200, outcome
    assert asked(two_hosts) == [case.answers]
    trace = server.trace(outcome.trace_id)
    assert f"{trace['provider']}/{trace['model']}" == case.answers
    assert outcome.body["cost"]["model"] == case.answers.partition("/")[2]
    (start,) = [each for each in server.audit(trace_id=outcome.trace_id) if each["event_type"] == "agent.start"]
    assert start["details"]["model"] == case.answers


@pytest.mark.parametrize(
    ("named", "answers"),
    [
        *((f"{name}/{MODELS[name].name}", f"{name}/{MODELS[name].name}") for name in PROVIDERS),
        ("google/gemini-2.5-flash", "gemini/gemini-2.5-flash"),
        ("openrouter/anthropic/claude-haiku-4.5", "openrouter/anthropic/claude-haiku-4.5"),
        ("openrouter/google/gemma-3-12b-it:free", "openrouter/google/gemma-3-12b-it:free"),
        ("openrouter/openrouter/auto", "openrouter/openrouter/auto"),
        ("groq/openai/gpt-oss-20b", "groq/openai/gpt-oss-20b"),
    ],
)
def test_any_configured_provider_may_be_named(
    server: Server, backend: Backend, all_hosts: dict[str, FakeProvider], named: str, answers: str
) -> None:
    outcome = ask(server, "send", metadata={"model": named})
    assert outcome.status == 200, outcome
    assert asked(all_hosts) == [answers]
    trace = server.trace(outcome.trace_id)
    assert f"{trace['provider']}/{trace['model']}" == answers
    assert all(fake.problems == [] for fake in all_hosts.values())


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_standard_model_is_the_providers_own(
    server: Server, backend: Backend, settings: Any, provider: str, endpoint: str
) -> None:
    """Without LLM_MODEL_DEFAULT; also where the model's name begins like another provider's."""
    with hosts(settings, provider) as found:
        settings.LLM_MODEL_DEFAULT = ""
        outcome = ask(server, endpoint)
        assert outcome.status == 200, outcome
        assert asked(found) == [f"{provider}/{PROVIDER_SPECS[provider].model}"]
        trace = server.trace(outcome.trace_id)
        assert (trace["provider"], trace["model"]) == (provider, PROVIDER_SPECS[provider].model)
        assert nano(trace["total_cost"]) > 0


@pytest.mark.parametrize("default", ["", "gemini-2.5-flash"], ids=["standard model", "bare name"])
def test_the_default_provider_may_be_an_alias(server: Server, backend: Backend, settings: Any, default: str) -> None:
    with hosts(settings, "gemini") as found:
        settings.LLM_PROVIDER, settings.LLM_MODEL_DEFAULT = "google", default
        outcome = ask(server, "send")
        assert outcome.status == 200, outcome
        assert asked(found) == ["gemini/gemini-2.5-flash"]


def test_no_model_of_the_price_list_is_refused(server: Server, settings: Any) -> None:
    names = {model.id for provider in providers for model in provider.models}
    assert len(names) > 500
    for name in names:
        assert named_model(name).model in name
        assert redact_text(name) == name


# --- Names that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    "named",
    [
        pytest.param("gpt-4o\nmini", id="line break"),
        pytest.param("gpt-4o\x1b[2J", id="escape"),
        pytest.param("openai/\u202eoam", id="writing direction"),
        pytest.param("x" * 129, id="too long"),
        pytest.param("anthropic/", id="provider without model"),
        pytest.param("   ", id="blank"),
        pytest.param("gpt-4o bob@example.com please", id="text"),
        pytest.param("bob@example.com", id="e-mail"),
        pytest.param("openai/bob@example.com", id="e-mail of a provider"),
        pytest.param("gpt-4111-1111-1111-1111", id="card"),
        pytest.param("sk-abcdefghijklmnopqrstuvwxyz123456", id="key"),
    ],
)
def test_a_name_that_is_none_is_refused(
    server: Server, backend: Backend, two_hosts: dict[str, FakeProvider], named: str, endpoint: str
) -> None:
    outcome = ask(server, endpoint, metadata={"model": named})
    assert (outcome.status, outcome.code) == (400, "invalid_request"), outcome
    assert outcome.body["details"]["fieldErrors"]
    assert asked(two_hosts) == []
    assert not Trace.objects.exists()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_the_provider_does_not_know(
    server: Server, backend: Backend, settings: Any, provider: str, endpoint: str
) -> None:
    with hosts(settings, provider) as found:
        server.set_budget(limit=1)
        found[provider].script(error(404, message="The model gpt-4o is not found"))
        outcome = ask(server, endpoint, metadata={"model": f"{provider}/{MODELS[provider].name}"})
        assert (outcome.status, outcome.code) == (400 if endpoint == "send" else 0, "unknown_model")
        assert MODELS[provider].name in outcome.body["error"]
        assert attempts(server, outcome.trace_id) == [(MODELS[provider].name, "unknown_model")]
        assert backend.messages == []
        assert_costs(server, outcome.trace_id, 0)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("named", "changes"),
    [
        pytest.param("gemini/gemini-2.5-flash", {}, id="named"),
        pytest.param("google/gemini-2.5-flash", {}, id="alias"),
        pytest.param("best", {"LLM_MODEL_BEST": "gemini/gemini-2.5-flash"}, id="tier"),
        pytest.param(None, {"LLM_MODEL_FALLBACK": "gemini/gemini-2.5-flash"}, id="fallback"),
        pytest.param(None, {"LLM_PROVIDER": "gemini", "LLM_MODEL_DEFAULT": ""}, id="default"),
    ],
)
def test_a_provider_without_settings_names_them(
    server: Server,
    backend: Backend,
    two_hosts: dict[str, FakeProvider],
    settings: Any,
    named: str | None,
    changes: dict[str, str],
    endpoint: str,
) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    outcome = ask(server, endpoint, **said(named))
    assert (outcome.status, outcome.code) == (503, "model_not_configured"), outcome
    assert "GEMINI_API_KEY" in outcome.body["error"]
    assert asked(two_hosts) == []
    assert not Trace.objects.exists()


# --- Credentials -----------------------------------------------------------------------------------------------------

_CHEAP = {"LLM_MODEL_CHEAP": "gpt-4.1-nano"}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("allowed", "named", "role", "changes", "answers"),
    [
        pytest.param(["gpt-4o-mini"], None, None, {}, "openai/gpt-4o-mini", id="default allowed"),
        pytest.param(["gpt-4o"], None, None, {}, "", id="default not allowed"),
        pytest.param(["openai/*"], "gpt-4o", None, {}, "openai/gpt-4o", id="any of the provider"),
        pytest.param(["openai/*"], f"anthropic/{HAIKU}", None, {}, "", id="another provider"),
        pytest.param(["gpt-4.1-nano"], "cheap", None, _CHEAP, "openai/gpt-4.1-nano", id="tier's model allowed"),
        pytest.param(["gpt-4o-mini"], "cheap", None, _CHEAP, "", id="tier's model not allowed"),
        pytest.param(["cheap"], "cheap", None, _CHEAP, "", id="a tier's name allows nothing"),
        pytest.param(["openai/*"], None, "planner", ROLES, "", id="role's model not allowed"),
        pytest.param([f"anthropic/{HAIKU}"], None, "planner", ROLES, f"anthropic/{HAIKU}", id="role's model allowed"),
        pytest.param([], None, None, {}, "openai/gpt-4o-mini", id="nothing said"),
    ],
)
def test_a_credential_is_checked_on_the_model_that_is_meant(
    server: Server,
    backend: Backend,
    two_hosts: dict[str, FakeProvider],
    settings: Any,
    allowed: list[str],
    named: str | None,
    role: str | None,
    changes: dict[str, Any],
    answers: str,
    endpoint: str,
) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    key = tenant_key(ACME, allowed_models=allowed)
    outcome = ask(server, endpoint, key=key, **said(named, role))
    if answers:
        assert outcome.status == 200, outcome
        assert asked(two_hosts) == [answers]
        return
    assert (outcome.status, outcome.code) == (403, "permission_denied"), outcome
    assert outcome.body["details"]["permission"] == "model"
    assert asked(two_hosts) == []
    assert not Trace.objects.exists()


def test_a_fallback_that_the_credential_may_not_use_is_not_asked(
    server: Server, backend: Backend, two_hosts: dict[str, FakeProvider], settings: Any
) -> None:
    settings.LLM_MODEL_FALLBACK = f"anthropic/{HAIKU}"
    two_hosts["openai"].default = error(500)
    outcome = ask(server, "send", key=tenant_key(ACME, allowed_models=["openai/*"]))
    assert (outcome.status, outcome.code) == (502, "provider_error")
    assert two_hosts["anthropic"].requests == []
    assert_balanced()


# --- The fallback, over another wire ---------------------------------------------------------------------------------

LOOKUP = ("orders_lookup", '{"order_id": "ORD-1"}')
PAIRS = [
    ("anthropic", "gemini"),
    ("gemini", "anthropic"),
    ("openrouter", "anthropic"),
    ("anthropic", "openai"),
    ("openai", "gemini"),
    ("xai", "anthropic"),
    ("mistral", "gemini"),
    ("anthropic", "groq"),
]


def _fails_in_mid_loop(
    server: Server, backend: Backend, found: dict[str, FakeProvider], settings: Any, endpoint: str, *broken: Behaviour
) -> Outcome:
    """The first provider wants a tool and then fails for ever; the second answers."""
    first, second = found
    settings.LLM_MODEL_FALLBACK = f"{second}/{MODELS[second].name}"
    backend.tools["orders:lookup"] = lambda arguments: {"order_id": arguments["order_id"], "status": "shipped"}
    server.set_budget(limit=1)
    found[first].script(tool_calls(LOOKUP, LOOKUP, text="Let me look.", thinking="Two look-ups.", usage=USAGE), *broken)
    found[second].script(reply("On its way.", usage=USAGE))
    return ask(server, endpoint, "Where is ORD-1?")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_fallback_goes_on_with_a_tool_loop_of_another_provider(
    server: Server, backend: Backend, settings: Any, first: str, second: str, endpoint: str
) -> None:
    with hosts(settings, first, second) as found:
        outcome = _fails_in_mid_loop(server, backend, found, settings, endpoint, *(error(529),) * 3)
        assert (outcome.status, outcome.body["response"]) == (200, "On its way."), outcome
        one, other = MODELS[first], MODELS[second]
        assert attempts(server, outcome.trace_id) == [
            (one.name, "tool_calls"),
            *((one.name, "unavailable"),) * 3,
            (other.name, "stop"),
        ]
        assert [fake.problems for fake in found.values()] == [[], []]
        sent = json.dumps(found[second].requests[0].body)
        assert sent.index("Let me look.") < sent.index("shipped")
        assert "Two look-ups." not in sent
        assert (len(found[first].requests), len(found[second].requests)) == (4, 1)
        trace = server.trace(outcome.trace_id)
        assert (trace["provider"], trace["model"]) == (second, other.name)
        assert_costs(server, outcome.trace_id, one.cost(USAGE) + other.cost(USAGE), response=outcome.body)
        assert [message["content"] for message in backend.messages] == ["On its way."]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_run_stays_with_the_fallback_that_answered_it_and_pays_its_price(
    server: Server, backend: Backend, settings: Any, first: str, second: str, endpoint: str
) -> None:
    """Also when the first model is well again: the thoughts of the tool call are signed by the second."""
    with hosts(settings, first, second) as found:
        one, other = MODELS[first], MODELS[second]
        settings.LLM_MODEL_FALLBACK = f"{second}/{other.name}"
        backend.tools["orders:lookup"] = lambda arguments: {"status": "shipped"}
        server.set_budget(limit=1)
        found[first].script(*(error(500),) * 3)
        found[second].script(tool_calls(LOOKUP, thinking="A look-up.", usage=USAGE), reply("On its way.", usage=USAGE))
        outcome = ask(server, endpoint, "Where is ORD-1?")
        assert (outcome.status, outcome.body["response"]) == (200, "On its way."), outcome
        assert [fake.problems for fake in found.values()] == [[], []]
        assert attempts(server, outcome.trace_id) == [
            *((one.name, "unavailable"),) * 3,
            (other.name, "tool_calls"),
            (other.name, "stop"),
        ]
        costs = [nano(step.get("cost") or 0) for step in model_steps(server, outcome.trace_id)]
        assert costs == [0, 0, 0, other.cost(USAGE), other.cost(USAGE)]
        assert_costs(server, outcome.trace_id, 2 * other.cost(USAGE), response=outcome.body)


# --- The default provider --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "provider"),
    [
        pytest.param({}, "offline", id="nothing"),
        pytest.param({"ANTHROPIC_API_KEY": "k"}, "anthropic", id="a key"),
        pytest.param({"GROQ_BASE_URL": "http://127.0.0.1:1/v1"}, "groq", id="an address"),
        pytest.param({"OPENROUTER_API_KEY": "k", "XAI_API_KEY": "k"}, "xai", id="the first of two"),
        pytest.param({"GOOGLE_API_KEY": "k"}, "gemini", id="Google's own name of the key"),
        pytest.param({"OPENAI_API_KEY": "k", "LLM_PROVIDER": "mistral"}, "mistral", id="named"),
    ],
)
def test_the_default_provider_is_the_first_configured(
    tmp_path: Path, environment: dict[str, str], provider: str
) -> None:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    code = "from clasper import settings; print(settings.LLM_PROVIDER)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": str(ROOT), "CLASPER_ENV": "test", **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == provider
