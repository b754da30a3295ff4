"""A forecast costs what a run costs and says what a budget check says; it finds the model whatever is configured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apps.audit.models import AuditEntry
from apps.governance.domain.forecast import MAX_TOKENS, price_call
from apps.governance.domain.prices import CEILING, MAX_USD_PER_MTOK, PriceBook
from apps.governance.models import Budget
from apps.governance.services.budgets import check_budget, get_budget, set_budget
from apps.governance.services.forecast import forecast_cost
from apps.governance.services.prices import price_book
from clasper.core.clock import utc_now
from clasper.core.errors import InvalidRequest
from clasper.core.money import NanoUSD, usd
from tests.governance.forecasts import DAEMON_KEY, Caller, faults, give, key_of

pytestmark = pytest.mark.urls("tests.governance.forecasts")

SAMPLES = Path(__file__).resolve().parents[2] / "fixtures" / "api" / "cost_forecast.json"
BOOK = PriceBook({"openai/own": {"input": 0.001, "output": 0.001}, "offline/own": {"input": 1, "output": 1}})
UNKNOWN = "nobody-has-heard-of-it"


@pytest.fixture
def platform(store: None, settings: Any) -> Caller:
    settings.AGENT_DAEMON_API_KEY = DAEMON_KEY
    settings.LLM_PROVIDER = "openai"
    settings.MIDDLEWARE = []
    return Caller(**{"X-Agent-Daemon-Key": DAEMON_KEY})


@pytest.fixture
def acme(platform: Caller) -> Caller:
    return key_of("acme", "governance:read")


# --- Which price -----------------------------------------------------------------------------------------------------

MODELS = [
    ("gpt-4", "openai", "openai/gpt-4"),
    ("openai/gpt-4", "offline", "openai/gpt-4"),
    ("gpt-4", "offline", "openai/gpt-4"),
    ("gpt-4", "anthropic", "openai/gpt-4"),
    ("  gpt-4 ", "offline", "openai/gpt-4"),
    ("claude-sonnet-4-5", "openai", "anthropic/claude-sonnet-4-5"),
    ("claude-sonnet-4-5", "gemini", "gemini/claude-sonnet-4-5"),
    ("gemini-2.0-flash", "google", "gemini/gemini-2.0-flash"),
    ("google/gemini-2.0-flash", "openai", "gemini/gemini-2.0-flash"),
    ("grok-4", "openai", "xai/grok-4"),
    ("llama-3.3-70b-versatile", "openai", "groq/llama-3.3-70b-versatile"),
    ("mistral-large-latest", "offline", "mistral/mistral-large-latest"),
    ("anthropic/claude-sonnet-4-5", "openrouter", "anthropic/claude-sonnet-4-5"),
    ("openrouter/openai/gpt-4o", "openai", "openrouter/openai/gpt-4o"),
    ("offline-1", "offline", "offline/offline-1"),
    ("offline/gpt-4", "openai", "offline/gpt-4"),
    ("own", "anthropic", "openai/own"),
]


@pytest.mark.parametrize(("model", "default_provider", "priced"), MODELS)
def test_the_model_that_is_priced(model: str, default_provider: str, priced: str) -> None:
    call = price_call(BOOK, model, default_provider=default_provider, input_tokens=1000, output_tokens=1000)
    assert str(call.ref) == priced
    price = BOOK.price(call.ref.provider, call.ref.model)
    assert (call.price_version, call.estimated) == (price.version, False)
    assert call.cost.total > 0


@pytest.mark.parametrize(
    ("model", "default_provider"),
    [(UNKNOWN, "openai"), (f"anthropic/{UNKNOWN}", "openai"), ("anthropic/gpt-4", "openai"), ("openai/o", "offline")],
)
def test_an_unknown_model_costs_the_ceiling(model: str, default_provider: str) -> None:
    call = price_call(BOOK, model, default_provider=default_provider, input_tokens=10, output_tokens=20)
    assert call.estimated
    assert call.price_version == "ceiling"
    assert call.cost.total == CEILING.worst_case(prompt_tokens=10, max_output_tokens=20)
    assert str(call.ref) == (model if "/" in model else f"{default_provider}/{model}")


def test_finding_a_model_keeps_the_order_of_the_providers() -> None:
    found = BOOK.find("claude-3-opus")
    assert found == ("anthropic", BOOK.price("anthropic", "claude-3-opus"))
    assert BOOK.price("gemini", "claude-3-opus").status == "priced", "the order is not tested by this model any more"
    assert BOOK.find("gemma-4-31b-it") == ("gemini", BOOK.price("gemini", "gemma-4-31b-it"))
    assert BOOK.find(UNKNOWN) is None
    assert BOOK.find("") is None


@pytest.mark.parametrize(("tokens", "cost"), [(200_000, "0.25"), (200_001, "0.5000025")])
def test_the_size_of_the_prompt_decides_the_tier(acme: Caller, tokens: int, cost: str) -> None:
    forecast = acme.forecast(model="gemini/gemini-2.5-pro", estimated_input_tokens=tokens, estimated_output_tokens=0)
    assert forecast["estimatedCost"] == forecast["inputCost"] == float(cost)


def test_nothing_is_rounded_away(acme: Caller) -> None:
    forecast = acme.forecast(model="gpt-4o-mini", estimated_input_tokens=1, estimated_output_tokens=1)
    assert (forecast["inputCost"], forecast["outputCost"]) == (0.00000015, 0.0000006)
    assert forecast["estimatedCost"] == 0.00000075


def test_the_largest_call_at_the_highest_price_can_be_checked(store: None, settings: Any, now: datetime) -> None:
    dearest = float(MAX_USD_PER_MTOK)
    settings.CLASPER_PRICE_OVERRIDES = {"openai/dear": {"input": dearest, "output": dearest}}
    price_book.cache_clear()
    try:
        forecast = forecast_cost(
            tenant_id="acme", model="openai/dear", input_tokens=MAX_TOKENS, output_tokens=MAX_TOKENS, now=now
        )
    finally:
        price_book.cache_clear()
    assert check_budget(tenant_id="acme", amount=forecast.estimated_cost, now=now).allowed


# --- What the budget says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["openai", "offline", "anthropic"])
def test_the_sample_comes_out_exactly(platform: Caller, settings: Any, provider: str) -> None:
    settings.LLM_PROVIDER = provider
    request, response = (row["example"] for row in json.loads(SAMPLES.read_text()))
    give(request["tenant_id"], spent="42.50", soft_limit="75", hard_limit="100")
    answer = platform.post("/cost/forecast", request)
    assert answer.status_code == 200
    shown = answer.json()["forecast"]
    assert answer.json()["status"] == response["status"]
    assert {name: shown[name] for name in response["forecast"]} == response["forecast"]
    assert shown.keys() - response["forecast"].keys() == {
        "inputCost",
        "outputCost",
        "model",
        "priceVersion",
        "estimated",
    }
    assert (shown["inputCost"], shown["outputCost"], shown["model"]) == (0.15, 0.06, "openai/gpt-4")
    assert shown["priceVersion"].startswith("genai-prices ")
    assert shown["estimated"] is False


VERDICTS = [
    pytest.param({"spent": "0"}, "ok", 100.0, id="far below"),
    pytest.param({"spent": "79.789999999"}, "ok", 20.210000001, id="a nano below the soft limit"),
    pytest.param({"spent": "79.79"}, "warn", 20.21, id="reaches the soft limit"),
    pytest.param({"spent": "99.79"}, "warn", 0.21, id="reaches the hard limit"),
    pytest.param({"spent": "99.790000001"}, "block", 0.209999999, id="a nano over the hard limit"),
    pytest.param({"spent": "99", "reserved": "0.9"}, "block", 1.0, id="runs under way hold the rest"),
    pytest.param({"spent": "60", "reserved": "20"}, "warn", 40.0, id="runs under way reach the soft limit"),
    pytest.param({"spent": "100.5"}, "block", -0.5, id="overrun"),
    pytest.param({"spent": "500", "hard_limit": None}, "warn", -400.0, id="only watched"),
    pytest.param({"spent": "119", "hard_limit": "120"}, "warn", -19.0, id="the hard limit above the limit decides"),
    pytest.param({"spent": "49.9", "hard_limit": "50"}, "block", 50.1, id="the hard limit below the limit decides"),
]


@pytest.mark.parametrize(("budget", "recommendation", "remaining"), VERDICTS)
def test_the_advice_agrees_with_the_check(
    acme: Caller, budget: dict[str, Any], recommendation: str, remaining: float
) -> None:
    give(**budget)
    forecast = acme.forecast()
    assert (forecast["estimatedCost"], forecast["recommendation"]) == (0.21, recommendation)
    assert forecast["budgetRemaining"] == remaining == acme.get("/budget").json()["budget"]["remaining"]
    verdict = acme.post("/budget/check", {"amount": 0.21}).json()
    assert forecast["wouldExceedBudget"] is not verdict["allowed"]
    if recommendation == "warn":
        assert [forecast["reason"]] == verdict["warnings"]
    assert ("reason" in forecast) is (recommendation != "ok")


@pytest.mark.parametrize(
    ("spent", "reason"),
    [
        ("99.999999999", "Costs 0.21 USD where the hard limit leaves only 0.000000001 USD."),
        ("90", None),
        ("100", "Costs 0.21 USD where the hard limit leaves nothing."),
        ("101", "Costs 0.21 USD where the hard limit leaves nothing."),
    ],
)
def test_a_refusal_says_what_is_left(acme: Caller, spent: str, reason: str | None) -> None:
    give(spent=spent, soft_limit="95")
    assert acme.forecast().get("reason") == reason


@pytest.mark.parametrize("model", ["gpt-4", UNKNOWN])
def test_without_a_budget_everything_is_well(acme: Caller, model: str) -> None:
    forecast = acme.forecast(model=model)
    assert forecast["budgetRemaining"] is None
    assert (forecast["wouldExceedBudget"], forecast["recommendation"]) == (False, "ok")
    assert forecast["estimated"] is (model == UNKNOWN)
    assert "reason" not in forecast


UNPRICED = [
    pytest.param({"allow_unpriced": False}, "block", id="refused"),
    pytest.param({"allow_unpriced": False, "hard_limit": None}, "block", id="refused although only watched"),
    pytest.param({"allow_unpriced": True}, "ok", id="let in"),
    pytest.param({"allow_unpriced": True, "spent": "80"}, "warn", id="let in with a warning"),
    pytest.param({"allow_unpriced": True, "spent": "99.9"}, "block", id="let in but too dear"),
    pytest.param({"allow_unpriced": False, "spent": "99.9"}, "block", id="refused and too dear"),
]


@pytest.mark.parametrize(("budget", "recommendation"), UNPRICED)
def test_an_unknown_price_under_a_budget(acme: Caller, budget: dict[str, Any], recommendation: str) -> None:
    give(**budget)
    forecast = acme.forecast(model=UNKNOWN)
    assert (forecast["model"], forecast["estimated"]) == (f"openai/{UNKNOWN}", True)
    assert (forecast["priceVersion"], forecast["estimatedCost"]) == ("ceiling", 1.35)
    assert forecast["recommendation"] == recommendation
    assert forecast["wouldExceedBudget"] is (budget.get("spent") == "99.9")
    if recommendation == "block":
        assert ("no known price" in forecast["reason"]) is not budget["allow_unpriced"]


def test_a_budget_of_a_past_period_is_full_again(acme: Caller) -> None:
    give(spent="100")
    assert acme.forecast()["recommendation"] == "block"
    Budget.objects.update(period_end=utc_now() - timedelta(days=1))
    forecast = acme.forecast()
    assert (forecast["recommendation"], forecast["budgetRemaining"]) == ("ok", 100.0)


@pytest.fixture
def metered(store: None, settings: Any) -> Iterator[str]:
    """A model whose every token costs a nano-dollar, so that any small amount can be forecast."""
    settings.CLASPER_PRICE_OVERRIDES = {"openai/metered": {"input": 0.001, "output": 0.001}}
    price_book.cache_clear()
    yield "openai/metered"
    price_book.cache_clear()


nanos = st.integers(0, 60)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(1, 100),
    hard_limit=st.none() | st.integers(1, 100),
    soft_share=st.integers(1, 100),
    spent=nanos,
    reserved=nanos,
    tokens=st.tuples(nanos, nanos),
    allow_unpriced=st.booleans(),
)
@example(limit=50, hard_limit=50, soft_share=80, spent=30, reserved=10, tokens=(5, 5), allow_unpriced=False)
@example(limit=50, hard_limit=50, soft_share=80, spent=30, reserved=10, tokens=(5, 6), allow_unpriced=False)
@example(limit=50, hard_limit=50, soft_share=80, spent=60, reserved=0, tokens=(0, 0), allow_unpriced=True)
def test_forecast_and_check_never_disagree(
    metered: str,
    now: datetime,
    limit: int,
    hard_limit: int | None,
    soft_share: int,
    spent: int,
    reserved: int,
    tokens: tuple[int, int],
    allow_unpriced: bool,
) -> None:
    bound = limit if hard_limit is None else hard_limit
    set_budget(
        tenant_id="acme",
        actor="test:setup",
        now=now,
        limit=NanoUSD(limit),
        soft_limit=NanoUSD(max(1, bound * soft_share // 100)),
        hard_limit=None if hard_limit is None else NanoUSD(hard_limit),
        allow_unpriced=allow_unpriced,
    )
    Budget.objects.filter(tenant_id="acme").update(spent=spent, reserved=reserved)
    for model in (metered, f"openai/{UNKNOWN}"):
        forecast = forecast_cost(
            tenant_id="acme", model=model, input_tokens=tokens[0], output_tokens=tokens[1], now=now
        )
        amount = forecast.estimated_cost
        check = check_budget(tenant_id="acme", amount=amount, now=now)
        assert forecast.would_exceed_budget is not check.allowed
        assert forecast.budget_remaining == get_budget(tenant_id="acme", now=now).budget.remaining
        assert bool(forecast.reason) is (forecast.recommendation != "ok")
        if model == metered:
            assert amount == sum(tokens)
        if forecast.estimated and not allow_unpriced:
            assert forecast.recommendation == "block"
        else:
            expected = "block" if not check.allowed else "warn" if check.warnings else "ok"
            assert forecast.recommendation == expected
            if expected == "warn":
                assert check.warnings == (forecast.reason,)


# --- What is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        ({"model": "gpt-4", "estimated_input_tokens": 0}, 0.06),
        ({"model": "gpt-4", "estimated_input_tokens": 5000, "estimated_output_tokens": 0}, 0.15),
        ({"model": "gpt-4", "prompt_size": 5000}, 0.21),
        ({"model": "gpt-4", "prompt_size": 5000, "max_output_tokens": 500}, 0.18),
        ({"model": "gpt-4", "prompt_size": 9, "estimated_input_tokens": 5000, "max_output_tokens": 1000}, 0.21),
        ({"model": "gpt-4", "estimated_input_tokens": 5000, "provider": None}, 0.21),
        ({"model": "gpt-4", "provider": "OpenAI", "estimated_input_tokens": 5000}, 0.21),
        ({"model": "gpt-4", "provider": "anthropic", "estimated_input_tokens": 5000}, 0.21),
    ],
)
def test_defaults_and_older_spellings(acme: Caller, body: dict[str, Any], cost: float) -> None:
    answer = acme.post("/cost/forecast", body)
    assert answer.status_code == 200
    assert answer.json()["forecast"]["estimatedCost"] == cost


def test_the_provider_is_that_of_a_bare_model_only(acme: Caller) -> None:
    assert acme.forecast(model="claude-3-opus", provider="google")["model"] == "gemini/claude-3-opus"
    assert acme.forecast(model="claude-3-opus")["model"] == "anthropic/claude-3-opus"
    assert acme.forecast(model="openai/gpt-4", provider="anthropic")["model"] == "openai/gpt-4"


TOKENS = "estimated_input_tokens"
OUTPUT = "estimated_output_tokens"
BAD = [
    pytest.param({}, {"tenant_id", "model", TOKENS}, id="nothing"),
    pytest.param(
        {"tenant_id": "x" * 129, "model": "m\x07m", TOKENS: -1, OUTPUT: 1.5, "provider": "nobody"},
        {"tenant_id", "model", TOKENS, OUTPUT, "provider"},
        id="everything",
    ),
    pytest.param({"tenant_id": "acme", "model": "", TOKENS: MAX_TOKENS + 1}, {"model", TOKENS}, id="over the most"),
    pytest.param({"tenant_id": "acme", "model": "openai/", TOKENS: True, OUTPUT: "x"}, {"model", TOKENS, OUTPUT}),
    pytest.param({"tenant_id": "acme", "model": "x" * 161, "prompt_size": None}, {"model", TOKENS}, id="long model"),
    pytest.param({"tenant_id": "acme", "model": ["gpt-4"], TOKENS: [1], OUTPUT: {}}, {"model", TOKENS, OUTPUT}),
    pytest.param({"tenant_id": "acme", "model": None, TOKENS: "1e3", OUTPUT: None}, {"model", TOKENS, OUTPUT}),
    pytest.param({"tenant_id": "acme", "model": "m", TOKENS: 1e300, OUTPUT: 10**30}, {TOKENS, OUTPUT}, id="huge"),
    pytest.param({"tenant_id": "acme", "model": "m", TOKENS: 1, "provider": ""}, {"provider"}, id="no provider"),
    pytest.param({"tenant_id": "acme", "model": "m", TOKENS: 1, "provider": 5}, {"provider"}, id="odd provider"),
    pytest.param({"tenant_id": "acme", "model": "m", TOKENS: "5000"}, {TOKENS}, id="a number as text"),
    pytest.param({"tenant_id": "acme", "model": "m", TOKENS: 1, "tokens": 2}, {"tokens"}, id="an unknown field"),
]


@pytest.mark.parametrize(("body", "fields"), BAD)
def test_every_error_at_once(platform: Caller, body: dict[str, Any], fields: set[str]) -> None:
    assert faults(platform.post("/cost/forecast", body)) == fields


def test_a_bad_name_is_never_priced(store: None, now: datetime) -> None:
    with pytest.raises(InvalidRequest):
        forecast_cost(tenant_id="acme", model="openai/", input_tokens=1, output_tokens=1, now=now)


def test_tenants_are_kept_apart(platform: Caller, acme: Caller) -> None:
    give("globex", spent="99.9")
    answer = acme.post("/cost/forecast", {"tenant_id": "globex", "model": ""})
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert AuditEntry.objects.filter(event_type="permission.denied").count() == 1
    assert acme.forecast(tenant_id="acme")["budgetRemaining"] is None
    assert platform.forecast(tenant_id="globex")["recommendation"] == "block"


def test_reading_is_enough_and_needed(platform: Caller) -> None:
    assert key_of("acme", "governance:read").forecast()["recommendation"] == "ok"
    body = {"model": "gpt-4", TOKENS: 1}
    for scope in ("governance:write", "agents:run"):
        assert key_of("acme", scope).post("/cost/forecast", body).status_code == 403


def test_a_forecast_changes_nothing(acme: Caller) -> None:
    give(spent="42.5")
    before = Budget.objects.values().get()
    entries = AuditEntry.objects.count()
    acme.forecast()
    assert Budget.objects.values().get() == before
    assert AuditEntry.objects.count() == entries
    assert usd(before["reserved"]) == 0
