"""When calls to a failing model provider stop, and how they resume."""

from __future__ import annotations

from typing import Literal

State = Literal["closed", "open", "half_open"]


class CircuitBreaker:
    """Opens after `threshold` failures in a row; after `cooldown` seconds it admits one probe at a time.

    `now` is a monotonic clock in seconds. A threshold of 0 never opens. Both numbers may change at any time: the
    threshold applies at the next failure, the cooldown when the breaker next opens.

    Every opening starts a new generation. The outcome of a call that was admitted in an earlier generation is out of
    date and changes nothing.
    """

    __slots__ = ("_failures", "_generation", "_open_until", "_probing", "cooldown", "threshold")

    def __init__(self, threshold: int, cooldown: float) -> None:
        self.threshold = threshold
        self.cooldown = cooldown
        self._generation = 1
        self._failures = 0
        self._probing = False
        self._open_until: float | None = None

    def admit(self, now: float) -> int:
        """Returns the generation to report the call's outcome with, or 0 when the call is not admitted.

        Every admitted call must end with exactly one of `record_success`, `record_failure` and `abandon`; after a probe
        that does not, no call is ever admitted again.
        """
        if self._open_until is not None:
            if self._probing or now < self._open_until:
                return 0
            self._probing = True
        return self._generation

    def record_success(self, generation: int) -> None:
        """The provider responded: closes the breaker and resets the count of failures."""
        if generation == self._generation:
            self._failures = 0
            self._probing = False
            self._open_until = None

    def record_failure(self, generation: int, now: float) -> None:
        """The provider failed: counts it; opens the breaker at the threshold or when the probe has failed."""
        if generation != self._generation:
            return
        self._failures += 1
        if self._probing or 0 < self.threshold <= self._failures:
            self._generation += 1
            self._probing = False
            self._open_until = now + self.cooldown

    def abandon(self, generation: int) -> None:
        """The call ended without an outcome. If it was the probe, the next call may be the probe."""
        if generation == self._generation:
            self._probing = False

    def retry_after(self, now: float) -> float:
        """Seconds until a call may be admitted; during a probe, until then if the probe failed now."""
        if self._open_until is None:
            return 0.0
        return self.cooldown if self._probing else max(0.0, self._open_until - now)

    def state(self, now: float) -> State:
        """`half_open` from the end of the cooldown until a probe has an outcome. Callable from any thread."""
        open_until = self._open_until
        if open_until is None:
            return "closed"
        return "half_open" if self._probing or now >= open_until else "open"
