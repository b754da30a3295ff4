"""The cases: what is measured for each claim of docs/performance.md, and whether the goal was met."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from benchmarks.capacity import FACTOR, capacity
from benchmarks.compare import M, Rounds, interleave
from benchmarks.runner import Bench, Load, Measured
from benchmarks.servers import Variant


class Named(Protocol):
    """What takes part in the rounds of a case."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...


N = TypeVar("N", bound=Named)

CLASPER = Variant("clasper")
TWO_WORKERS = Variant("clasper, 2 workers", workers=2)
UNGOVERNED = Variant("clasper, ungoverned", kind="ungoverned")
FLOOR = Variant("floor", kind="floor")
LEAN_FLOOR = Variant("floor, tokens reused", kind="floor", reuse_tokens=True)

PROVIDERS = tuple(Variant(provider, provider=provider) for provider in ("openai", "anthropic", "gemini", "groq"))
"""The chat completions of OpenAI, the two other wire formats, and a host that imitates chat completions."""

P3_LATENCY = ("--latency-ms", "200")
P3_CLIENTS = 128
OPEN_LOOP = "clasper, open loop"
OPEN_LOOP_CLIENTS = 512
"""Connections an open loop may use; far more than its rate needs, so that no request waits for one."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much time the measurements may take: rounds, seconds of each load, and when no new round begins."""

    rounds: int
    seconds: float
    warmup: float
    deadline: float
    seed: int

    def spent(self) -> bool:
        return time.monotonic() > self.deadline

    def load(self, **fields: Any) -> Load:
        return Load(**{"seconds": self.seconds, "warmup": self.warmup, **fields})


@dataclass(frozen=True, slots=True)
class Goal:
    """A claim and what was found."""

    case: str
    claim: str
    found: str
    met: bool


@dataclass(slots=True)
class Report:
    """One case's outcome. With `faults` it is invalid: nothing may be concluded from it."""

    case: str
    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    ratios: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    orders: list[list[str]] = field(default_factory=list)


_SEND_COLUMNS = ["variant", "CPU ms/request", "requests/s", "p50 ms", "p95 ms", "p99 ms", "runs"]


def cpu_ms(run: Measured) -> float:
    return run.cpu_ms


def rps(run: Measured) -> float:
    return run.rps


def latency(quantile: str) -> Callable[[Measured], float]:
    return lambda run: run.latency_ms[quantile]


def overhead(bench: Bench, effort: Effort, *, governance: bool = True, floor: bool = True) -> Report:
    """P1 (against the floor) and P2 (against Clasper without its governance), in the same rounds."""
    variants = [CLASPER, *((FLOOR, LEAN_FLOOR) if floor else ()), *((UNGOVERNED,) if governance else ())]
    load = effort.load(clients=32)
    rounds = in_rounds(variants, lambda variant: bench.measure(variant, load), effort)
    case = " and ".join(name for name, wanted in (("P1", floor), ("P2", governance)) if wanted)
    report = of_sends(case, "Send, everything on, provider 0 ms, 32 clients, 1 worker, closed loop", rounds)
    if floor:
        ratio = rounds.ratio(CLASPER.name, FLOOR.name, cpu_ms)
        lean = rounds.ratio(CLASPER.name, LEAN_FLOOR.name, cpu_ms)
        report.ratios += [
            f"CPU, clasper / floor: {ratio.verdict}",
            f"CPU, clasper / floor, tokens reused: {lean.verdict}",
        ]
        report.goals.append(Goal("P1", "CPU a request ≤ 3 × the floor's", f"{ratio}×", ratio.median <= 3))
        sizes = {name: runs[0].prompt_bytes for name, runs in rounds.measured.items()}
        report.notes.append("Sent to the provider: " + ", ".join(f"{n} {size:,.0f} bytes" for n, size in sizes.items()))
    if governance:
        ratio = rounds.ratio(CLASPER.name, UNGOVERNED.name, cpu_ms)
        report.ratios.append(f"CPU, governed / ungoverned: {ratio.verdict}")
        report.goals.append(Goal("P2", "CPU with governance ≤ 2 × without", f"{ratio}×", ratio.median <= 2))
    _add_capacity(report, rounds)
    return report


def providers(bench: Bench, effort: Effort) -> Report:
    """P1 with each provider: whether the provider that is asked changes what a send costs."""
    load = effort.load(clients=32)
    rounds = in_rounds(PROVIDERS, lambda variant: bench.measure(variant, load), effort)
    report = of_sends("P1wires", "P1's send with each provider", rounds)
    for variant in PROVIDERS[1:]:
        ratio = rounds.ratio(variant.name, PROVIDERS[0].name, cpu_ms)
        report.ratios.append(f"CPU, {variant.name} / {PROVIDERS[0].name}: {ratio.verdict}")
        claim = f"CPU a request with {variant.name} ≤ 1.1 × with {PROVIDERS[0].name}"
        report.goals.append(Goal("P1wires", claim, f"{ratio}×", ratio.median <= 1.1))
    _add_capacity(report, rounds)
    return report


def provider_latency(bench: Bench, effort: Effort) -> Report:
    """P3: what a slow provider leaves of the latency, and whether a second worker costs anything."""
    closed = effort.load(clients=P3_CLIENTS)
    calibration = bench.measure(CLASPER, closed, upstream=P3_LATENCY)
    rate = round(500 / calibration.cpu_ms)
    variants = [CLASPER, TWO_WORKERS, Variant(OPEN_LOOP)]

    def measure(variant: Variant) -> Measured:
        load = effort.load(clients=OPEN_LOOP_CLIENTS, rate=rate) if variant.name == OPEN_LOOP else closed
        return bench.measure(variant, load, upstream=P3_LATENCY)

    rounds = in_rounds(variants, measure, effort)
    report = of_sends("P3", f"Send, everything on, provider 200 ms, closed loop of {P3_CLIENTS} clients", rounds)
    report.notes.append(
        f"Open loop: {rate} requests/s, half of what one core can do at {calibration.cpu_ms:.2f} ms each."
    )
    for quantile, limit in (("p95", 250), ("p99", 320)):
        for name in (OPEN_LOOP, CLASPER.name):
            found = rounds.spread(name, latency(quantile))
            claim = f"{quantile} ≤ {limit} ms ({'open' if name == OPEN_LOOP else 'closed'} loop)"
            report.goals.append(Goal("P3", claim, f"{found} ms", found.median <= limit))
    ratio = rounds.ratio(TWO_WORKERS.name, CLASPER.name, cpu_ms)
    report.ratios.append(f"CPU a request, 2 workers / 1 worker: {ratio.verdict}")
    claim = "CPU a request with 2 workers within 10 % of 1"
    report.goals.append(Goal("P3", claim, f"{ratio}×", abs(ratio.median - 1) <= 0.1))
    report.faults += calibration.faults
    return report


def footprint(bench: Bench, effort: Effort) -> Report:
    """P9: time to the first served request, and memory of the worker."""
    rounds = in_rounds([CLASPER], bench.footprint, effort)
    start, idle, used = (
        rounds.spread(CLASPER.name, figure)
        for figure in (lambda run: run.started_in, lambda run: run.idle_mib, lambda run: run.used_mib)
    )
    columns = ["variant", "start to first request s", "RSS idle MiB", "RSS after 1000 sends MiB", "runs"]
    report = Report("P9", "Start and memory of one worker", columns)
    report.rows.append([CLASPER.name, str(start), str(idle), str(used), str(start.count)])
    report.goals += [
        Goal("P9", "start to first served request ≤ 2 s", f"{start} s", start.median <= 2),
        Goal("P9", "RSS idle ≤ 150 MiB a worker", f"{idle} MiB", idle.median <= 150),
        Goal("P9", "RSS after 1000 sends ≤ 150 MiB a worker", f"{used} MiB", used.median <= 150),
    ]
    keep(report, rounds)
    return report


def of_sends(case: str, title: str, rounds: Rounds[Measured]) -> Report:
    """A report with a row for each variant's sends."""
    report = Report(case, title, _SEND_COLUMNS)
    for name in rounds.measured:
        figures = (cpu_ms, rps, latency("p50"), latency("p95"), latency("p99"))
        spreads = [rounds.spread(name, figure) for figure in figures]
        report.rows.append([name, *map(str, spreads), str(spreads[0].count)])
    keep(report, rounds)
    for name in rounds.measured:
        shares = rounds.spread(name, lambda run: 1000 * run.database_cpu / max(1, run.requests))
        if shares.high:
            report.notes.append(f"Of {name}'s CPU a request the PostgreSQL server used {shares} ms.")
    return report


def keep(report: Report, rounds: Rounds[Any]) -> None:
    """Every run goes into the report, and with it what was wrong with it."""
    report.orders = rounds.orders
    for name, runs in rounds.measured.items():
        for number, run in enumerate(runs, 1):
            report.runs.append(asdict(run))
            report.faults += [f"{name}, round {number}: {fault}" for fault in run.faults]


def _add_capacity(report: Report, rounds: Rounds[Measured]) -> None:
    """Says whether the fake upstream was far from its limit."""
    sends = capacity()["sends_per_second"]
    for name in rounds.measured:
        fastest = max(rounds.values(name, rps))
        if name not in (LEAN_FLOOR.name, UNGOVERNED.name):
            verdict = "" if sends >= FACTOR * fastest else f" (below the {FACTOR} × that are wanted)"
            report.notes.append(f"The upstream can serve {sends / fastest:.0f} × what {name} asked of it{verdict}.")


def in_rounds(variants: Sequence[N], measure: Callable[[N], M], effort: Effort) -> Rounds[M]:
    """Every variant once a round, as long as the effort allows."""
    rounds, seed = effort.rounds, effort.seed
    return interleave(variants, measure, name=lambda each: each.name, rounds=rounds, seed=seed, until=effort.spent)
