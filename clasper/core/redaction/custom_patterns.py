"""Redaction patterns written by tenants and skill authors, checked so that none of them can stall a run.

Python's `re` backtracks and knows no time limit, so the limit is set on the pattern: only a small subset is accepted,
whose worst case can be computed, and a pattern whose worst case is too dear is refused when it is saved. The subset:

* literals, `.`, classes `[a-z_]`, `\\d \\w \\s` and their negations, escaped punctuation, `\\n`, `\\t`;
* `^`, `$`, `\\b`;
* groups `( )` and `(?: )`, alternatives `|`;
* `?`, `{n}`, `{m,n}` with n up to 64 behind one character or class; `?` and `{n}` with n up to 8 behind a group.

Unbounded quantifiers (`*`, `+`, `{n,}`), look-around, backreferences and inline flags are refused, and the message says
what to write instead. The *cost* of a pattern is the most steps the matcher can take from one starting point; a text
whose length times that cost passes `MAX_STEPS` is withheld whole instead of being searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_PATTERN_CHARS = 200
MAX_REPEAT = 64
MAX_GROUP_REPEAT = 8
MAX_COST = 2_000
MAX_DEPTH = 8
MAX_STEPS = 100_000_000
"""About two seconds of the matcher's time, should the worst case ever come."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_COUNT = re.compile(r"\{(\d{1,4})(?:,(\d{0,4}))?\}")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\\[]|\\.)*\]")
_AMBIGUOUS_IN_CLASS = ("--", "&&", "~~", "||")
_ESCAPES = frozenset("dDwWsSnt")


class UnsafePattern(ValueError):
    """The pattern lies outside the accepted subset; the message says where and what to write instead."""


@dataclass(frozen=True, slots=True)
class CustomPattern:
    """A checked pattern. `name` (lower-case identifier) is its recogniser's name and, upper-cased, its token.

    Raises UnsafePattern when the name or the pattern is not acceptable.
    """

    name: str
    pattern: str
    ignore_case: bool = False
    cost: int = field(init=False)
    _compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UnsafePattern("a pattern's name is a lower-case identifier of up to 40 characters")
        object.__setattr__(self, "cost", cost_of(self.pattern))
        try:
            compiled = re.compile(self.pattern, re.IGNORECASE if self.ignore_case else 0)
        except (re.error, OverflowError) as error:
            raise UnsafePattern(f"not a valid pattern: {error}") from error
        object.__setattr__(self, "_compiled", compiled)

    def find(self, text: str, lower: str) -> Iterator[tuple[int, int]]:
        """The spans of the matches; the whole text when searching it could take too long."""
        if self.cost * len(text) > MAX_STEPS:
            yield 0, len(text)
            return
        for match in self._compiled.finditer(text):
            yield match.span()


def cost_of(pattern: str) -> int:
    """The most steps from one starting point. Raises UnsafePattern outside the subset or above `MAX_COST`."""
    if not pattern or len(pattern) > MAX_PATTERN_CHARS:
        raise UnsafePattern(f"a pattern has 1 to {MAX_PATTERN_CHARS} characters")
    parser = _Parser(pattern)
    measure = parser.alternatives(0)
    if parser.position < len(pattern):
        raise UnsafePattern(f"unbalanced ')' at {parser.position}")
    if not measure.shortest:
        raise UnsafePattern("the pattern can match the empty text")
    if measure.cost > MAX_COST:
        raise UnsafePattern(
            f"the pattern may take {measure.cost} steps per character, the limit is {MAX_COST}: use fewer or narrower "
            "variable quantifiers"
        )
    return measure.cost


@dataclass(frozen=True, slots=True)
class _Measure:
    """Worst case of a piece: steps to try all of it, the number of ways it can match, and its shortest match."""

    cost: int
    ways: int
    shortest: int

    def then(self, rest: _Measure) -> _Measure:
        """This piece followed by `rest`, which is tried once for every way in which this one matches."""
        return _Measure(self.cost + self.ways * rest.cost, self.ways * rest.ways, self.shortest + rest.shortest)

    def repeated(self, least: int, most: int) -> _Measure:
        """One character or class, `least` to `most` times."""
        return _Measure(most + 1, most - least + 1, least)


_EMPTY = _Measure(0, 1, 0)
_ONE = _Measure(1, 1, 1)
_ANCHOR = _Measure(1, 1, 0)


class _Parser:
    """Recursive descent over the subset; measures instead of building a tree."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0

    def alternatives(self, depth: int) -> _Measure:
        if depth > MAX_DEPTH:
            raise UnsafePattern(f"groups are nested more than {MAX_DEPTH} deep")
        branches = [self._sequence(depth)]
        while self._peek() == "|":
            self.position += 1
            branches.append(self._sequence(depth))
        return _Measure(
            sum(branch.cost for branch in branches) + len(branches) - 1,
            sum(branch.ways for branch in branches),
            min(branch.shortest for branch in branches),
        )

    def _sequence(self, depth: int) -> _Measure:
        pieces: list[_Measure] = []
        while self._peek() not in ("", "|", ")"):
            pieces.append(self._piece(depth))
        total = _EMPTY
        for piece in reversed(pieces):
            total = piece.then(total)
        return total

    def _piece(self, depth: int) -> _Measure:
        char = self._peek()
        if char == "(":
            return self._group(depth)
        if char in "^$":
            self.position += 1
            return self._unquantified(_ANCHOR)
        if self.pattern.startswith("\\b", self.position):
            self.position += 2
            return self._unquantified(_ANCHOR)
        self._one_character(char)
        least, most = self._quantifier(MAX_REPEAT)
        return _ONE if (least, most) == (1, 1) else _ONE.repeated(least, most)

    def _one_character(self, char: str) -> None:
        if char == "\\":
            escaped = self.pattern[self.position + 1 : self.position + 2]
            if not escaped or (escaped.isalnum() and escaped not in _ESCAPES):
                raise UnsafePattern(f"the escape \\{escaped} at {self.position} is not accepted")
            self.position += 2
        elif char == "[":
            match = _CLASS.match(self.pattern, self.position)
            if match is None or any(pair in match[0] for pair in _AMBIGUOUS_IN_CLASS):
                raise UnsafePattern(f"the class at {self.position} is not closed or ambiguous")
            self.position = match.end()
        elif char in "*+?{":
            raise UnsafePattern(f"{char!r} at {self.position} quantifies nothing; escape it to mean the character")
        else:
            self.position += 1

    def _group(self, depth: int) -> _Measure:
        self.position += 1
        if self._peek() == "?":
            if not self.pattern.startswith("?:", self.position):
                raise UnsafePattern("look-around, named groups and inline flags are not accepted")
            self.position += 2
        inner = self.alternatives(depth + 1)
        if self._peek() != ")":
            raise UnsafePattern("a group is not closed")
        self.position += 1
        least, most = self._quantifier(MAX_GROUP_REPEAT)
        if (least, most) == (0, 1):
            return _Measure(inner.cost + 1, inner.ways + 1, 0)
        if least != most:
            raise UnsafePattern("a group takes only '?' or a fixed count such as {3}")
        total = _EMPTY
        for _ in range(most):
            total = inner.then(total)
        return total

    def _quantifier(self, limit: int) -> tuple[int, int]:
        char = self._peek()
        least = most = 1
        if char and char in "*+":
            raise UnsafePattern(
                f"'{char}' at {self.position} is unbounded: write {{{'0' if char == '*' else '1'},{limit}}}"
            )
        if char == "?":
            self.position += 1
            least, most = 0, 1
        elif char == "{":
            match = _COUNT.match(self.pattern, self.position)
            if match is None or match[2] == "":
                raise UnsafePattern(f"the count at {self.position} must be {{n}} or {{m,n}}")
            least, most = int(match[1]), int(match[2] or match[1])
            self.position = match.end()
            if not 0 < most <= limit or least > most:
                raise UnsafePattern(f"a count goes up to {limit}")
        self._unquantified(_EMPTY)
        return least, most

    def _unquantified(self, measure: _Measure) -> _Measure:
        if self._peek() and self._peek() in "*+?{":
            raise UnsafePattern(f"a second quantifier or a quantified anchor at {self.position} is not accepted")
        return measure

    def _peek(self) -> str:
        return self.pattern[self.position : self.position + 1]
