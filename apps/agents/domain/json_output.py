"""An answer that must be JSON: what is made of it, whether it fulfils its schema, and how it is asked for again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from apps.agents.domain.schema import OutputSchema

MAX_REPAIR_FAULTS = 10

_FENCE = "```"
_MAX_LANGUAGE_CHARS = 32
_CLOSERS = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer says. `errors` are objects of `path` and `message`, `faults` the same as sentences for the model.

    `validated`: there was a schema and the value fulfils it.
    """

    value: Any = None
    is_json: bool = True
    validated: bool = False
    errors: tuple[dict[str, str], ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JsonOutput:
    """The answer must be one JSON value; with a schema, one that fulfils it."""

    schema: OutputSchema | None = None

    @property
    def asked_for(self) -> Mapping[str, Any]:
        """What the model is asked for: the schema, or any JSON at all."""
        return self.schema.raw if self.schema is not None else {}

    def read(self, text: str) -> Reading:
        """Reads the answer and checks it."""
        parsed = read_output(text)
        if parsed.fault:
            return Reading(is_json=False, errors=({"path": "$", "message": parsed.fault},), faults=(parsed.fault,))
        verdict = judge(parsed.value, self.schema)
        return Reading(
            parsed.value, validated=verdict.validated, errors=tuple(verdict.errors), faults=tuple(verdict.faults)
        )


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """The JSON value of an answer, or the fault, a sentence fit for the model, why there is none."""

    value: Any = None
    fault: str = ""


def read_output(text: str) -> ParsedOutput:
    """The one JSON value in a model's answer: all of it, what a code fence holds, or its outermost object or array.

    Strict JSON otherwise: neither NaN nor trailing commas. Linear in the length of the text.
    """
    text = text.strip().removeprefix("\ufeff").strip()
    if not text:
        return ParsedOutput(fault="The answer is empty.")
    whole = _decode(text)
    if not whole.fault:
        return whole
    for parts in (_fenced(text), _outermost(text)):
        found = [parsed for part in parts if not (parsed := _decode(part)).fault]
        if len(found) == 1:
            return found[0]
    return whole


def repair_message(faults: Sequence[str]) -> str:
    """The user turn that asks for the same answer once more, without its faults."""
    lines = [f"- {fault}" for fault in faults[:MAX_REPAIR_FAULTS]]
    if more := len(faults) - len(lines):
        lines.append(f"- and {more} more")
    return (
        "Your answer cannot be used:\n\n"
        + "\n".join(lines)
        + "\n\nAnswer again with the whole corrected JSON value and nothing else."
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an output was checked and found right. `errors` are as `SchemaErrors.items`; `more` says they go on."""

    validated: bool
    errors: list[dict[str, str]]
    more: bool = False

    @property
    def faults(self) -> list[str]:
        """The errors as sentences with their place."""
        return [f"{error['path']}: {error['message']}" for error in self.errors]


def judge(value: Any, schema: OutputSchema | None) -> Verdict:
    """The verdict on an output. Without a schema nothing was checked, so it is not validated, and has no errors."""
    if schema is None:
        return Verdict(False, [])
    found = schema.errors(value)
    return Verdict(not found, list(found.items), found.more)


def _decode(text: str) -> ParsedOutput:
    try:
        return ParsedOutput(msgspec.json.decode(text))
    except RecursionError:
        return ParsedOutput(fault="The JSON value is nested too deep.")
    except UnicodeEncodeError:
        return ParsedOutput(fault="The answer holds text that is no Unicode.")
    except msgspec.DecodeError as error:
        return ParsedOutput(fault=f"The answer is not one JSON value: {error}.")


def _fenced(text: str) -> list[str]:
    """What stands between the first fence and the last; a string in the JSON may hold further ones."""
    opening, closing = text.find(_FENCE), text.rfind(_FENCE)
    start = opening + len(_FENCE)
    if opening < 0 or closing < start:
        return []
    end_of_line = text.find("\n", start, start + _MAX_LANGUAGE_CHARS)
    return [text[max(start, end_of_line) : closing]]


def _outermost(text: str) -> list[str]:
    """What may be the one object or array in a prose text: from the first opening character to the last that closes it.

    Prose may hold a pair of the other kind before it, as in `the [final] answer: {…}`. What begins while the first kind
    is open, or ends before it does, is an inner part of a broken value and no answer.
    """
    starts = sorted((at, opener) for opener in _CLOSERS if (at := text.find(opener)) >= 0)
    spans = [(start, text.rfind(_CLOSERS[opener]) + 1, _CLOSERS[opener]) for start, opener in starts]
    if len(spans) == 2:
        (start, end, closer), (second_start, second_end, _) = spans
        if text.find(closer, start, second_start) < 0 or second_end < end:
            spans.pop()
    return [text[start:end] for start, end, _ in spans if end > start]
