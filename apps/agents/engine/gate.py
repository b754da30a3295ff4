"""The gate before a model provider: how many calls this process makes at once, and none while the provider is down.

Every event loop has a gate of its own. A call waits its turn for a slot of its tenant at the provider, then for one of
the provider, and then the provider's circuit has to let it through.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future
from collections import deque
from time import monotonic
from types import TracebackType
from typing import Literal, Self

from django.conf import settings

from apps.agents.domain.circuit import Circuit, State

_CAPACITY_RETRY_SECONDS = 1.0
"""A slot comes free whenever any call ends, which with this many calls under way is soon."""

_Key = str | tuple[str, str]


class GateClosed(Exception):
    """The call must not be made now; `retry_after` is in seconds."""

    def __init__(self, kind: Literal["at_capacity", "circuit_open"], retry_after: float) -> None:
        super().__init__(f"{kind}, retry after {retry_after:g} s")
        self.kind = kind
        self.retry_after = retry_after


class Passage:
    """One call's way through the gate; made by `pass_gate`, entered once.

    The first verdict counts. Without one, the call says nothing about the provider.
    """

    __slots__ = ("_admission", "_circuit", "_gate", "_provider", "_slots", "_tenant", "_timeout")

    _gate: _Gate
    _circuit: Circuit

    def __init__(self, provider: str, tenant_id: str, timeout: float) -> None:
        self._provider = provider
        self._tenant = (provider, tenant_id)
        self._timeout = timeout
        self._slots = 0
        self._admission = 0

    async def __aenter__(self) -> Self:
        gate = self._gate = _gates.get(asyncio.get_running_loop()) or _open_gate()
        try:
            if not gate.take(self._tenant, settings.CLASPER_TENANT_CONCURRENCY):
                began = monotonic()
                await gate.turn(self._tenant, self._timeout)
                self._timeout -= monotonic() - began
            self._slots = 1
            if not gate.take(self._provider, settings.CLASPER_PROVIDER_CONCURRENCY):
                await gate.turn(self._provider, self._timeout)
            self._slots = 2
            circuit = self._circuit = gate.circuits.get(self._provider) or gate.new_circuit(self._provider)
            now = monotonic()
            self._admission = circuit.admit(now)
            if not self._admission:
                raise GateClosed("circuit_open", circuit.wait(now))
        except BaseException:
            self._give_back()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._admission:
            self._circuit.abandoned(self._take_admission())
        self._give_back()

    def succeeded(self) -> None:
        """The provider works: it answered, or refused for a reason that lies in the request."""
        if self._admission:
            self._circuit.succeeded(self._take_admission())

    def failed(self) -> None:
        """The provider does not work: it could not be reached, did not answer in time, or failed by itself."""
        if self._admission:
            # Read only here, where they matter: every other call is spared the look-ups.
            self._circuit.threshold, self._circuit.cooldown = _circuit_settings()
            self._circuit.failed(self._take_admission(), monotonic())

    def _take_admission(self) -> int:
        admission, self._admission = self._admission, 0
        return admission

    def _give_back(self) -> None:
        slots, self._slots = self._slots, 0
        if slots > 1:
            self._gate.give_back(self._provider)
        if slots:
            self._gate.give_back(self._tenant)


def pass_gate(*, provider: str, tenant_id: str, timeout: float) -> Passage:
    """The way to the provider at this address, for one call: `async with pass_gate(…) as passage`.

    Entering waits at most `timeout` seconds for both slots together. Raises GateClosed `at_capacity` when none came
    free in that time, `circuit_open` when the provider is being left alone. Leaving gives the slots back.
    """
    return Passage(provider, tenant_id, timeout)


def circuit_state(address: str) -> State:
    """How the provider at this address is treated by this process; of several event loops, the worst counts."""
    now = monotonic()
    gates = [gate for loop, gate in list(_gates.items()) if not loop.is_closed()]
    states = {gate.circuits[address].state(now) for gate in gates if address in gate.circuits}
    if "open" in states:
        return "open"
    return "half_open" if "half_open" in states else "closed"


class _Gate:
    """The slots and circuits of one event loop.

    Slots are counted by what they are of: a provider, or a tenant at a provider. Only what is in use has a count, and
    only where somebody waits is there a queue.
    """

    __slots__ = ("circuits", "queues", "used")

    def __init__(self) -> None:
        self.used: dict[_Key, int] = {}
        self.queues: dict[_Key, deque[Future[bool]]] = {}
        self.circuits: dict[str, Circuit] = {}

    def take(self, key: _Key, cap: int) -> bool:
        """Takes a slot if one is free; a cap of 0 is none."""
        used = self.used.get(key, 0)
        if 0 < cap <= used:
            return False
        self.used[key] = used + 1
        return True

    async def turn(self, key: _Key, timeout: float) -> None:
        """Waits for a slot behind everybody who waits already; raises GateClosed after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        waiter: Future[bool] = loop.create_future()
        self.queues.setdefault(key, deque()).append(waiter)
        timer = loop.call_later(max(0.0, timeout), _resolve, waiter, False)
        try:
            taken = await waiter
        except BaseException:
            # Somebody may have handed over a slot just before, and would not do it again.
            if waiter.done() and not waiter.cancelled() and waiter.result():
                self.give_back(key)
            else:
                self._leave_queue(key, waiter)
            raise
        finally:
            timer.cancel()
        if not taken:
            self._leave_queue(key, waiter)
            raise GateClosed("at_capacity", _CAPACITY_RETRY_SECONDS)

    def give_back(self, key: _Key) -> None:
        """Hands the slot to whoever has waited longest, so that nobody who comes just now is quicker."""
        queue = self.queues.get(key)
        while queue:
            waiter = queue.popleft()
            if not queue:
                del self.queues[key]
            if _resolve(waiter, True):
                return
        left = self.used[key] - 1
        if left:
            self.used[key] = left
        else:
            del self.used[key]

    def new_circuit(self, address: str) -> Circuit:
        """The circuit of a provider asked for the first time; there are as many as the operator has configured."""
        circuit = self.circuits[address] = Circuit(*_circuit_settings())
        return circuit

    def _leave_queue(self, key: _Key, waiter: Future[bool]) -> None:
        queue = self.queues.get(key)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self.queues[key]


_gates: dict[AbstractEventLoop, _Gate] = {}


def _open_gate() -> _Gate:
    _forget_dead_loops()
    gate = _gates[asyncio.get_running_loop()] = _Gate()
    return gate


def _forget_dead_loops() -> None:
    # Other threads open gates meanwhile, and a dictionary that grows cannot be walked through.
    for loop in [loop for loop in list(_gates) if loop.is_closed()]:
        _gates.pop(loop, None)


def _circuit_settings() -> tuple[int, float]:
    return settings.CLASPER_CIRCUIT_FAILURES, settings.CLASPER_CIRCUIT_COOLDOWN_MS / 1000


def _resolve(waiter: Future[bool], taken: bool) -> bool:
    if waiter.done():
        return False
    waiter.set_result(taken)
    return True
