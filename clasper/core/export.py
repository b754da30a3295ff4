"""Exports of any size: streamed chunk by chunk, and CSV in which no spreadsheet runs a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Beginnings of texts that spreadsheets would run as a formula."""


async def streamed(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks; the next one is made, in the request's thread, only after the last one was sent.

    So a slow reader occupies neither memory nor, between two chunks, a database connection.
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
    """Rows as CSV. Texts that look like a formula get an apostrophe; booleans are written as in JSON."""
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
