"""Calls that take slots of a provider."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from apps.agents.engine import provider_slots
from apps.agents.engine.provider_slots import CallNotPermitted, ProviderSlot

HOST = "https://models.example/v1"
OTHER_HOST = "https://models.example/v2"
SOON = 5.0
"""Longer than anything here takes; only a test that fails waits for it."""


def to(host: str = HOST, tenant: str = "acme", timeout: float = SOON) -> ProviderSlot:
    return ProviderSlot(provider=host, tenant_id=tenant, timeout=timeout)


async def refused(host: str = HOST, tenant: str = "acme", timeout: float = 0.0) -> CallNotPermitted:
    with pytest.raises(CallNotPermitted) as caught:
        async with to(host, tenant, timeout):
            pass
    return caught.value


async def settle_down() -> None:
    """Lets every task run until it waits for something."""
    for _ in range(10):
        await asyncio.sleep(0)


class Caller:
    """A call in a task of its own that stays inside until it is told to leave."""

    def __init__(self, entered: list[str], name: str, tenant: str = "acme", host: str = HOST) -> None:
        self.entered = entered
        self.name = name
        self.way = to(host, tenant)
        self.done = asyncio.Event()
        self.task = asyncio.create_task(self._call())

    async def _call(self) -> None:
        async with self.way:
            self.entered.append(self.name)
            await self.done.wait()

    async def leave(self) -> None:
        self.done.set()
        await self.task
        await settle_down()

    async def cancel(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await settle_down()


def nothing_is_left() -> bool:
    """Whether the running loop keeps no slots, of anybody."""
    return not provider_slots._limits.current().slots


async def fail(host: str = HOST, times: int = 1) -> None:
    for _ in range(times):
        async with to(host, timeout=0.0) as slot:
            slot.record_failure()
