"""Bytes of HTTP answers, rendered before anybody asks for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

NUMBER = "R000000"
"""A word of an answer's text that differs from answer to answer, so that no cache of texts meets one twice."""
ID = "000000000000"
"""The end of an id that differs from answer to answer."""

_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def compact(body: Any) -> bytes:
    """The body as JSON without blanks."""
    return json.dumps(body, separators=(",", ":")).encode()


def rendered(body: Any, status: str = "200 OK") -> bytes:
    """A complete HTTP response with a JSON body."""
    content = compact(body)
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def numbered(page: bytes) -> bytes:
    """The page as a format for `numbers`: every ID and NUMBER becomes a place for a number of the same width."""
    escaped = page.replace(b"%", b"%%")
    return escaped.replace(ID.encode(), b"%(id)012d").replace(NUMBER.encode(), b"R%(text)06x")


def numbers(number: int) -> dict[bytes, int]:
    """What fills a numbered page."""
    return {b"id": number, b"text": number & 0xFFFFFF}


def stream_parts(opening: bytes, chunks: Sequence[bytes], end: bytes) -> tuple[bytes, ...]:
    """What is written one after the other: the head with what opens the stream, each chunk, and the end."""
    first = _STREAM_HEAD + (_transfer_chunk(opening) if opening else b"")
    return (first, *map(_transfer_chunk, chunks), _transfer_chunk(end) + b"0\r\n\r\n")


def _transfer_chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"
