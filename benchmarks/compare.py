"""Comparing variants fairly on a noisy machine: interleaved rounds, shuffled order, ratios of the same round."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

V = TypeVar("V")
M = TypeVar("M")

ROUNDS = 5
"""The fewest rounds from which a claim is made."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of what was measured."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{readable(self.median)} ({readable(self.low)}–{readable(self.high)})"


@dataclass(frozen=True, slots=True)
class Ratio(Spread):
    """One variant's figure over another's, round by round."""

    @property
    def differs(self) -> bool:
        """Whether every round points the same way."""
        return not self.low <= 1 <= self.high

    @property
    def verdict(self) -> str:
        """The ratio in words; a range that includes 1 shows nothing."""
        return f"{self}×" if self.differs else f"{self}×: no difference seen"


def readable(number: float) -> str:
    """Three significant digits, and no exponent for large numbers."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("nothing was measured")
    return Spread(median(values), min(values), max(values), len(values))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of two variants that took part in the same rounds. Raises ValueError for unequal or no rounds."""
    each = spread([above / below for above, below in zip(numerators, denominators, strict=True)])
    return Ratio(each.median, each.low, each.high, each.count)


@dataclass(frozen=True, slots=True)
class Rounds(Generic[M]):
    """What was measured, by variant, in the order of the rounds; `orders` is the order of variants in each."""

    measured: dict[str, list[M]]
    orders: list[list[str]]

    def values(self, variant: str, figure: Callable[[M], float]) -> list[float]:
        return [figure(each) for each in self.measured[variant]]

    def spread(self, variant: str, figure: Callable[[M], float]) -> Spread:
        return spread(self.values(variant, figure))

    def ratio(self, variant: str, other: str, figure: Callable[[M], float]) -> Ratio:
        return paired_ratio(self.values(variant, figure), self.values(other, figure))


def interleave(
    variants: Sequence[V],
    measure: Callable[[V], M],
    *,
    name: Callable[[V], str],
    rounds: int = ROUNDS,
    seed: int | None = None,
    until: Callable[[], bool] = lambda: False,
) -> Rounds[M]:
    """Measures every variant once a round, in an order that is random in every round; `until` ends it early, but not
    before the first round is whole."""
    chance = random.Random(seed)
    measured: dict[str, list[M]] = {name(variant): [] for variant in variants}
    orders: list[list[str]] = []
    for done in range(rounds):
        if done and until():
            break
        order = list(variants)
        chance.shuffle(order)
        orders.append([name(variant) for variant in order])
        for variant in order:
            measured[name(variant)].append(measure(variant))
    return Rounds(measured, orders)
