"""Exports of any size: streamed chunk by chunk, and CSV that no spreadsheet calculates."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What spreadsheets would calculate instead of showing it."""


async def streamed(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, each made in the request's thread when the one before was taken.

    A slow reader holds neither memory nor, between two chunks, a connection to the database.
    """

    def make() -> bytes | None:
        try:
            return next(chunks, None)
        finally:
            close_old_connections()

    following = sync_to_async(make)
    while (chunk := await following()) is not None:
        yield chunk


def csv_text(rows: Iterable[Iterable[Any]]) -> bytes:
    """Rows as CSV. Texts that a spreadsheet would take for a formula get an apostrophe; booleans are as in JSON."""
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
