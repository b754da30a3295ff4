"""An answer that must be JSON: how it is read, whether it matches its schema, and how it is requested again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from apps.agents.domain.schema import OutputSchema

MAX_REPAIR_PROBLEMS = 10

_FENCE = "```"
_MAX_LANGUAGE_CHARS = 32
_CLOSERS = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """An answer read as JSON. `errors` are objects of `path` and `message`.

    `validated`: there was a schema and the value matches it.
    """

    value: Any = None
    is_json: bool = True
    validated: bool = False
    errors: tuple[dict[str, str], ...] = ()

    @property
    def problems(self) -> list[str]:
        """The errors as sentences for the model."""
        return [f"{e['path']}: {e['message']}" if self.is_json else e["message"] for e in self.errors]


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The answer must be one JSON value; with a schema, one that matches it."""

    schema: OutputSchema | None = None

    @property
    def requested(self) -> Mapping[str, Any]:
        """What the model is asked for: the schema, or any JSON at all."""
        return self.schema.raw if self.schema is not None else {}

    def parse(self, text: str) -> ParsedOutput:
        """Reads the answer and checks it. Without a schema nothing is checked, so it is not validated."""
        parsed = decode_output(text)
        if self.schema is None or not parsed.is_json:
            return parsed
        errors = self.schema.errors(parsed.value)
        return replace(parsed, validated=not errors, errors=errors)


def decode_output(text: str) -> ParsedOutput:
    """The one JSON value in a model's answer: all of it, what a code fence contains, or its outermost object or array.

    Strict JSON otherwise: neither NaN nor trailing commas. Linear in the length of the text.
    """
    text = text.strip().removeprefix("\ufeff").strip()
    if not text:
        return _not_json("The answer is empty.")
    whole = _decode(text)
    if whole.is_json:
        return whole
    for parts in (_fenced(text), _outermost(text)):
        found = [decoded for part in parts if (decoded := _decode(part)).is_json]
        if len(found) == 1:
            return found[0]
    return whole


def repair_message(problems: Sequence[str]) -> str:
    """The user message that asks for the same answer again, without its problems."""
    lines = [f"- {problem}" for problem in problems[:MAX_REPAIR_PROBLEMS]]
    if more := len(problems) - len(lines):
        lines.append(f"- and {more} more")
    return (
        "Your answer cannot be used:\n\n"
        + "\n".join(lines)
        + "\n\nAnswer again with the whole corrected JSON value and nothing else."
    )


def _decode(text: str) -> ParsedOutput:
    try:
        return ParsedOutput(msgspec.json.decode(text))
    except RecursionError:
        return _not_json("The JSON value is nested too deep.")
    except UnicodeEncodeError:
        return _not_json("The answer contains text that is not valid Unicode.")
    except msgspec.DecodeError as error:
        return _not_json(f"The answer is not one JSON value: {error}.")


def _not_json(problem: str) -> ParsedOutput:
    return ParsedOutput(is_json=False, errors=({"path": "$", "message": problem},))


def _fenced(text: str) -> list[str]:
    """The text between the first fence and the last; a string in the JSON may contain others."""
    opening, closing = text.find(_FENCE), text.rfind(_FENCE)
    start = opening + len(_FENCE)
    if opening < 0 or closing < start:
        return []
    end_of_line = text.find("\n", start, start + _MAX_LANGUAGE_CHARS)
    return [text[max(start, end_of_line) : closing]]


def _outermost(text: str) -> list[str]:
    """What may be the one object or array in a prose text: from the first opening character to the last that closes it.

    A pair of the other kind may precede it in the prose, as in `the [final] answer: {…}`. What begins while the first
    kind is open, or ends before it does, is an inner part of a broken value, not an answer.
    """
    starts = sorted((at, opener) for opener in _CLOSERS if (at := text.find(opener)) >= 0)
    spans = [(start, text.rfind(_CLOSERS[opener]) + 1, _CLOSERS[opener]) for start, opener in starts]
    if len(spans) == 2:
        (start, end, closer), (second_start, second_end, _) = spans
        if text.find(closer, start, second_start) < 0 or second_end < end:
            spans.pop()
    return [text[start:end] for start, end, _ in spans if end > start]
