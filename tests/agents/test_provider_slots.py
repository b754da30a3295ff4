"""Slots of providers, on real event loops: order, caps, timeouts, and slots that are always released."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from apps.agents.engine import provider_slots
from apps.agents.engine.provider_slots import CallNotPermitted, circuit_state
from tests.agents.slots import HOST, OTHER_HOST, SOON, Caller, fail, nothing_is_left, refused, settle_down, to


@pytest.fixture(autouse=True)
def _limits(settings: Any) -> None:
    settings.CLASPER_PROVIDER_CONCURRENCY = 2
    settings.CLASPER_TENANT_CONCURRENCY = 2
    settings.CLASPER_CIRCUIT_FAILURES = 2
    settings.CLASPER_CIRCUIT_COOLDOWN_MS = 60_000


# --- Turns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tenant_cap", "provider_cap"), [(1, 0), (0, 1)], ids=["tenant", "provider"])
async def test_first_come_first_served(settings: Any, tenant_cap: int, provider_cap: int) -> None:
    settings.CLASPER_TENANT_CONCURRENCY, settings.CLASPER_PROVIDER_CONCURRENCY = tenant_cap, provider_cap
    entered: list[str] = []
    callers = [Caller(entered, name) for name in "abcdef"]
    for number, caller in enumerate(callers):
        await settle_down()
        assert entered == list("abcdef")[: number + 1]
        await caller.leave()
    assert nothing_is_left()


async def test_nobody_overtakes_whoever_waits(settings: Any) -> None:
    settings.CLASPER_PROVIDER_CONCURRENCY = 1
    entered: list[str] = []
    async with to():
        waiting = Caller(entered, "waiting")
        await settle_down()
    assert (await refused()).kind == "at_capacity", "the slot is the waiting call's even before it has woken up"
    await settle_down()
    assert entered == ["waiting"]
    await waiting.leave()


async def test_a_hungry_tenant_leaves_the_others_their_slots(settings: Any) -> None:
    settings.CLASPER_PROVIDER_CONCURRENCY = 3
    entered: list[str] = []
    hungry = [Caller(entered, "hungry") for _ in range(50)]
    await settle_down()
    assert entered == ["hungry"] * 2
    async with to(tenant="globex", timeout=0.0):
        pass
    for caller in hungry:
        await caller.leave()
    assert nothing_is_left()


async def test_the_queue_of_a_hungry_tenant_is_its_own() -> None:
    entered: list[str] = []
    hungry = [Caller(entered, "hungry") for _ in range(50)]
    modest = Caller(entered, "modest", tenant="globex")
    await settle_down()
    assert entered == ["hungry"] * 2
    await hungry[0].leave()
    assert entered == ["hungry", "hungry", "modest"]
    await modest.leave()
    for caller in hungry:
        await caller.leave()


async def test_providers_have_slots_of_their_own() -> None:
    async with to(), to():
        await refused()
        async with to(host=OTHER_HOST, timeout=0.0):
            pass


async def test_a_cap_of_zero_is_no_limit(settings: Any) -> None:
    settings.CLASPER_TENANT_CONCURRENCY = settings.CLASPER_PROVIDER_CONCURRENCY = 0
    entered: list[str] = []
    callers = [Caller(entered, "call") for _ in range(1000)]
    await settle_down()
    assert len(entered) == 1000
    for caller in callers:
        caller.done.set()
    await asyncio.gather(*(caller.task for caller in callers))
    assert nothing_is_left()


# --- Timeouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tenant_cap", "provider_cap"), [(1, 0), (0, 1)], ids=["tenant", "provider"])
async def test_no_slot_in_time(settings: Any, tenant_cap: int, provider_cap: int) -> None:
    settings.CLASPER_TENANT_CONCURRENCY, settings.CLASPER_PROVIDER_CONCURRENCY = tenant_cap, provider_cap
    async with to():
        began = time.monotonic()
        closed = await refused(timeout=0.05)
        assert 0.04 < time.monotonic() - began < 2
        assert closed.kind == "at_capacity"
        assert closed.retry_after > 0
    async with to(timeout=0.0):
        pass
    assert nothing_is_left()


async def test_the_timeout_bounds_both_waits_together(settings: Any) -> None:
    settings.CLASPER_TENANT_CONCURRENCY = 1
    entered: list[str] = []
    others = [Caller(entered, "other", tenant=tenant) for tenant in ("globex", "initech")]
    await settle_down()
    mine = asyncio.create_task(_enter_and_leave(timeout=SOON))
    await settle_down()
    second = asyncio.create_task(refused(timeout=0.5))
    await asyncio.sleep(0.45)
    mine.cancel()
    began = time.monotonic()
    assert (await second).kind == "at_capacity"
    assert time.monotonic() - began < 0.4
    for other in others:
        await other.leave()
    assert nothing_is_left()


async def _enter_and_leave(timeout: float) -> None:
    async with to(timeout=timeout):
        pass


# --- Slots come back ------------------------------------------------------------------------------------------------


async def test_a_call_that_raises_gives_its_slots_back() -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            async with to(timeout=0.0):
                raise ZeroDivisionError
    assert nothing_is_left()


async def test_a_cancelled_call_gives_its_slots_back() -> None:
    entered: list[str] = []
    callers = [Caller(entered, name) for name in "abc"]
    await settle_down()
    await callers[0].cancel()
    assert entered == ["a", "b", "c"]
    for caller in callers[1:]:
        await caller.cancel()
    assert nothing_is_left()


@pytest.mark.parametrize(("tenant_cap", "provider_cap"), [(1, 0), (0, 1)], ids=["tenant", "provider"])
async def test_whoever_is_cancelled_while_waiting_is_passed_over(
    settings: Any, tenant_cap: int, provider_cap: int
) -> None:
    settings.CLASPER_TENANT_CONCURRENCY, settings.CLASPER_PROVIDER_CONCURRENCY = tenant_cap, provider_cap
    entered: list[str] = []
    first, second, third = (Caller(entered, name) for name in "abc")
    await settle_down()
    await second.cancel()
    await first.leave()
    assert entered == ["a", "c"]
    await third.leave()
    assert nothing_is_left()


@pytest.mark.parametrize("ending", ["cancelled", "timed-out"])
async def test_whoever_gives_up_is_not_kept_in_the_queue(ending: str) -> None:
    async with to(), to():
        if ending == "cancelled":
            waiting = [Caller([], "waiting") for _ in range(3)]
            await settle_down()
            for caller in waiting:
                await caller.cancel()
        else:
            await asyncio.gather(*(refused(timeout=0.001) for _ in range(3)))
        slots = provider_slots._limits.current().slots
        assert {(key, found.users, len(found._waiters or ())) for key, found in slots.items()} == {
            (HOST, 2, 0),
            ((HOST, "acme"), 2, 0),
        }


@pytest.mark.parametrize("released_first", [True, False], ids=["woken-then-cancelled", "cancelled-then-woken"])
@pytest.mark.parametrize(("tenant_cap", "provider_cap"), [(1, 0), (0, 1)], ids=["tenant", "provider"])
async def test_a_slot_handed_to_a_cancelled_call_is_handed_on(
    settings: Any, tenant_cap: int, provider_cap: int, released_first: bool
) -> None:
    settings.CLASPER_TENANT_CONCURRENCY, settings.CLASPER_PROVIDER_CONCURRENCY = tenant_cap, provider_cap
    entered: list[str] = []
    way = to()
    await way.__aenter__()
    second, third = (Caller(entered, name) for name in "bc")
    await settle_down()
    if released_first:
        await way.__aexit__(None, None, None)
        second.task.cancel()
    else:
        second.task.cancel()
        await way.__aexit__(None, None, None)
    await settle_down()
    assert second.task.cancelled()
    assert entered == ["c"]
    await third.leave()
    assert nothing_is_left()


@pytest.mark.parametrize("seed", range(12))
async def test_caps_hold_whatever_happens(settings: Any, seed: int) -> None:
    settings.CLASPER_PROVIDER_CONCURRENCY, settings.CLASPER_TENANT_CONCURRENCY = 5, 3
    settings.CLASPER_CIRCUIT_FAILURES = 0
    dice = random.Random(seed)
    inside: Counter[object] = Counter()
    peak: Counter[object] = Counter()
    outcomes: Counter[str] = Counter()

    async def call(host: str, tenant: str, timeout: float, stay: float, fate: str) -> None:
        try:
            async with to(host, tenant, timeout) as slot:
                for key in (host, (host, tenant)):
                    inside[key] += 1
                    peak[key] = max(peak[key], inside[key])
                try:
                    await asyncio.sleep(stay)
                    if fate == "raises":
                        raise ZeroDivisionError
                    slot.record_failure()
                finally:
                    inside[host] -= 1
                    inside[host, tenant] -= 1
        except CallNotPermitted as closed:
            outcomes[closed.kind] += 1
        except ZeroDivisionError:
            outcomes["raised"] += 1
        else:
            outcomes["passed"] += 1

    tasks: list[asyncio.Task[None]] = []
    for _ in range(400):
        host, tenant = dice.choice([HOST, OTHER_HOST]), dice.choice(["acme", "globex", "initech"])
        timeout = dice.choice([0.0, 0.001, 0.004, SOON, SOON])
        stay = dice.choice([0.0, 0.0, 0.0005, 0.002])
        tasks.append(asyncio.create_task(call(host, tenant, timeout, stay, dice.choice(["returns", "raises"]))))
        if dice.random() < 0.4:
            dice.choice(tasks).cancel()
        if dice.random() < 0.2:
            await asyncio.sleep(dice.choice([0.0, 0.001]))
    ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SOON)
    outcomes["cancelled"] = sum(isinstance(result, asyncio.CancelledError) for result in ended)
    assert outcomes.total() == len(tasks)
    assert set(outcomes) == {"passed", "raised", "cancelled", "at_capacity"}, "the dice leave no case out"
    assert {key: most for key, most in peak.items() if most > (5 if isinstance(key, str) else 3)} == {}
    assert peak[HOST] == peak[OTHER_HOST] == 5
    assert nothing_is_left()


# --- Loops ----------------------------------------------------------------------------------------------------------


def test_each_loop_has_its_own_limits(settings: Any) -> None:
    settings.CLASPER_CIRCUIT_FAILURES = 1
    busy, finished = threading.Event(), threading.Event()

    async def keep_busy() -> None:
        async with to(), to():
            await fail(OTHER_HOST)
            busy.set()
            await asyncio.to_thread(finished.wait, SOON)

    async def pass_by() -> None:
        async with to(timeout=0.0), to(OTHER_HOST, timeout=0.0) as slot:
            slot.record_success()

    thread = threading.Thread(target=asyncio.run, args=(keep_busy(),))
    thread.start()
    try:
        assert busy.wait(SOON)
        asyncio.run(pass_by())
        assert circuit_state(OTHER_HOST) == "open", "for an operator, the worst loop counts"
    finally:
        finished.set()
        thread.join()
    assert circuit_state(OTHER_HOST) == "closed", "a loop that has ended asks no provider"


def test_ended_loops_are_forgotten() -> None:
    for _ in range(5):
        asyncio.run(fail())
    assert sum(loop.is_closed() for loop in provider_slots._limits) <= 1


async def test_idle_tenants_cost_nothing() -> None:
    for number in range(1000):
        async with to(tenant=f"tenant-{number}"):
            pass
    assert nothing_is_left()
