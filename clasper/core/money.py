"""Money is an integer of nano-USD (10⁻⁹ dollar) inside, a JSON number of dollars outside.

Integers make sums exact: response, trace, usage and budget agree to the last digit. Nano-USD is fine enough for every
published price per token (the smallest are about one nano-dollar).
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import NewType

NanoUSD = NewType("NanoUSD", int)

NANO_PER_USD = 1_000_000_000

MAX_NANO = 2**63 - 1
"""Largest amount a database column holds: about 9.2 billion dollars."""

MAX_AMOUNT = NanoUSD(9_000_000_000 * NANO_PER_USD)
"""Nine billion dollars, the largest amount a caller may name: sums with what runs hold still fit the column."""


def usd(amount: NanoUSD | int) -> float:
    """Dollars as a JSON number. Exact to the nano-dollar up to 2²³, about eight million dollars."""
    return amount / NANO_PER_USD


def from_usd(amount: Decimal | float | int | str) -> NanoUSD:
    """Nano-USD of a dollar amount, rounded half to even; `0.1` means exactly ten cents, not its binary neighbour.

    Raises ValueError when the amount is not a finite number.
    """
    value = Decimal(str(amount))
    if not value.is_finite():
        raise ValueError("an amount of money must be a finite number")
    return NanoUSD(int((value * NANO_PER_USD).to_integral_value(ROUND_HALF_EVEN)))
