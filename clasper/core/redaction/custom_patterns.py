"""Redaction patterns of the operator, matched by RE2 so that none of them can stall a run.

RE2 finds one match in time proportional to the size of the pattern times the length of the text. Finding all matches
can still take quadratic time, because every one of them may have to read to the end of the text. A text that takes too
long is withheld whole. `\\d`, `\\w` and `\\b` are ASCII; `\\p{L}` is any letter.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import re2

MAX_MEMORY = 1 << 20
"""Bytes that RE2 may use for a pattern and its caches."""

MAX_INSTRUCTIONS = 2_000
"""Of a compiled pattern: one per literal character, eight per `.`, about 1,200 per `\\p{L}`, times any count."""

MAX_STEPS = 400_000_000
"""Instructions times bytes of the text: at most about two seconds for one match."""

MAX_SECONDS = 1.0
"""Of CPU time for all matches in a text."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class InvalidPattern(ValueError):
    """The pattern or its name is not accepted; the message says why."""


@dataclass(frozen=True, slots=True)
class CustomPattern:
    """A compiled pattern. `name` (lower-case identifier) is its recogniser's name and, upper-cased, its token.

    Raises InvalidPattern when the name or the pattern is not accepted.
    """

    name: str
    pattern: str
    _compiled: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidPattern("a pattern's name is a lower-case identifier of up to 40 characters")
        object.__setattr__(self, "_compiled", _compile(self.pattern))

    def find(self, text: str, lower: str) -> Iterator[tuple[int, int]]:
        """The spans of all matches that are not empty, in code points; the whole text if the search takes too long."""
        encoded = text.encode("utf-8", "replace")  # RE2 cannot read lone surrogates; a `?` takes their place
        if self._compiled.programsize * len(encoded) > MAX_STEPS:
            yield 0, len(text)
            return
        is_ascii = len(encoded) == len(text)
        deadline = time.thread_time() + MAX_SECONDS
        done = end = 0
        for match in self._compiled.finditer(encoded):
            first, last = match.span()
            if first < last:
                start = first if is_ascii else end + len(encoded[done:first].decode())
                end = last if is_ascii else start + len(encoded[first:last].decode())
                done = last
                yield start, end
            if time.thread_time() > deadline:
                yield 0, len(text)
                return


def _compile(pattern: Any) -> Any:
    if not isinstance(pattern, str):
        raise InvalidPattern("a pattern is a string")
    if r"\C" in pattern:
        raise InvalidPattern(r"\C, one byte, would cut characters apart: write (?s:.)")
    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    options.never_capture = True
    try:
        compiled = re2.compile(pattern.encode(), options)
    except UnicodeEncodeError as error:
        raise InvalidPattern("the pattern is not Unicode text") from error
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise InvalidPattern(f"{reason} (RE2 syntax, which has no look-around or back-references)") from error
    if compiled.programsize > MAX_INSTRUCTIONS:
        raise InvalidPattern("the pattern is too large: use `+` or a smaller count, or a smaller class than `\\p{…}`")
    if compiled.search(b""):
        raise InvalidPattern("the pattern matches the empty text")
    return compiled
