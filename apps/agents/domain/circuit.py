"""When a model provider that keeps failing is left alone, and how it is found out that it is well again."""

from __future__ import annotations

from typing import Literal

State = Literal["closed", "open", "half_open"]


class Circuit:
    """Opens after `threshold` failures in a row, and lets one probe through once `cooldown` seconds are over.

    `now` is a monotonic clock in seconds. A threshold of 0 never opens. Both numbers may change at any time: the
    threshold counts at the next failure, the cooldown when the circuit opens next.

    A call that is let in gets a number and gives its verdict with it. What a call has to say that was let in before
    the circuit last opened is out of date and changes nothing.
    """

    __slots__ = ("_era", "_failures", "_probing", "_until", "cooldown", "threshold")

    def __init__(self, threshold: int, cooldown: float) -> None:
        self.threshold = threshold
        self.cooldown = cooldown
        self._era = 1
        self._failures = 0
        self._probing = False
        self._until: float | None = None

    def admit(self, now: float) -> int:
        """Whether a call may go: 0 when not, else the number to give its verdict with.

        Whoever gets a number must end with exactly one of `succeeded`, `failed` and `abandoned`, or no probe goes
        ever again.
        """
        if self._until is None:
            return self._era
        if self._probing or now < self._until:
            return 0
        self._probing = True
        return self._era

    def succeeded(self, admission: int) -> None:
        """The provider answered: the circuit is closed, and failures are counted from none."""
        if admission == self._era:
            self._failures = 0
            self._probing = False
            self._until = None

    def failed(self, admission: int, now: float) -> None:
        """The provider failed: one more in a row, or the end of the probe and another cooldown."""
        if admission != self._era:
            return
        self._failures += 1
        if self._probing or 0 < self.threshold <= self._failures:
            self._era += 1
            self._probing = False
            self._until = now + self.cooldown

    def abandoned(self, admission: int) -> None:
        """The call ended without a verdict: if it was the probe, the next call may be it."""
        if self._probing and admission == self._era:
            self._probing = False

    def wait(self, now: float) -> float:
        """Seconds until a call may go; while a probe is under way, those that it would cost if it failed at once."""
        if self._until is None:
            return 0.0
        return self.cooldown if self._probing else max(0.0, self._until - now)

    def state(self, now: float) -> State:
        """`half_open` from the end of the cooldown until a probe has its verdict. Any thread may ask."""
        until = self._until
        if until is None:
            return "closed"
        return "half_open" if self._probing or now >= until else "open"
