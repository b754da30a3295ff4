"""What makes a run count: the rows it must have written, what /proc tells, and what is replaced to leave things out."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import ungoverned
from benchmarks.databases import FLOOR_QUERIES, QUERIES, faults_of_clasper, faults_of_floor, faults_of_ungoverned
from benchmarks.watch import cpu_seconds, rss_mib, tree

ANSWERED = 10
COST = 5000
WHOLE = dict.fromkeys(QUERIES, ANSWERED) | {
    "undelivered": 0,
    "budget_reserved": 0,
    "holds": 0,
    "trace_cost": COST,
    "budget_spent": COST,
    "ledger_cost": COST,
}
GOVERNED = ("contents", "starts", "ends", "redactions", "budget_spent")


def test_a_whole_run_has_no_problems() -> None:
    assert faults_of_clasper(WHOLE, ANSWERED) == []
    assert faults_of_ungoverned(WHOLE | dict.fromkeys(GOVERNED, 0), ANSWERED) == []
    floor = dict.fromkeys(FLOOR_QUERIES, ANSWERED) | {"audit": 3 * ANSWERED}
    assert faults_of_floor(floor, ANSWERED) == []


@pytest.mark.parametrize("name", sorted(set(QUERIES) - {"trace_cost"}))
def test_every_row_that_is_missing_or_too_many_is_a_problem(name: str) -> None:
    (fault,) = faults_of_clasper(WHOLE | {name: WHOLE[name] + 1}, ANSWERED)
    assert fault.startswith(f"{name}: ")


@pytest.mark.parametrize("name", GOVERNED)
def test_governance_that_was_not_left_out_is_a_problem(name: str) -> None:
    rows = WHOLE | dict.fromkeys(GOVERNED, 0) | {name: 1}
    assert len(faults_of_ungoverned(rows, ANSWERED)) == 1


def test_runs_that_cost_nothing_are_a_problem() -> None:
    free = WHOLE | dict.fromkeys(("trace_cost", "budget_spent", "ledger_cost"), 0)
    assert faults_of_clasper(free, ANSWERED) == ["the runs cost nothing"]


def test_processes_are_watched_with_their_children() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE)
    try:
        while len(tree(child.pid)) < 2:
            pass
        assert child.pid in tree(os.getpid())
    finally:
        child.communicate(b"\n")
    assert child.returncode == 0
    assert cpu_seconds([os.getpid()]) > 0
    assert cpu_seconds([child.pid]) == 0
    assert rss_mib(os.getpid()) > 1


def test_the_functions_that_are_left_out_are_found_where_runs_use_them() -> None:
    import apps.agents.consumers  # noqa: F401  loads the engine

    verbs = ungoverned.replacements()
    found = {(module.__name__, verb.__name__) for module, _, verb in ungoverned.bindings(verbs)}
    assert {
        ("apps.agents.engine.call_budget", "reserve"),
        ("apps.agents.engine.call_budget", "record_audit"),
        ("apps.agents.engine.call_budget", "settle_call"),
        ("apps.traces.services.recording", "redact_counted"),
    } <= found
