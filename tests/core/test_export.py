"""Exports: nothing is held while a reader takes its time, and no cell is a formula."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections

from clasper.core.export import csv_text, streamed


async def test_a_slow_reader_holds_no_connection(store: None) -> None:
    used: list[Any] = []

    def chunks() -> Iterator[bytes]:
        for n in range(3):
            used.append(connections["default"])
            with used[-1].cursor() as cursor:
                cursor.execute("SELECT 1")
            yield b"%d" % n

    taken = []
    async for chunk in streamed(chunks()):
        taken.append(chunk)
        assert used[-1].connection is None
    assert taken == [b"0", b"1", b"2"]


async def test_a_failure_ends_the_stream_and_holds_no_connection(store: None) -> None:
    used: list[Any] = []

    def chunks() -> Iterator[bytes]:
        used.append(connections["default"])
        used[-1].ensure_connection()
        yield from ()
        raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke"):
        await anext(aiter(streamed(chunks())))
    assert used[-1].connection is None


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "\nx"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert csv_text([[text]]).decode().strip('"\r\n').startswith("'")


def test_a_row() -> None:
    assert csv_text([["a", 1, -2, None, True, False, 'b"c', "d,e"]]) == b'a,1,-2,,true,false,"b""c","d,e"\r\n'
