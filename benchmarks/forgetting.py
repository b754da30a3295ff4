"""The case `p6`: whether sends wait while retention removes half of a million stored runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cases import Effort, Goal, Report
from benchmarks.checks import refused_in
from benchmarks.compare import Spread, spread
from benchmarks.databases import TENANT, Database
from benchmarks.processes import ROOT, BenchmarkFailed
from benchmarks.runner import Bench, Load, call
from benchmarks.servers import Running, Variant, server_environment

QUIET_SLICES = 5
CLIENTS = 256
"""Connections the open loop may use; far more than its rate needs."""
SHARE = 0.25
"""Of what one core can do: the machine has to carry load, upstream, server and enforcement."""
LONGEST_SECONDS = 900.0
KEPT_DAYS = 45
"""Half of the days over which `seed_traces` spreads its runs."""
P95_LIMIT = 2.0
LOCK_LIMIT_MS = 100.0
QUANTILES = ("p50", "p95", "p99", "max")


@dataclass(slots=True)
class Course:
    """Latencies of sends, slice by slice, before and while retention worked, and what it says of itself."""

    quiet: list[dict[str, float]] = field(default_factory=list)
    busy: list[dict[str, float]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def forgetting(bench: Bench, effort: Effort, *, runs: int) -> Report:
    """P6: p95 of sends while retention removes half of `runs` stored runs, against p95 before it began."""
    variant = Variant("clasper")
    calibration = bench.measure(variant, effort.load(clients=32))
    load = effort.load(clients=CLIENTS, rate=round(1000 * SHARE / calibration.cpu_ms))
    with bench.fresh(variant, bench.seeded(runs)) as database, bench.serving(variant, database) as (server, _):
        course = _course(bench, server, database, load)
    report = Report("P6", f"Sends at {load.rate:.0f}/s while retention removes half of {runs:,} runs", _COLUMNS)
    report.rows += [_row("quiet", course.quiet), _row("retention at work", course.busy)]
    quiet, busy = _spread(course.quiet, "p95"), _spread(course.busy, "p95")
    ratio = busy.median / quiet.median
    longest = course.result["longestTransactionMs"]
    report.goals += [
        Goal("P6", f"p95 of sends ≤ {P95_LIMIT:g} × its quiet value", f"{ratio:.2f}×", ratio <= P95_LIMIT),
        Goal("P6", f"no transaction over {LOCK_LIMIT_MS:g} ms", f"{longest} ms", longest <= LOCK_LIMIT_MS),
    ]
    removed = course.result["tracesDeleted"]
    report.notes.append(
        f"Removed {removed:,} runs in {course.seconds:.0f} s, {removed / course.seconds:,.0f} a second."
    )
    report.runs.append({"quiet": course.quiet, "busy": course.busy, "result": course.result})
    report.faults += calibration.faults + course.faults
    return report


def _course(bench: Bench, server: Running, database: Database, load: Load) -> Course:
    course = Course()
    bench.load(server, load)
    for _ in range(QUIET_SLICES):
        course.quiet.append(_slice(bench, server, load, course))
    terms = {"tenant_id": TENANT, "retention_days": KEPT_DAYS}
    call(server, "POST", "/retention/policy", terms)
    command = [sys.executable, "manage.py", "retention", "enforce", "--tenant", TENANT, "--json"]
    environment = server_environment(database_url=database.url, upstream="http://127.0.0.1:9")
    began = time.monotonic()
    enforcement = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    while enforcement.poll() is None and time.monotonic() - began < LONGEST_SECONDS:
        latencies = _slice(bench, server, load, course)
        if enforcement.poll() is None:
            course.busy.append(latencies)
    course.seconds = time.monotonic() - began
    if enforcement.poll() is None:
        enforcement.kill()
        course.faults.append(f"retention had not ended after {LONGEST_SECONDS:g} s")
    output, _ = enforcement.communicate()
    if enforcement.returncode or not course.busy:
        raise BenchmarkFailed(f"retention ended with {enforcement.returncode} after {len(course.busy)} slices")
    course.result = json.loads(output)
    return course


def _slice(bench: Bench, server: Running, load: Load, course: Course) -> dict[str, float]:
    found = bench.load(server, load)
    course.faults += refused_in(found)
    latencies: dict[str, float] = found["latency_ms"]
    return latencies


_COLUMNS = ["sends", *(f"{name} ms" for name in QUANTILES), "slices"]


def _row(name: str, slices: list[dict[str, float]]) -> list[str]:
    return [name, *(str(_spread(slices, quantile)) for quantile in QUANTILES), str(len(slices))]


def _spread(slices: list[dict[str, float]], quantile: str) -> Spread:
    return spread([each[quantile] for each in slices])
