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

HEARTBEAT = b": heartbeat\n\n"
HEARTBEAT_SECONDS = 15.0


def encode_event(name: str, data: Mapping[str, Any]) -> bytes:
    """One event; `data` is sent as JSON on a single line with `type` first, as the API's examples show it."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode({"type": name, **data}) + b"\n\n"
