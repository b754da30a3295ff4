"""`make bench`: measures the cases one after the other and says which goals were met.

    python -m benchmarks [p1 p2 p3 p8 p9 p1wires stream p5 p6 p10] [--rounds N] [--seconds S] [--prefill N] [--quick]
                         [--small N] [--large N] [--database-url URL]

Exit code 0 when everything measured is valid, met or not; 1 when a run was invalid; 2 when one could not be made.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

from rich.console import Console

from benchmarks.cases import Effort, Report, footprint, overhead, provider_latency, providers
from benchmarks.compare import ROUNDS
from benchmarks.forgetting import forgetting
from benchmarks.growth import growth
from benchmarks.processes import BenchmarkFailed
from benchmarks.reading import reading
from benchmarks.report import EVERYTHING_ON, circumstances, save, show
from benchmarks.runner import Bench, bench
from benchmarks.streams import streams
from benchmarks.verifying import verifying

CASES = ("p1", "p2", "p3", "p8", "p9", "p1wires", "stream")
LARGE_CASES = ("p5", "p6", "p10")
"""They begin with filling databases with as many runs as `--large` says; measured only when named."""
LONGEST_SECONDS = 900.0
"""No case begins another round later than this, so that a whole run ends within some fifteen minutes."""
BUSY = 0.7
"""Load average per CPU beyond which somebody else is using the machine."""


def main() -> int:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    signal.signal(signal.SIGTERM, _leave)
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    effort = Effort(
        rounds=options.rounds or (2 if options.quick else ROUNDS),
        seconds=options.seconds or (2.0 if options.quick else 4.0),
        warmup=1.0 if options.quick else 1.5,
        deadline=time.monotonic() + options.max_seconds,
        seed=seed,
    )
    try:
        with bench(options.database_url) as made:
            reports, where = _measure(made, effort, options, console)
    except BenchmarkFailed as error:
        console.print(f"[bold red]The measurement could not be made:[/] {error}", markup=True)
        return 2
    except KeyboardInterrupt:
        console.print("Ended early; everything that was started is stopped.")
        return 130
    kept = {"rounds": effort.rounds, "seconds": effort.seconds, "warmup": effort.warmup, "seed": seed}
    path = save(reports, where, effort=kept)
    console.print(f"Every single run is in {path}")
    return 1 if any(report.faults for report in reports) else 0


def _measure(
    made: Bench, effort: Effort, options: argparse.Namespace, console: Console
) -> tuple[list[Report], dict[str, object]]:
    if options.prefill:
        made.prefill(options.prefill)
    where = circumstances(made.store.engine, options.prefill)
    console.print(
        f"Clasper {str(where['commit'])[:12]} ({where['changed_files']} changed files), Python {where['python']}, "
        f"{where['database']}, {where['cpus']} CPUs, load average {where['load_average']}"
    )
    console.print(
        f"{EVERYTHING_ON}\n{effort.rounds} rounds of {effort.seconds:g} s, order shuffled (seed {effort.seed}), fresh "
        f"database each run ({options.prefill} runs in it). Load, upstream and server share the CPUs.\n"
    )
    if where["load_average"][0] > BUSY * (where["cpus"] or 1):
        console.print("[yellow]The machine is busy with something else; trust ratios only.[/]\n")
    if effort.rounds < ROUNDS:
        console.print(f"[yellow]Fewer than {ROUNDS} rounds: fit for a look, not for a claim.[/]\n")
    reports = []
    for case in _chosen(options):
        report = case(made, effort)
        show(console, report)
        reports.append(report)
    return reports, where


def _chosen(options: argparse.Namespace) -> list[Callable[[Bench, Effort], Report]]:
    """The cases that were named; P1 and P2 share their rounds."""
    names = options.cases or CASES
    sizes = {"small": options.small, "large": options.large}
    sends = partial(overhead, floor="p1" in names, governance="p2" in names)
    cases: dict[str, Callable[[Bench, Effort], Report]] = {
        "p1": sends,
        "p2": sends,
        "p3": provider_latency,
        "p8": partial(verifying, entries=options.entries),
        "p9": footprint,
        "p1wires": providers,
        "stream": streams,
        "p5": partial(reading, **sizes),
        "p6": partial(forgetting, runs=options.large),
        "p10": partial(growth, **sizes),
    }
    return list(dict.fromkeys(case for name, case in cases.items() if name in names))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures what docs/performance.md claims."
    )
    parser.add_argument(
        "cases", nargs="*", type=str.lower, choices=[*CASES, *LARGE_CASES, []], help=f"default: {' '.join(CASES)}"
    )
    parser.add_argument("--rounds", type=int, default=0, help=f"default: {ROUNDS}")
    parser.add_argument("--seconds", type=float, default=0.0, help="of load in each run (default: 4)")
    parser.add_argument("--database-url", default="", help="a PostgreSQL URL; databases are made and dropped beside it")
    parser.add_argument("--small", type=int, default=10_000, help="runs stored in the smaller database of p5 and p10")
    parser.add_argument("--large", type=int, default=1_000_000, help="runs stored in the larger one, and in that of p6")
    parser.add_argument("--entries", type=int, default=200_000, help="length of the audit chain of p8")
    parser.add_argument("--prefill", type=int, default=0, help="runs that every database already holds")
    parser.add_argument("--quick", action="store_true", help="two rounds of two seconds: a look, no claim")
    parser.add_argument("--seed", type=int, default=None, help="of the order of variants")
    parser.add_argument("--max-seconds", type=float, default=LONGEST_SECONDS, help="no round begins later")
    return parser.parse_args()


def _leave(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
