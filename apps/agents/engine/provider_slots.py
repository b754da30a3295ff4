"""Limits on calls to model providers: concurrency caps per tenant and per provider, and a circuit breaker per provider.

Every event loop has its own limits.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import Semaphore
from contextlib import nullcontext
from time import monotonic
from typing import Literal, Self

from django.conf import settings

from apps.agents.domain.circuit_breaker import CircuitBreaker, State
from clasper.core.per_loop import PerLoop

_CAPACITY_RETRY_SECONDS = 1.0
"""A slot is released whenever any call ends, which is soon when all slots are in use."""

_Key = str | tuple[str, str]


class CallNotPermitted(Exception):
    """The call must not be made now; `retry_after` is in seconds."""

    def __init__(self, kind: Literal["at_capacity", "circuit_open"], retry_after: float) -> None:
        super().__init__(f"{kind}, retry after {retry_after:g} s")
        self.kind = kind
        self.retry_after = retry_after


class _Slots(Semaphore):
    """The slots of a provider, or of a tenant at a provider; a `cap` of 0 is no limit. `users` hold or await a slot."""

    def __init__(self, cap: int) -> None:
        super().__init__(cap or sys.maxsize)
        self.users = 0


class _Limits:
    """The slots in use and the circuit breakers of one event loop."""

    def __init__(self) -> None:
        self.slots: dict[_Key, _Slots] = {}
        self.breakers: dict[str, CircuitBreaker] = {}

    def join(self, key: _Key, cap: int) -> _Slots:
        """The slots, of which the caller wants one; must be followed by `leave`."""
        slots = self.slots.get(key)
        if slots is None:
            slots = self.slots[key] = _Slots(cap)
        slots.users += 1
        return slots

    def leave(self, key: _Key, *, acquired: bool) -> None:
        """Releases the slot if it was acquired. Slots that nobody uses are forgotten: idle tenants take no memory."""
        slots = self.slots[key]
        if acquired:
            slots.release()
        slots.users -= 1
        if not slots.users:
            del self.slots[key]

    def breaker(self, provider: str) -> CircuitBreaker:
        """The breaker of the provider; there are as many as the operator has configured."""
        breaker = self.breakers.get(provider)
        if breaker is None:
            breaker = self.breakers[provider] = CircuitBreaker(*_breaker_settings())
        return breaker


_limits = PerLoop(_Limits)


class ProviderSlot:
    """Permission to make one call to the provider at this address: `async with ProviderSlot(…) as slot`.

    Entering waits at most `timeout` seconds for a slot of the tenant at the provider and one of the provider, in order
    of arrival. Raises CallNotPermitted: `at_capacity` when they did not become free in time, `circuit_open` while the
    provider's breaker is open. Leaving releases both.

    The first recorded outcome counts. A call without one says nothing about the provider.
    """

    __slots__ = ("_acquired", "_breaker", "_generation", "_limits", "_provider", "_tenant", "_timeout")

    _limits: _Limits
    _breaker: CircuitBreaker

    def __init__(self, *, provider: str, tenant_id: str, timeout: float) -> None:
        self._provider = provider
        self._tenant = (provider, tenant_id)
        self._timeout = timeout
        self._acquired = 0
        self._generation = 0

    async def __aenter__(self) -> Self:
        limits = self._limits = _limits.current()
        tenant = limits.join(self._tenant, settings.CLASPER_TENANT_CONCURRENCY)
        provider = limits.join(self._provider, settings.CLASPER_PROVIDER_CONCURRENCY)
        must_wait = tenant.locked() or provider.locked()
        try:
            # A timer is too expensive for the many calls that need not wait.
            async with asyncio.timeout(self._timeout) if must_wait else nullcontext():
                # The tenant's slot first: while it is awaited, the provider's are left to other tenants.
                await tenant.acquire()
                self._acquired = 1
                await provider.acquire()
                self._acquired = 2
            # Only now, because the breaker may have opened during the wait.
            breaker = self._breaker = limits.breaker(self._provider)
            now = monotonic()
            self._generation = breaker.admit(now)
            if not self._generation:
                raise CallNotPermitted("circuit_open", breaker.retry_after(now))
        except TimeoutError:
            self._release()
            raise CallNotPermitted("at_capacity", _CAPACITY_RETRY_SECONDS) from None
        except BaseException:
            self._release()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._generation:
            self._breaker.abandon(self._take_generation())
        self._release()

    def record_success(self) -> None:
        """The provider works: it responded, or refused for a reason that lies in the request."""
        if self._generation:
            self._breaker.record_success(self._take_generation())

    def record_failure(self) -> None:
        """The provider does not work: it was unreachable, did not respond in time, or failed internally."""
        if self._generation:
            # Read only here, where they matter; reading settings is too slow for every call.
            self._breaker.threshold, self._breaker.cooldown = _breaker_settings()
            self._breaker.record_failure(self._take_generation(), monotonic())

    def _take_generation(self) -> int:
        generation, self._generation = self._generation, 0
        return generation

    def _release(self) -> None:
        self._limits.leave(self._provider, acquired=self._acquired > 1)
        self._limits.leave(self._tenant, acquired=self._acquired > 0)


def circuit_state(provider: str) -> State:
    """The state of the provider's circuit breaker in this process; with several event loops, the worst of theirs."""
    now = monotonic()
    breakers = (limits.breakers.get(provider) for loop, limits in list(_limits.items()) if not loop.is_closed())
    states = {breaker.state(now) for breaker in breakers if breaker is not None}
    if "open" in states:
        return "open"
    return "half_open" if "half_open" in states else "closed"


def _breaker_settings() -> tuple[int, float]:
    return settings.CLASPER_CIRCUIT_FAILURES, settings.CLASPER_CIRCUIT_COOLDOWN_MS / 1000
