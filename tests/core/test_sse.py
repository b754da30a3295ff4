from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clasper.core.sse import HEADERS, HEARTBEAT, encode_chunk, encode_event
from tests.world import Event, parse_events

text = st.text(st.characters(codec="utf-8"))


@given(st.dictionaries(text.filter(lambda key: key != "type"), text | st.integers(-(2**53), 2**53) | st.none()))
def test_an_event_is_three_lines_whatever_it_holds(data: dict[str, object]) -> None:
    wire = encode_event("chunk", data)
    assert wire.startswith(b'event: chunk\ndata: {"type":"chunk"')
    assert wire.endswith(b"}\n\n")
    assert wire.count(b"\n") == 3
    assert b"\r" not in wire
    assert parse_events(wire.decode()) == [Event("chunk", {"type": "chunk", **data})]


def test_a_heartbeat_is_no_event() -> None:
    stream = encode_event("start", {}) + HEARTBEAT + encode_event("done", {"a": 1})
    assert [event.name for event in parse_events(stream.decode())] == ["start", "done"]
    assert HEARTBEAT.startswith(b":")


def test_proxies_are_asked_not_to_hold_chunks_back() -> None:
    headers = dict(HEADERS)
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"x-accel-buffering"] == b"no"


@pytest.mark.parametrize("text", ["Hello", "", 'a "quoted"\nline', "Grüße 🌍", "\x00", "data: x\n\n"])
def test_a_chunk_is_the_event_of_that_name(text: str) -> None:
    assert encode_chunk(text) == encode_event("chunk", {"data": text})
