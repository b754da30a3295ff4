"""The control plane's rules on any input: bodies, claims and refunds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from apps.control_plane.domain.contract import NewDocument, NewMessage, NewTask, ToolCall, Write
from apps.control_plane.domain.scope import scope_of
from apps.control_plane.domain.shop import REFUNDABLE, RefundRefused, decide_refund, euros
from clasper.core.errors import InvalidRequest
from clasper.core.validation import read

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
FIELDS = st.sampled_from(["title", "description", "status", "metadata", "idempotency_key", "task_id", "content"])
CLAIMS = st.sampled_from(["type", "user_id", "agent_role", "tenant_id", "aud"])


@pytest.mark.parametrize("kind", [NewTask, NewMessage, NewDocument, ToolCall])
@given(st.dictionaries(FIELDS, ANYTHING))
def test_a_body_is_read_or_refused_with_reasons(kind: type[Write], body: dict[str, Any]) -> None:
    errors: dict[str, list[str]] = {}
    try:
        found = read(kind, body)
    except InvalidRequest as error:
        found, errors = None, error.details["fieldErrors"]
    assert all(errors.values())
    assert bool(found) is not bool(errors)


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
        amount=UNSET if amount is None else float(amount),
    )
    if not isinstance(decision, RefundRefused):
        assert 0 < decision <= total - min(refunded, total)
        assert amount is None or euros(decision) == float(amount)
