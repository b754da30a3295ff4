"""The circuit breaker of a provider: when it opens, which call may probe, and whose outcome still counts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from apps.agents.domain.circuit_breaker import CircuitBreaker

COOLDOWN = 10.0


def open_breaker(threshold: int = 1, now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker(threshold, COOLDOWN)
    for _ in range(threshold):
        breaker.record_failure(breaker.admit(now), now)
    assert breaker.state(now) == "open"
    return breaker


@dataclass(frozen=True)
class Case:
    """Verdicts of calls that are made one after the other at time 0: `+` success, `-` failure, `?` abandoned."""

    id: str
    threshold: int
    outcomes: str
    state: str


CASES = [
    Case("nothing-happened", 3, "", "closed"),
    Case("one-short-of-the-threshold", 3, "--", "closed"),
    Case("exactly-the-threshold", 3, "---", "open"),
    Case("a-threshold-of-one", 1, "-", "open"),
    Case("a-success-resets-the-count", 3, "--+--", "closed"),
    Case("in-a-row-after-a-success", 3, "--+---", "open"),
    Case("an-abandoned-call-neither-counts", 3, "--?", "closed"),
    Case("an-abandoned-call-nor-clears", 3, "--?-", "open"),
    Case("a-threshold-of-zero-never-opens", 0, "-" * 50, "closed"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_opens_a_circuit(case: Case) -> None:
    breaker = CircuitBreaker(case.threshold, COOLDOWN)
    for outcome in case.outcomes:
        generation = breaker.admit(0.0)
        assert generation
        if outcome == "+":
            breaker.record_success(generation)
        elif outcome == "-":
            breaker.record_failure(generation, 0.0)
        else:
            breaker.abandon(generation)
    assert breaker.state(0.0) == case.state
    assert bool(breaker.admit(0.0)) is (case.state == "closed")


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
    breaker = open_breaker()
    assert breaker.state(now) == state
    assert breaker.retry_after(now) == pytest.approx(wait)
    assert bool(breaker.admit(now)) is (state == "half_open")


def test_a_closed_circuit_lets_nobody_wait() -> None:
    assert CircuitBreaker(3, COOLDOWN).retry_after(5.0) == 0.0


def test_exactly_one_probe_goes() -> None:
    breaker = open_breaker()
    assert breaker.admit(10.0)
    assert [breaker.admit(later) for later in (10.0, 15.0, 1000.0)] == [0, 0, 0]
    assert (breaker.state(1000.0), breaker.retry_after(1000.0)) == ("half_open", COOLDOWN)


def test_a_probe_that_succeeds_closes_the_circuit_and_clears_the_count() -> None:
    breaker = open_breaker(threshold=2)
    breaker.record_success(breaker.admit(10.0))
    assert breaker.state(10.0) == "closed"
    breaker.record_failure(breaker.admit(10.0), 10.0)
    assert breaker.state(10.0) == "closed"
    breaker.record_failure(breaker.admit(10.0), 10.0)
    assert breaker.state(10.0) == "open"


def test_one_failed_probe_means_another_whole_cooldown_from_its_end() -> None:
    breaker = open_breaker(threshold=3)
    breaker.record_failure(breaker.admit(10.0), 14.0)
    assert (breaker.state(23.9), breaker.admit(23.9)) == ("open", 0)
    assert breaker.admit(24.0)


def test_an_abandoned_probe_leaves_its_place_to_the_next_call() -> None:
    breaker = open_breaker()
    breaker.abandon(breaker.admit(10.0))
    assert breaker.retry_after(10.0) == 0.0
    assert breaker.admit(10.0)
    assert not breaker.admit(10.0)


def test_late_failures_prolong_nothing() -> None:
    breaker = CircuitBreaker(1, COOLDOWN)
    first, second, third, fourth = (breaker.admit(0.0) for _ in range(4))
    breaker.record_failure(first, 0.0)
    breaker.record_failure(second, 5.0)
    assert breaker.retry_after(5.0) == 5.0
    probe = breaker.admit(10.0)
    breaker.record_failure(third, 11.0)
    assert (breaker.state(11.0), breaker.admit(11.0)) == ("half_open", 0), "only the probe ends the probing"
    breaker.record_success(probe)
    breaker.record_failure(fourth, 12.0)
    assert breaker.state(12.0) == "closed", "what failed before the provider was well again is no news"


@pytest.mark.parametrize("outcome", ["record_success", "abandon"])
def test_calls_from_before_do_not_speak_for_the_probe(outcome: str) -> None:
    breaker = CircuitBreaker(1, COOLDOWN)
    late, failing = breaker.admit(0.0), breaker.admit(0.0)
    breaker.record_failure(failing, 0.0)
    assert breaker.admit(10.0)
    getattr(breaker, outcome)(late)
    assert (breaker.state(10.0), breaker.admit(10.0)) == ("half_open", 0)


def test_a_changed_threshold_counts_at_the_next_failure() -> None:
    breaker = CircuitBreaker(8, COOLDOWN)
    breaker.record_failure(breaker.admit(0.0), 0.0)
    breaker.threshold, breaker.cooldown = 2, 3.0
    breaker.record_failure(breaker.admit(0.0), 0.0)
    assert (breaker.state(0.0), breaker.retry_after(0.0)) == ("open", 3.0)


class AnyTraffic(RuleBasedStateMachine):
    """Calls that begin and end in any order while time goes on, beside a plain account of what should come of it."""

    @initialize(threshold=st.integers(1, 4))
    def begin(self, threshold: int) -> None:
        self.threshold = threshold
        self.breaker = CircuitBreaker(threshold, COOLDOWN)
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
        generation = self.breaker.admit(self.now)
        assert bool(generation) is expected
        if generation:
            self.under_way.append((generation, self.opened, self.opened_at is not None))
            if self.opened_at is not None:
                self.probing = True

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), outcome=st.sampled_from(["failed", "failed", "succeeded", "abandoned"]))
    def a_call_ends(self, data: st.DataObject, outcome: str) -> None:
        number = data.draw(st.integers(0, len(self.under_way) - 1))
        generation, opened, probes = self.under_way.pop(number)
        if outcome == "failed":
            self.breaker.record_failure(generation, self.now)
        elif outcome == "succeeded":
            self.breaker.record_success(generation)
        else:
            self.breaker.abandon(generation)
        if probes:
            self._probe_ended(outcome)
        elif self.opened_at is None and opened == self.opened:
            self._call_ended(outcome)

    def _probe_ended(self, outcome: str) -> None:
        self.probing = False
        if outcome == "failed":
            self._opens()
        elif outcome == "succeeded":
            self.opened_at, self.streak = None, 0

    def _call_ended(self, outcome: str) -> None:
        if outcome == "succeeded":
            self.streak = 0
        elif outcome == "failed":
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
            assert self.breaker.retry_after(self.now) == self.opened_at + COOLDOWN - self.now
        assert self.breaker.state(self.now) == expected

    @invariant()
    def one_probe_at_most(self) -> None:
        assert sum(probes for _, _, probes in self.under_way) <= 1


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = hypothesis_settings(max_examples=200, stateful_step_count=40, deadline=None)
