"""Every event loop has its own value, and closed loops are forgotten."""

from __future__ import annotations

import asyncio

import pytest

from clasper.core.per_loop import PerLoop


async def value_of(values: PerLoop[object]) -> object:
    assert values.current() is values.current()
    return values.current()


def test_a_loop_has_one_value_and_other_loops_have_others() -> None:
    values = PerLoop(object)

    async def two_loops() -> tuple[object, object]:
        return values.current(), await asyncio.to_thread(asyncio.run, value_of(values))

    first, second = asyncio.run(two_loops())
    assert first is not second


def test_closed_loops_are_forgotten() -> None:
    values = PerLoop(object)
    for _ in range(3):
        asyncio.run(value_of(values))
    assert len(values) == 1


def test_outside_a_loop_there_is_none() -> None:
    with pytest.raises(RuntimeError):
        PerLoop(object).current()
