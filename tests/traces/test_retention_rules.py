"""The rules of retention by themselves: what a policy may say, what is kept, what is left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.traces.domain.retention import (
    STORAGE_MODES,
    STRATEGIES,
    Policy,
    PolicyChange,
    cutoff,
    in_sample,
    keeps,
    mode_at_settle,
    retention_action,
)
from clasper.core.errors import InvalidRequest
from clasper.core.ids import new_id
from clasper.core.validation import read

NOW = datetime(2026, 2, 10, 12, 0, tzinfo=UTC)
ID = "0194c8f0-7e1a-7000-8000-000000000001"
"""Its SHA-256 begins with 4bc311fd63d946b5."""

shares = st.floats(0, 1)
policies = st.builds(
    Policy,
    retention_days=st.integers(1, 3650),
    sampling_strategy=st.sampled_from(STRATEGIES),
    sample_rate=shares,
    storage_mode=st.sampled_from(STORAGE_MODES),
)

FAULTY: dict[str, dict[str, Any]] = {
    "zero days": {"retention_days": 0},
    "too many days": {"retention_days": 3651},
    "half a day": {"retention_days": 0.5},
    "days as true": {"retention_days": True},
    "days as text": {"retention_days": "30"},
    "endless": {"retention_days": float("inf")},
    "no such strategy": {"sampling_strategy": "some"},
    "strategy as null": {"sampling_strategy": None},
    "negative rate": {"sample_rate": -0.1},
    "rate above one": {"sample_rate": 1.01},
    "rate that is no number": {"sample_rate": float("nan")},
    "rate as true": {"sample_rate": True},
    "no such mode": {"storage_mode": "none"},
}


@pytest.mark.parametrize("name", FAULTY)
def test_an_invalid_field_is_named(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(PolicyChange, FAULTY[name])
    assert list(caught.value.details["fieldErrors"]) == list(FAULTY[name])


def test_all_errors_are_named_at_once() -> None:
    values: dict[str, Any] = {
        "retention_days": 0, "sampling_strategy": "x", "sample_rate": 2, "storage_mode": "x"
    }  # fmt: skip
    with pytest.raises(InvalidRequest) as caught:
        read(PolicyChange, values)
    assert caught.value.details["fieldErrors"].keys() == values.keys()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"retention_days": 1, "sample_rate": 0},
        {"retention_days": 3650, "sample_rate": 1},
        {"sampling_strategy": "errors_only", "storage_mode": "minimal"},
    ],
    ids=["nothing", "least", "most", "words"],
)
def test_what_a_policy_may_say(values: dict[str, Any]) -> None:
    assert read(PolicyChange, values).values == values


def test_the_sample_is_chosen_by_the_ids_hash() -> None:
    share = int("4bc311fd63d946b5", 16) / 2**64
    assert not in_sample(ID, share - 1e-9)
    assert in_sample(ID, share + 1e-9)


@given(st.text(), shares, shares)
def test_a_larger_sample_includes_a_smaller_one(trace_id: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert in_sample(trace_id, large) or not in_sample(trace_id, small)


@given(st.text())
def test_a_sample_of_none_and_of_all(trace_id: str) -> None:
    assert not in_sample(trace_id, 0.0)
    assert in_sample(trace_id, 1.0)


def test_a_sample_has_about_its_share() -> None:
    assert 1_000 < sum(in_sample(new_id(), 0.3) for _ in range(4_000)) < 1_400


IN, OUT = (
    next(i for i in map(str, range(99)) if in_sample(i, 0.1)),
    next(i for i in map(str, range(99)) if not in_sample(i, 0.1)),
)

KEPT = {
    "full": ("full", OUT, "success", True),
    "errors only, success": ("errors_only", IN, "success", False),
    "errors only, error": ("errors_only", OUT, "error", True),
    "errors only, timeout": ("errors_only", OUT, "timeout", True),
    "errors only, cancelled": ("errors_only", OUT, "cancelled", True),
    "sampled, in": ("sampled", IN, "success", True),
    "sampled, out": ("sampled", OUT, "success", False),
    "sampled, out but an error": ("sampled", OUT, "error", True),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_a_strategy_keeps(name: str) -> None:
    strategy, trace_id, status, kept = KEPT[name]
    policy = Policy(sampling_strategy=strategy)  # type: ignore[arg-type]
    assert keeps(policy, trace_id=trace_id, status=status) is kept
    assert mode_at_settle(policy, trace_id=trace_id, status=status) == ("full" if kept else "minimal")


ACTIONS = {
    "young": (Policy(), "success", 89, "full", "keep"),
    "at the edge": (Policy(), "success", 90, "full", "keep"),
    "old": (Policy(), "success", 90.001, "full", "delete"),
    "old error": (Policy(sampling_strategy="errors_only"), "error", 91, "full", "delete"),
    "old and running": (Policy(), "running", 91, "full", "keep"),
    "young and not kept": (Policy(sampling_strategy="errors_only"), "success", 1, "minimal", "delete"),
    "too much text": (Policy(storage_mode="summary"), "success", 1, "full", "strip"),
    "just enough text": (Policy(storage_mode="summary"), "success", 1, "summary", "keep"),
    "less text than asked": (Policy(storage_mode="summary"), "success", 1, "minimal", "keep"),
    "any text": (Policy(storage_mode="minimal"), "success", 1, "summary", "strip"),
    "too old to strip": (Policy(storage_mode="minimal"), "success", 91, "full", "delete"),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_what_is_done_with_a_trace(name: str) -> None:
    policy, status, days, mode, wanted = ACTIONS[name]
    started_at = NOW - timedelta(days=days)
    assert (
        retention_action(policy, trace_id=OUT, status=status, started_at=started_at, storage_mode=mode, now=NOW)
        == wanted
    )


@given(policies, st.uuids().map(str), st.sampled_from(["success", "error", "timeout", "cancelled"]))
def test_what_settling_leaves_enforcement_does_not_strip_again(policy: Policy, trace_id: str, status: str) -> None:
    mode = mode_at_settle(policy, trace_id=trace_id, status=status)
    decided = retention_action(policy, trace_id=trace_id, status=status, started_at=NOW, storage_mode=mode, now=NOW)
    assert decided == ("keep" if keeps(policy, trace_id=trace_id, status=status) else "delete")


@given(policies)
def test_the_window_is_as_long_as_the_policy_says(policy: Policy) -> None:
    assert NOW - cutoff(policy, NOW) == timedelta(days=policy.retention_days)
