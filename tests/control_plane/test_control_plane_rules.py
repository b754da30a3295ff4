"""The control plane's rules on any input: bodies, schemas, claims and refunds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.control_plane.domain.requests import TASK, read_document, read_message, read_task
from apps.control_plane.domain.schema import faults_of
from apps.control_plane.domain.scope import scope_of
from apps.control_plane.domain.shop import REFUNDABLE, RefundRefused, decide_refund, euros

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
FIELDS = st.sampled_from([*TASK["properties"], "task_id", "content", "attachments"])
CLAIMS = st.sampled_from(["type", "user_id", "agent_role", "tenant_id", "aud"])


@given(st.dictionaries(FIELDS, ANYTHING))
def test_a_body_is_read_or_refused_with_reasons(body: dict[str, Any]) -> None:
    readers: list[Callable[[dict[str, Any]], Any]] = [
        read_task,
        read_document,
        lambda each: read_message(each, agent_role="r"),
    ]
    for read in readers:
        found = read(body)
        assert found
        if isinstance(found, dict):
            assert all(found.values())


@pytest.mark.parametrize(
    ("value", "schema", "faulty"),
    [
        (1, {"type": "integer"}, False),
        (True, {"type": "integer"}, True),
        (1.5, {"type": "integer"}, True),
        (1, {"type": "number"}, False),
        (float("nan"), {"type": "number"}, True),
        (0, {"type": "number", "minimum": 1}, True),
        (9, {"type": "number", "maximum": 8}, True),
        (True, {"type": "boolean"}, False),
        (None, {"type": ["string", "null"]}, False),
        ({}, {"type": ["string", "null"]}, True),
        ("anything", {}, False),
    ],
)
def test_the_schemas_rules(value: Any, schema: dict[str, Any], faulty: bool) -> None:
    assert bool(faults_of({"x": value}, {"properties": {"x": schema}})) is faulty


@given(st.dictionaries(CLAIMS, ANYTHING | st.just("agent") | st.just("control-plane")))
def test_claims_give_a_whole_scope_or_none(claims: dict[str, Any]) -> None:
    scope = scope_of(claims)
    assert scope is None or (scope.tenant_id and scope.user_id and scope.agent_role)


@given(
    st.sampled_from([*REFUNDABLE, "cancelled", "refunded"]),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.none() | st.decimals(min_value="0.01", max_value="99999999", places=2),
)
def test_a_refund_never_exceeds_what_is_left(status: str, total: int, refunded: int, amount: Any) -> None:
    decision = decide_refund(
        number="ORD-1",
        status=status,
        total_cents=total,
        refunded_cents=min(refunded, total),
        amount=None if amount is None else float(amount),
    )
    if not isinstance(decision, RefundRefused):
        assert 0 < decision <= total - min(refunded, total)
        assert amount is None or euros(decision) == float(amount)
