"""The case `p8`: how fast `manage.py audit_verify` goes through a chain."""

from __future__ import annotations

import time
from collections.abc import Mapping

from benchmarks.cases import CLASPER, Effort, Goal, Report
from benchmarks.compare import spread
from benchmarks.processes import BenchmarkFailed, run
from benchmarks.runner import Bench
from benchmarks.servers import server_environment

LONG, SHORT = "long", "short"
"""The tenants: one with the entries, one whose single entry shows how long the command takes to start."""
GOAL = 50_000


def verifying(bench: Bench, effort: Effort, *, entries: int) -> Report:
    """P8: entries that are verified in a second of wall clock, without the start of the command."""
    columns = ["entries", "whole command s", "its start s", "entries/s", "rounds"]
    report = Report("P8", f"manage.py audit_verify over a chain of {entries:,} entries", columns)
    with bench.fresh(CLASPER) as database:
        environment = server_environment(database_url=database.url, upstream="http://127.0.0.1:9")
        for tenant_id, count in ((LONG, entries), (SHORT, 1)):
            write = ("-m", "benchmarks.audit_entries", "--tenant", tenant_id, "--count", str(count))
            run(*write, environment=environment)
        bench.store.analyze(database)
        found: list[tuple[float, float]] = []
        for done in range(effort.rounds):
            if done and effort.spent():
                break
            found.append((_verified(SHORT, 1, environment), _verified(LONG, entries, environment)))
    starts, wholes = spread([start for start, _ in found]), spread([whole for _, whole in found])
    rate = spread([entries / (whole - start) for start, whole in found])
    report.rows.append([f"{entries:,}", str(wholes), str(starts), str(rate), str(rate.count)])
    report.goals.append(Goal("P8", f"audit verify ≥ {GOAL:,} entries/s", f"{rate}/s", rate.median >= GOAL))
    report.runs += [{"start_seconds": start, "whole_seconds": whole} for start, whole in found]
    return report


def _verified(tenant_id: str, count: int, environment: Mapping[str, str]) -> float:
    """Seconds that verifying the tenant's chain took. Raises BenchmarkFailed unless it is valid and whole."""
    began = time.perf_counter()
    text = run("manage.py", "audit_verify", "--tenant", tenant_id, environment=environment)
    took = time.perf_counter() - began
    if text != f"{tenant_id}: valid, {count} entries\n":
        raise BenchmarkFailed(f"audit_verify said: {text[:500]}")
    return took
