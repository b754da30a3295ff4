"""The comparer's arithmetic, and the order in which it measures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compare import Ratio, interleave, paired_ratio, readable, spread

VARIANTS = ("a", "b", "c")


def test_ratios_are_taken_within_rounds_not_of_medians() -> None:
    ratio = paired_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 8.0])
    assert (ratio.median, ratio.low, ratio.high, ratio.count) == (2.0, 0.5, 3.0, 3)


@pytest.mark.parametrize(
    ("low", "high", "differs"),
    [(0.8, 0.9, True), (1.1, 1.2, True), (0.9, 1.1, False), (1.0, 1.3, False), (0.7, 1.0, False)],
)
def test_a_range_that_includes_one_shows_nothing(low: float, high: float, differs: bool) -> None:
    ratio = Ratio((low + high) / 2, low, high, 5)
    assert ratio.differs is differs
    assert ratio.verdict.endswith("no difference seen") is not differs


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=9))
def test_a_spread_holds_its_median_and_its_reciprocal_ratio_is_the_other_way_round(values: list[float]) -> None:
    found = spread(values)
    assert found.low <= found.median <= found.high
    there, back = paired_ratio(values, [2.0] * len(values)), paired_ratio([2.0] * len(values), values)
    assert there.low == pytest.approx(1 / back.high)
    assert there.differs is back.differs


@pytest.mark.parametrize(("above", "below"), [([], []), ([1.0], [1.0, 2.0])])
def test_unequal_or_no_rounds_are_refused(above: list[float], below: list[float]) -> None:
    with pytest.raises(ValueError, match=r"measured|shorter|longer"):
        paired_ratio(above, below)


@pytest.mark.parametrize(
    ("number", "text"), [(0.12345, "0.123"), (12.34, "12.3"), (1234.5, "1,234"), (56789.0, "56,789")]
)
def test_numbers_are_readable(number: float, text: str) -> None:
    assert readable(number) == text


def test_every_round_measures_every_variant_in_an_order_of_its_own() -> None:
    seen: list[str] = []

    def measure(variant: str) -> int:
        seen.append(variant)
        return len(seen)

    rounds = interleave(VARIANTS, measure, name=str, rounds=20, seed=1)
    assert [seen[at : at + 3] for at in range(0, 60, 3)] == rounds.orders
    assert all(sorted(order) == list(VARIANTS) for order in rounds.orders)
    assert len({tuple(order) for order in rounds.orders}) > 1
    for number, order in enumerate(rounds.orders):
        for place, variant in enumerate(order):
            assert rounds.measured[variant][number] == 3 * number + place + 1
    again = interleave(VARIANTS, lambda _: 0, name=str, rounds=20, seed=1)
    assert again.orders == rounds.orders


def test_it_ends_early_but_never_within_a_round() -> None:
    rounds = interleave(VARIANTS, lambda _: 1.0, name=str, rounds=9, until=lambda: True)
    assert {name: len(values) for name, values in rounds.measured.items()} == {"a": 1, "b": 1, "c": 1}
    assert rounds.ratio("a", "b", float).count == 1
