"""Server-sent events: the bytes on the wire (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies such as nginx would hold chunks back otherwise.
    (b"x-accel-buffering", b"no"),
]

_CHUNK_BEFORE = b'event: chunk\ndata: {"type":"chunk","data":'
_CHUNK_AFTER = b"}\n\n"
_encode = msgspec.json.Encoder().encode

HEARTBEAT = b": heartbeat\n\n"
HEARTBEAT_SECONDS = 15.0


def encode_chunk(text: str) -> bytes:
    """The event `chunk` with a piece of text, as `encode_event` would write it; streams consist mostly of these."""
    return _CHUNK_BEFORE + _encode(text) + _CHUNK_AFTER


def encode_event(name: str, data: Mapping[str, Any]) -> bytes:
    """One event; `data` is sent as JSON on a single line with `type` first, as the API's examples show it."""
    return b"event: " + name.encode() + b"\ndata: " + _encode({"type": name, **data}) + b"\n\n"
