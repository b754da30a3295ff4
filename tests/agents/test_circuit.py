"""The circuit before a provider: when it opens, who may probe, and whose verdict still counts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from apps.agents.domain.circuit import Circuit

COOLDOWN = 10.0


def open_circuit(threshold: int = 1, now: float = 0.0) -> Circuit:
    circuit = Circuit(threshold, COOLDOWN)
    for _ in range(threshold):
        circuit.failed(circuit.admit(now), now)
    assert circuit.state(now) == "open"
    return circuit


@dataclass(frozen=True)
class Case:
    """Verdicts of calls that are made one after the other at time 0: `+` success, `-` failure, `?` abandoned."""

    id: str
    threshold: int
    verdicts: str
    state: str


CASES = [
    Case("nothing-happened", 3, "", "closed"),
    Case("one-short-of-the-threshold", 3, "--", "closed"),
    Case("exactly-the-threshold", 3, "---", "open"),
    Case("a-threshold-of-one", 1, "-", "open"),
    Case("a-success-starts-the-count-anew", 3, "--+--", "closed"),
    Case("in-a-row-after-a-success", 3, "--+---", "open"),
    Case("an-abandoned-call-neither-counts", 3, "--?", "closed"),
    Case("an-abandoned-call-nor-clears", 3, "--?-", "open"),
    Case("a-threshold-of-zero-never-opens", 0, "-" * 50, "closed"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_opens_a_circuit(case: Case) -> None:
    circuit = Circuit(case.threshold, COOLDOWN)
    for verdict in case.verdicts:
        admission = circuit.admit(0.0)
        assert admission
        if verdict == "+":
            circuit.succeeded(admission)
        elif verdict == "-":
            circuit.failed(admission, 0.0)
        else:
            circuit.abandoned(admission)
    assert circuit.state(0.0) == case.state
    assert bool(circuit.admit(0.0)) is (case.state == "closed")


@pytest.mark.parametrize(
    ("now", "state", "wait"),
    [
        pytest.param(0.0, "open", 10.0, id="just-opened"),
        pytest.param(4.0, "open", 6.0, id="in-the-cooldown"),
        pytest.param(9.999, "open", 0.001, id="just-before-the-end"),
        pytest.param(10.0, "half_open", 0.0, id="at-the-end"),
        pytest.param(99.0, "half_open", 0.0, id="long-after"),
    ],
)
def test_the_cooldown(now: float, state: str, wait: float) -> None:
    circuit = open_circuit()
    assert circuit.state(now) == state
    assert circuit.wait(now) == pytest.approx(wait)
    assert bool(circuit.admit(now)) is (state == "half_open")


def test_a_closed_circuit_lets_nobody_wait() -> None:
    assert Circuit(3, COOLDOWN).wait(5.0) == 0.0


def test_exactly_one_probe_goes() -> None:
    circuit = open_circuit()
    assert circuit.admit(10.0)
    assert [circuit.admit(later) for later in (10.0, 15.0, 1000.0)] == [0, 0, 0]
    assert (circuit.state(1000.0), circuit.wait(1000.0)) == ("half_open", COOLDOWN)


def test_a_probe_that_succeeds_closes_the_circuit_and_clears_the_count() -> None:
    circuit = open_circuit(threshold=2)
    circuit.succeeded(circuit.admit(10.0))
    assert circuit.state(10.0) == "closed"
    circuit.failed(circuit.admit(10.0), 10.0)
    assert circuit.state(10.0) == "closed"
    circuit.failed(circuit.admit(10.0), 10.0)
    assert circuit.state(10.0) == "open"


def test_one_failed_probe_means_another_whole_cooldown_from_its_end() -> None:
    circuit = open_circuit(threshold=3)
    circuit.failed(circuit.admit(10.0), 14.0)
    assert (circuit.state(23.9), circuit.admit(23.9)) == ("open", 0)
    assert circuit.admit(24.0)


def test_an_abandoned_probe_leaves_its_place_to_the_next_call() -> None:
    circuit = open_circuit()
    circuit.abandoned(circuit.admit(10.0))
    assert circuit.wait(10.0) == 0.0
    assert circuit.admit(10.0)
    assert not circuit.admit(10.0)


def test_late_failures_prolong_nothing() -> None:
    circuit = Circuit(1, COOLDOWN)
    first, second, third, fourth = (circuit.admit(0.0) for _ in range(4))
    circuit.failed(first, 0.0)
    circuit.failed(second, 5.0)
    assert circuit.wait(5.0) == 5.0
    probe = circuit.admit(10.0)
    circuit.failed(third, 11.0)
    assert (circuit.state(11.0), circuit.admit(11.0)) == ("half_open", 0), "only the probe ends the probing"
    circuit.succeeded(probe)
    circuit.failed(fourth, 12.0)
    assert circuit.state(12.0) == "closed", "what failed before the provider was well again is no news"


@pytest.mark.parametrize("verdict", ["succeeded", "abandoned"])
def test_calls_from_before_do_not_speak_for_the_probe(verdict: str) -> None:
    circuit = Circuit(1, COOLDOWN)
    late, failing = circuit.admit(0.0), circuit.admit(0.0)
    circuit.failed(failing, 0.0)
    assert circuit.admit(10.0)
    getattr(circuit, verdict)(late)
    assert (circuit.state(10.0), circuit.admit(10.0)) == ("half_open", 0)


def test_a_changed_threshold_counts_at_the_next_failure() -> None:
    circuit = Circuit(8, COOLDOWN)
    circuit.failed(circuit.admit(0.0), 0.0)
    circuit.threshold, circuit.cooldown = 2, 3.0
    circuit.failed(circuit.admit(0.0), 0.0)
    assert (circuit.state(0.0), circuit.wait(0.0)) == ("open", 3.0)


class AnyTraffic(RuleBasedStateMachine):
    """Calls that begin and end in any order while time goes on, beside a plain account of what should come of it."""

    @initialize(threshold=st.integers(1, 4))
    def begin(self, threshold: int) -> None:
        self.threshold = threshold
        self.circuit = Circuit(threshold, COOLDOWN)
        self.now = 0.0
        self.under_way: list[tuple[int, int, bool]] = []
        self.opened = 0
        self.streak = 0
        self.opened_at: float | None = None
        self.probing = False

    @rule(seconds=st.sampled_from([0.0, 1.0, COOLDOWN / 2, COOLDOWN]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_asks(self) -> None:
        cooled = self.opened_at is not None and self.now >= self.opened_at + COOLDOWN
        expected = self.opened_at is None or (cooled and not self.probing)
        admission = self.circuit.admit(self.now)
        assert bool(admission) is expected
        if admission:
            self.under_way.append((admission, self.opened, self.opened_at is not None))
            if self.opened_at is not None:
                self.probing = True

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), verdict=st.sampled_from(["failed", "failed", "succeeded", "abandoned"]))
    def a_call_ends(self, data: st.DataObject, verdict: str) -> None:
        number = data.draw(st.integers(0, len(self.under_way) - 1))
        admission, opened, probes = self.under_way.pop(number)
        if verdict == "failed":
            self.circuit.failed(admission, self.now)
        elif verdict == "succeeded":
            self.circuit.succeeded(admission)
        else:
            self.circuit.abandoned(admission)
        if probes:
            self._probe_ended(verdict)
        elif self.opened_at is None and opened == self.opened:
            self._call_ended(verdict)

    def _probe_ended(self, verdict: str) -> None:
        self.probing = False
        if verdict == "failed":
            self._opens()
        elif verdict == "succeeded":
            self.opened_at, self.streak = None, 0

    def _call_ended(self, verdict: str) -> None:
        if verdict == "succeeded":
            self.streak = 0
        elif verdict == "failed":
            self.streak += 1
            if self.streak == self.threshold:
                self._opens()

    def _opens(self) -> None:
        self.opened_at, self.streak = self.now, 0
        self.opened += 1

    @invariant()
    def the_state_is_what_it_should_be(self) -> None:
        if self.opened_at is None:
            expected = "closed"
        elif self.probing or self.now >= self.opened_at + COOLDOWN:
            expected = "half_open"
        else:
            expected = "open"
            assert self.circuit.wait(self.now) == self.opened_at + COOLDOWN - self.now
        assert self.circuit.state(self.now) == expected

    @invariant()
    def one_probe_at_most(self) -> None:
        assert sum(probes for _, _, probes in self.under_way) <= 1


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = hypothesis_settings(max_examples=200, stateful_step_count=40, deadline=None)
