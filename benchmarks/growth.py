"""The case `p10`: whether a send costs more with many tenants, or with many runs stored."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cases import Effort, Goal, Report, cpu_ms, in_rounds, of_sends
from benchmarks.databases import Template
from benchmarks.runner import Bench, Measured
from benchmarks.servers import Variant

LIMIT = 0.2
TENANTS = (1, 100, 10_000)


@dataclass(frozen=True, slots=True)
class Size:
    """What a measurement begins with: so many tenants that are asked for in turn, or so many stored runs."""

    name: str
    tenants: int = 0
    runs: int = 0


def growth(bench: Bench, effort: Effort, *, small: int, large: int) -> Report:
    """P10: P1's send with one and with many tenants, and with `small` and `large` numbers of stored runs."""
    crowds = [Size(f"{count:,} tenant{'s' if count > 1 else ''}", tenants=count) for count in TENANTS]
    stores = [Size(f"{count:,} runs stored", runs=count) for count in (small, large)]
    sizes = crowds + stores

    def measure(size: Size) -> Measured:
        load = effort.load(clients=32, tenants=size.tenants)
        return bench.measure(Variant(size.name), load, template=_template(bench, size))

    for size in sizes:
        _template(bench, size)
    rounds = in_rounds(sizes, measure, effort)
    report = of_sends("P10", "Send, everything on, provider 0 ms, 32 clients, 1 worker, closed loop", rounds)
    for size, base in [*((each, crowds[0]) for each in crowds[1:]), (stores[1], stores[0])]:
        ratio = rounds.ratio(size.name, base.name, cpu_ms)
        report.ratios.append(f"CPU, {size.name} / {base.name}: {ratio.verdict}")
        claim = f"CPU a request with {size.name} within {LIMIT:.0%} of {base.name}"
        report.goals.append(Goal("P10", claim, f"{ratio}×", ratio.median <= 1 + LIMIT))
    return report


def _template(bench: Bench, size: Size) -> Template:
    return bench.peopled(size.tenants) if size.tenants else bench.seeded(size.runs)
