"""Circuits: a provider that fails is left alone, and one call tries whether it is well again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from apps.agents.engine.provider_slots import circuit_state
from tests.agents.slots import HOST, OTHER_HOST, SOON, Caller, fail, nothing_is_left, refused, settle_down, to


@pytest.fixture(autouse=True)
def _limits(settings: Any) -> None:
    settings.CLASPER_PROVIDER_CONCURRENCY = 2
    settings.CLASPER_TENANT_CONCURRENCY = 2
    settings.CLASPER_CIRCUIT_FAILURES = 2
    settings.CLASPER_CIRCUIT_COOLDOWN_MS = 60_000


async def probe_time(host: str = HOST) -> None:
    """Waits until a provider that is left alone may be probed."""
    async with asyncio.timeout(SOON):
        while circuit_state(host) != "half_open":  # noqa: ASYNC110  nothing happens at this moment
            await asyncio.sleep(0.002)


async def test_a_failing_provider_is_left_alone() -> None:
    assert circuit_state(HOST) == "closed"
    await fail(times=1)
    assert circuit_state(HOST) == "closed"
    await fail(times=1)
    assert circuit_state(HOST) == "open"
    closed = await refused()
    assert closed.kind == "circuit_open"
    assert 55 < closed.retry_after <= 60
    assert (await refused(tenant="globex")).kind == "circuit_open"
    assert nothing_is_left()


async def test_the_other_providers_are_still_asked() -> None:
    await fail(times=2)
    async with to(host=OTHER_HOST, timeout=0.0) as slot:
        slot.record_success()
    assert (circuit_state(HOST), circuit_state(OTHER_HOST)) == ("open", "closed")


async def test_a_success_in_between_restarts_the_count() -> None:
    for _ in range(3):
        await fail(times=1)
        async with to() as slot:
            slot.record_success()
    assert circuit_state(HOST) == "closed"


async def test_the_first_outcome_counts() -> None:
    for _ in range(2):
        async with to() as slot:
            slot.record_failure()
            slot.record_failure()
            slot.record_success()
    assert circuit_state(HOST) == "open"


async def test_no_threshold_no_circuit(settings: Any) -> None:
    settings.CLASPER_CIRCUIT_FAILURES = 0
    await fail(times=50)
    assert circuit_state(HOST) == "closed"


async def test_the_settings_of_the_moment_count(settings: Any) -> None:
    settings.CLASPER_CIRCUIT_FAILURES = 50
    await fail(times=2)
    settings.CLASPER_CIRCUIT_FAILURES, settings.CLASPER_CIRCUIT_COOLDOWN_MS = 3, 30_000
    await fail()
    assert 25 < (await refused()).retry_after <= 30


@pytest.mark.parametrize(("outcome", "state"), [("record_success", "closed"), ("record_failure", "open")])
async def test_one_call_probes_for_all(settings: Any, outcome: str, state: str) -> None:
    settings.CLASPER_CIRCUIT_COOLDOWN_MS = 10
    await fail(times=2)
    await probe_time()
    settings.CLASPER_CIRCUIT_COOLDOWN_MS = 60_000
    async with to(timeout=0.0) as probe:
        assert (await refused()).kind == "circuit_open"
        getattr(probe, outcome)()
        assert circuit_state(HOST) == state
    assert circuit_state(HOST) == state


async def test_a_cancelled_probe_leaves_its_place_to_the_next_call(settings: Any) -> None:
    settings.CLASPER_CIRCUIT_COOLDOWN_MS = 1
    await fail(times=2)
    await probe_time()
    entered: list[str] = []
    probe = Caller(entered, "probe")
    await settle_down()
    assert entered == ["probe"]
    assert (await refused()).kind == "circuit_open"
    await probe.cancel()
    async with to(timeout=0.0) as slot:
        slot.record_success()
    assert circuit_state(HOST) == "closed"


async def test_who_waited_for_a_slot_is_still_refused(settings: Any) -> None:
    settings.CLASPER_PROVIDER_CONCURRENCY = settings.CLASPER_CIRCUIT_FAILURES = 1
    async with to() as slot:
        waiting = asyncio.create_task(refused(timeout=SOON))
        await settle_down()
        slot.record_failure()
    assert (await waiting).kind == "circuit_open"
    assert nothing_is_left()
