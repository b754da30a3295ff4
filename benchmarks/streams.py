"""The case `stream`: what one chunk costs the server on its way from the provider's bytes to the client's event.

Streams of many and of few chunks are measured on the same server; the difference of their CPU a stream, over the
difference in chunks, is a chunk's share, free of what a run costs anyway.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.cases import Effort, Goal, Report, in_rounds, keep
from benchmarks.checks import answers_in, refused_in, served_faults
from benchmarks.compare import Rounds
from benchmarks.runner import Bench, Load, World, chain_faults
from benchmarks.servers import Running, Variant
from benchmarks.watch import Meter, cpu_seconds, reads, tree

VARIANTS = tuple(Variant(provider, provider=provider) for provider in ("openai", "anthropic", "gemini"))
CLIENTS = 32
FEW, MANY = 20, 220
CHUNK_CHARS = 4
GAPS = {"spaced": 0.01, "at once": 0.0}
"""Seconds between chunks: each of them a network read of its own, or as many in a read as fit."""
GOAL_US = 40
EVENTS_BESIDE_CHUNKS = 2
"""`start` and `done`."""
PROCESSES = ("server", "load generator", "upstream")
LIMIT = 0.9
"""Share of a CPU from which a process counts as being at its limit."""
LATE = 1.25
"""A stream that takes so many times the provider's own time was held up."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One load of streams that all have so many chunks.

    `cpu` (of server and database), `load_cpu` and `upstream_cpu` are seconds; `reads` are the server's.
    """

    gap: float
    chunks: int
    streams: int
    seconds: float
    cpu: float
    reads: int
    load_cpu: float
    upstream_cpu: float
    latency_ms: dict[str, float]

    @property
    def took_ms(self) -> float:
        """A stream's time from request to end, p50; all of the leg's when no client came to a second stream."""
        return self.latency_ms.get("p50", 1000 * self.seconds)

    def busy(self, process: str) -> float:
        """The share of a CPU that one of PROCESSES used."""
        used = dict(zip(PROCESSES, (self.cpu, self.load_cpu, self.upstream_cpu), strict=True))
        return used[process] / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class Streamed:
    """One run: a leg for each pace and length. `faults` is empty for a valid run."""

    variant: str
    answered: int
    legs: list[Leg]
    rows: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def chunk_us(self, gap: float) -> float:
        """CPU of the server a chunk."""
        return 1e6 * self._slope(gap, lambda leg: leg.cpu)

    def chunk_reads(self, gap: float) -> float:
        """Network reads of the server a chunk."""
        return self._slope(gap, lambda leg: leg.reads)

    def stream_ms(self, gap: float) -> float:
        """CPU of the server for everything in a stream that is not its chunks."""
        few = self.leg(gap, FEW)
        return 1000 * few.cpu / max(1, few.streams) - FEW * self.chunk_us(gap) / 1000

    def leg(self, gap: float, chunks: int) -> Leg:
        return next(leg for leg in self.legs if (leg.gap, leg.chunks) == (gap, chunks))

    def _slope(self, gap: float, figure: Callable[[Leg], float]) -> float:
        few, many = self.leg(gap, FEW), self.leg(gap, MANY)
        return (figure(many) / max(1, many.streams) - figure(few) / max(1, few.streams)) / (MANY - FEW)


def streams(bench: Bench, effort: Effort) -> Report:
    """CPU a chunk in each wire format, with chunks that come one by one and with chunks that come at once."""
    chance = random.Random(effort.seed)
    rounds = in_rounds(VARIANTS, lambda variant: measure(bench, variant, effort, chance), effort)
    columns = ["provider", "chunks", "CPU µs/chunk", "reads/chunk", "other CPU ms/stream"]
    columns += ["server busy", "load busy", "upstream busy", "runs"]
    title = f"{CLIENTS} streams at a time, {FEW} against {MANY} chunks of {CHUNK_CHARS} characters, everything on"
    report = Report("stream", title, columns)
    for pace, gap in GAPS.items():
        for variant in VARIANTS:
            _add_row(report, rounds, variant.name, pace, gap)
    keep(report, rounds)
    return report


def measure(bench: Bench, variant: Variant, effort: Effort, chance: random.Random) -> Streamed:
    """One run: all legs on one server, in a random order. Raises BenchmarkFailed when it cannot be made at all."""
    with bench.fresh(variant) as database:
        with bench.serving(variant, database) as (server, world):
            world.behave(chunk_chars=CHUNK_CHARS, chunks=FEW, chunk_gap=GAPS["spaced"])
            warm = bench.load(server, Load(CLIENTS, effort.warmup, streams=True))
            legs: list[Leg] = []
            findings = [warm]
            faults = refused_in(warm)
            order = [(gap, chunks) for gap in GAPS.values() for chunks in (FEW, MANY)]
            chance.shuffle(order)
            for gap, chunks in order:
                world.behave(chunks=chunks, chunk_gap=gap)
                load = effort.load(clients=CLIENTS, streams=True)
                # Long enough for each client to begin a second stream, since the first is not timed.
                load = replace(load, seconds=max(load.seconds, load.settle + LATE * gap * chunks))
                leg, found = _leg(bench, server, world, load, Meter(server.pid, database.name), gap, chunks)
                legs.append(leg)
                findings.append(found)
                faults += refused_in(found) + event_faults(found, chunks)
            answered = answers_in(*findings)
            faults += served_faults(world.counts(), variant, answered, streams=True) + chain_faults(server, variant)
        rows, wrong = bench.written(variant, database, answered)
    return Streamed(variant.name, answered, legs, rows, faults + wrong)


def _leg(
    bench: Bench, server: Running, world: World, load: Load, meter: Meter, gap: float, chunks: int
) -> tuple[Leg, dict[str, Any]]:
    processes = tree(server.pid)
    cpu, upstream_cpu, read = meter.read(), cpu_seconds([world.pid]), reads(processes)
    found = bench.load(server, load)
    used = meter.read() - cpu
    leg = Leg(
        gap=gap,
        chunks=chunks,
        streams=answers_in(found),
        seconds=found["seconds"],
        cpu=used.server + used.database,
        reads=reads(processes) - read,
        load_cpu=found["cpu"],
        upstream_cpu=cpu_seconds([world.pid]) - upstream_cpu,
        latency_ms=found["latency_ms"],
    )
    return leg, found


def event_faults(found: dict[str, Any], chunks: int) -> list[str]:
    """Whether the clients read every chunk, each as an event of its own."""
    expected = answers_in(found) * (chunks + EVENTS_BESIDE_CHUNKS)
    return [] if found["events"] == expected else [f"events of streams: {found['events']} instead of {expected}"]


def _add_row(report: Report, rounds: Rounds[Streamed], name: str, pace: str, gap: float) -> None:
    cost = rounds.spread(name, lambda run: run.chunk_us(gap))
    other = rounds.spread(name, lambda run: run.stream_ms(gap))
    read = rounds.spread(name, lambda run: run.chunk_reads(gap))
    shares = [rounds.spread(name, _busy(gap, process)) for process in PROCESSES]
    busy = [f"{100 * share.median:.0f} %" for share in shares]
    report.rows.append([name, pace, str(cost), f"{read.median:.2f}", str(other), *busy, str(cost.count)])
    claim = f"CPU a chunk ≤ {GOAL_US} µs ({name}, {pace})"
    report.goals.append(Goal("stream", claim, f"{cost} µs", cost.median <= GOAL_US))
    report.notes += [
        f"{name}, {pace}: the {process} was at its limit, so rates say nothing of the server."
        for process, share in zip(PROCESSES, shares, strict=True)
        if process != "server" and share.high > LIMIT
    ]
    took = rounds.spread(name, lambda run: run.leg(gap, MANY).took_ms)
    if gap and took.high > LATE * 1000 * gap * MANY:
        report.notes.append(f"{name}, {pace}: streams were held up (p50 {took} ms), so chunks may have come together.")


def _busy(gap: float, process: str) -> Callable[[Streamed], float]:
    return lambda run: run.leg(gap, MANY).busy(process)
