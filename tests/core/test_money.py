from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.money import NANO_PER_USD, NanoUSD, from_usd, usd

EXACT = 2**23 * NANO_PER_USD
"""Up to here two JSON numbers are less than a nano-dollar apart."""

amounts = st.integers(min_value=0, max_value=EXACT)


@pytest.mark.parametrize(
    ("dollars", "nano"),
    [
        (0, 0),
        (1, 1_000_000_000),
        (0.1, 100_000_000),
        ("0.1", 100_000_000),
        (0.0002775, 277_500),
        (Decimal("0.00000015"), 150),
        ("0.0000000005", 0),
        ("0.0000000015", 2),
        ("0.0000000025", 2),
        (-1.5, -1_500_000_000),
        (1e15, 10**24),
    ],
)
def test_dollars_to_nano(dollars: Any, nano: int) -> None:
    assert from_usd(dollars) == nano


@pytest.mark.parametrize("amount", [float("nan"), float("inf"), "-Infinity", Decimal("sNaN")])
def test_what_is_no_amount(amount: Any) -> None:
    with pytest.raises(ValueError, match="finite"):
        from_usd(amount)


@given(amounts)
def test_there_and_back_over_json_is_exact(nano: int) -> None:
    text = msgspec.json.encode(usd(nano))
    assert from_usd(json.loads(text)) == nano
    assert from_usd(text.decode()) == nano


@given(st.lists(amounts, max_size=20))
def test_sums_are_exact(parts: list[int]) -> None:
    """Summed inside, then shown: what adding the shown amounts as decimals gives."""
    shown = sum((Decimal(repr(usd(part))) for part in parts), Decimal(0))
    assert shown * NANO_PER_USD == sum(parts)


@given(st.decimals(min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False, places=12))
def test_rounding_is_to_the_nearest(amount: Decimal) -> None:
    assert abs(from_usd(amount) - amount * NANO_PER_USD) <= Decimal("0.5")
    assert isinstance(NanoUSD(from_usd(amount)), int)
