"""The unified diff of two texts, bounded in size and in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

MAX_LINES = 2_000
MAX_BYTES = 64 * 1024
MAX_PAIRS = 250_000
"""Pairs of lines that are worth aligning: that is quadratic, so a larger stretch is shown as replaced."""

_CONTEXT = 3

_Block = tuple[int, int, int, int]
"""Lines start to end of the old text, replaced by lines start to end of the new."""


def text_diff(old: str, new: str) -> dict[str, Any]:
    """`{"lines": [...], "truncated": bool}`: hunks as of `diff -u`, without file names; no lines for equal texts.

    At most MAX_LINES lines and MAX_BYTES bytes of UTF-8; `truncated` says that there was more.
    """
    lines: list[str] = []
    room = MAX_BYTES
    for line in _unified(old.split("\n"), new.split("\n")) if old != new else ():
        encoded = line.encode(errors="replace")
        if len(lines) == MAX_LINES or not room:
            return {"lines": lines, "truncated": True}
        if len(encoded) > room:
            return {"lines": [*lines, encoded[:room].decode(errors="ignore")], "truncated": True}
        lines.append(line)
        room -= len(encoded)
    return {"lines": lines, "truncated": False}


def _unified(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    for hunk in _hunks(_blocks(old, new)):
        first, last = hunk[0], hunk[-1]
        before, after = min(_CONTEXT, first[0]), min(_CONTEXT, len(old) - last[1])
        spans = (_span(first[0] - before, last[1] + after), _span(first[2] - before, last[3] + after))
        yield f"@@ -{spans[0]} +{spans[1]} @@"
        shown = first[0] - before
        for start, end, new_start, new_end in hunk:
            yield from (f" {line}" for line in old[shown:start])
            yield from (f"-{line}" for line in old[start:end])
            yield from (f"+{line}" for line in new[new_start:new_end])
            shown = end
        yield from (f" {line}" for line in old[shown : shown + after])


def _span(start: int, end: int) -> str:
    """Lines as a hunk's head counts them: from 1, and from the line before when there are none."""
    return f"{start + 1 if end > start else start},{end - start}"


def _hunks(blocks: Sequence[_Block]) -> Iterator[list[_Block]]:
    """Blocks whose contexts touch form one hunk."""
    hunk: list[_Block] = []
    for block in blocks:
        if hunk and block[0] - hunk[-1][1] > 2 * _CONTEXT:
            yield hunk
            hunk = []
        hunk.append(block)
    if hunk:
        yield hunk


def _blocks(old: Sequence[str], new: Sequence[str]) -> list[_Block]:
    """What was replaced, in order; the lines that both begin and end with are never aligned."""
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    tail = next((i for i in range(shorter - head) if old[-1 - i] != new[-1 - i]), shorter - head)
    old_end, new_end = len(old) - tail, len(new) - tail
    if (old_end - head) * (new_end - head) > MAX_PAIRS:
        return [(head, old_end, head, new_end)]
    codes = SequenceMatcher(None, old[head:old_end], new[head:new_end]).get_opcodes()
    return [(a + head, b + head, c + head, d + head) for tag, a, b, c, d in codes if tag != "equal"]
