"""Redaction: what is personal or secret leaves a text, and a token such as `[EMAIL]` takes its place.

All recognisers look at the original text. Overlapping matches become one span, named by the longest of them, then the
earliest, then the one of highest priority; the spans are replaced in one pass from right to left. A replacement can
uncover what its neighbour hid, so the pass is repeated until nothing is found: redacting twice changes nothing.

The recognisers are a registry (`recognisers.BUILT_IN`); the operator's own patterns join as `CustomPattern`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import StrEnum
from operator import itemgetter
from typing import Any

from clasper.core.redaction.custom_patterns import CustomPattern
from clasper.core.redaction.recognisers import BUILT_IN, Recogniser
from clasper.core.redaction.secret_fields import PASSWORD_LABEL, SECRET_LABEL, label_of_key

MIN_CHARS = 5
"""The built-in recognisers find nothing shorter: `pwd=x` is the shortest."""

MAX_DEPTH = 200
"""Deeper values are withheld whole. Request bodies have at most 64 levels; output of models and tools may have more."""

WITHHELD = "[WITHHELD]"

_MAX_PASSES = 5
_HASH_DIGITS = 16
_SUMMARY_CHARS = 8
_CARD_DIGITS = 10**12
_KEY_NAME_CHARS = 64
_WORD_CHARS = 20  # the shortest match that may be all letters is an AWS key


class Strategy(StrEnum):
    """What takes the place of a match."""

    MASK = "mask"
    """`[EMAIL]`: says what it was."""
    HASH = "hash"
    """`[HASH:0f3a…]`: equal for equal values under the same key."""
    DROP = "drop"
    """Nothing."""
    SUMMARIZE = "summarize"
    """First two and last two characters; masked when there are eight or fewer."""


Counts = dict[str, int]

_REMEMBERED_CHARS = 64
_REMEMBERED_TEXTS = 8192
"""Bounds the memory of clean short texts; it starts over when it is full."""


class Redactor:
    """An immutable set of recognisers with one strategy.

    `key` keys the HMAC-SHA256 of the hash strategy. `recognisers` defaults to all built-in ones; `custom` adds the
    patterns of the operator. Safe to share between threads. Masking and hashing are idempotent.
    """

    __slots__ = ("_built_in", "_by_prefilter", "_clean", "_key", "_plain_keys", "_strategy", "_token")

    def __init__(
        self,
        *,
        key: bytes = b"",
        strategy: Strategy | str = Strategy.MASK,
        recognisers: Sequence[Recogniser] = BUILT_IN,
        custom: Sequence[CustomPattern] = (),
    ) -> None:
        self._strategy = Strategy(strategy)
        if self._strategy is Strategy.HASH and not key:
            raise ValueError("the hash strategy needs a key: an unkeyed hash of a phone number is easily undone")
        self._key = key
        self._clean: set[str] = set()
        self._plain_keys: set[str] = set()
        self._built_in = recognisers is BUILT_IN and not custom
        everything = (*recognisers, *(_custom_recogniser(pattern) for pattern in custom))
        self._by_prefilter = tuple(
            (prefilter, tuple(one for one in everything if one.prefilter is prefilter))
            for prefilter in dict.fromkeys(one.prefilter for one in everything)
        )
        labels = {SECRET_LABEL, PASSWORD_LABEL, *(one.label for one in everything)}
        self._token = re.compile(rf"\[(?:{'|'.join(map(re.escape, sorted(labels)))}|HASH:[0-9a-f]{{{_HASH_DIGITS}}})\]")

    def redact(self, value: Any) -> Any:
        """A copy of a JSON value, redacted in texts and in the keys of objects; the shape stays."""
        return self._value(value, {}, "", 0)

    def redact_counted(self, value: Any) -> tuple[Any, dict[str, int]]:
        """`redact`, and how often each recogniser named a token."""
        counts: Counts = {}
        return self._value(value, counts, "", 0), counts

    def redact_text(self, text: str) -> str:
        """The redacted text; the same object when nothing was found."""
        return self._text(text, {})

    # --- JSON values --------------------------------------------------------------------------------------------------
    def _value(self, value: Any, counts: Counts, label: str, depth: int) -> Any:
        """`label` is not empty when the value is under a key named like a secret: its texts go whole."""
        if isinstance(value, str):
            return self._whole(value, label, counts) if label else self._text(value, counts)
        if isinstance(value, dict):
            return self._object(value, counts, depth) if depth < MAX_DEPTH else WITHHELD
        if isinstance(value, list | tuple):
            if depth >= MAX_DEPTH:
                return WITHHELD
            items = [self._value(item, counts, label, depth + 1) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, int) and not isinstance(value, bool):
            return self._number(value, counts, label)
        return value

    def _object(self, value: dict[Any, Any], counts: Counts, depth: int) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, item in value.items():
            if key in self._plain_keys:
                known = item in self._clean if type(item) is str else _is_harmless(item)
                result[key] = item if known else self._value(item, counts, "", depth + 1)
                continue
            is_text = isinstance(key, str)
            label = label_of_key(key) if is_text and len(key) <= _KEY_NAME_CHARS else ""
            name = self._text(key, counts) if is_text else key
            if name is not key:
                name = _unused(name, result, value)
            elif is_text and not label and len(key) <= _REMEMBERED_CHARS:
                self._plain_keys = _remembered(self._plain_keys, key)
            result[name] = self._value(item, counts, label, depth + 1)
        return result

    def _number(self, value: int, counts: Counts, label: str) -> Any:
        """Integers long enough to be a card, and passwords given as numbers, become tokens; others stay numbers."""
        if label == PASSWORD_LABEL:
            return self._whole(str(value), label, counts)
        if value < _CARD_DIGITS:
            return value
        text = str(value) if value < 10**40 else ""
        redacted = self._text(text, counts)
        return value if redacted is text else redacted

    def _whole(self, text: str, label: str, counts: Counts) -> str:
        if not text or self._token.fullmatch(text):
            return text
        _count(counts, "password_field" if label == PASSWORD_LABEL else "secret_field")
        return self._replacement(text, label)

    # --- Texts --------------------------------------------------------------------------------------------------------
    def _text(self, text: str, counts: Counts) -> str:
        if len(text) < _WORD_CHARS and self._built_in and (len(text) < MIN_CHARS or text.isalpha()):
            return text
        if text in self._clean:
            return text
        redacted = self._once(text, counts)
        if redacted is text and len(text) <= _REMEMBERED_CHARS:
            self._clean = _remembered(self._clean, text)
        # Dropping or summarising again would eat the words that follow a field's name.
        if redacted is text or self._strategy not in (Strategy.MASK, Strategy.HASH):
            return redacted
        for _ in range(_MAX_PASSES):
            previous, redacted = redacted, self._once(redacted, counts)
            if redacted is previous:
                return redacted
        return WITHHELD

    def _once(self, text: str, counts: Counts) -> str:
        lower = _aligned_lower(text)
        found: list[tuple[int, int, Recogniser]] | None = None
        for prefilter, recognisers in self._by_prefilter:
            if prefilter(text, lower):
                for recogniser in recognisers:
                    for start, end in recogniser.find(text, lower):
                        if found is None:
                            found = []
                        found.append((start, end, recogniser))
        if found is None:
            return text
        tokens = [match.span() for match in self._token.finditer(text)]
        pieces: list[str] = []
        right = len(text)
        for start, end, winner in reversed(list(_merged(found, tokens))):
            _count(counts, winner.name)
            pieces += (text[end:right], self._replacement(text[start:end], winner.label))
            right = start
        if not pieces:
            return text
        pieces.append(text[:right])
        return "".join(reversed(pieces))

    def _replacement(self, original: str, label: str) -> str:
        match self._strategy:
            case Strategy.HASH:
                mac = hmac.new(self._key, original.encode("utf-8", "surrogatepass"), hashlib.sha256)
                return f"[HASH:{mac.hexdigest()[:_HASH_DIGITS]}]"
            case Strategy.DROP:
                return ""
            case Strategy.SUMMARIZE if len(original) > _SUMMARY_CHARS:
                return f"{original[:2]}..{original[-2:]}"
        return f"[{label}]"


def _remembered(texts: set[str], text: str) -> set[str]:
    """Field names, roles, models and tool names recur in every run; clean texts are searched once."""
    if len(texts) >= _REMEMBERED_TEXTS:
        return {text}
    texts.add(text)
    return texts


def _is_harmless(value: Any) -> bool:
    """Whether a JSON value cannot contain anything to redact: no text, no container, no number as long as a card's."""
    kind = type(value)
    return value is None or kind is bool or kind is float or (kind is int and value < _CARD_DIGITS)


def _count(counts: Counts, name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _custom_recogniser(pattern: CustomPattern) -> Recogniser:
    return Recogniser(name=pattern.name, label=pattern.name.upper(), find=pattern.find, priority=100)


def _aligned_lower(text: str) -> str:
    """The lower-case text, character for character: U+0130 alone would become two characters and is replaced first."""
    lower = text.lower()
    return lower if len(lower) == len(text) else text.replace("\u0130", "i").lower()


def _merged(
    found: list[tuple[int, int, Recogniser]], tokens: list[tuple[int, int]]
) -> Iterator[tuple[int, int, Recogniser]]:
    """Disjoint spans from left to right, each with the recogniser that names it; matches inside tokens are left out."""
    found = [match for match in found if not _inside_token(match[0], match[1], tokens)]
    found.sort(key=lambda match: (match[0], -match[1]))
    index = 0
    while index < len(found):
        start, end, _ = found[index]
        first = index
        while index < len(found) and found[index][0] < end:
            end = max(end, found[index][1])
            index += 1
        winner = max(found[first:index], key=lambda match: (match[1] - match[0], -match[0], match[2].priority))
        yield start, end, winner[2]


def _inside_token(start: int, end: int, tokens: list[tuple[int, int]]) -> bool:
    position = bisect_right(tokens, start, key=itemgetter(0)) - 1
    return position >= 0 and tokens[position][0] <= start and end <= tokens[position][1]


def _unused(name: str, taken: dict[Any, Any], original: dict[Any, Any]) -> str:
    """`name`, numbered if the object has it already: two keys must not become one."""
    candidate, number = name, 2
    while candidate in taken or candidate in original:
        candidate, number = f"{name} ({number})", number + 1
    return candidate
