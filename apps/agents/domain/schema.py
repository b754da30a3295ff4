"""JSON Schema as callers write it: whether a schema is valid, and what is wrong with a value.

Nothing outside the document is ever read, and patterns are matched in linear time. A small schema can still ask for
endless work, and every error of the library copies the value it is about: `schema_work` counts both beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import jsonschema_rs
import msgspec

from apps.agents.domain.schema_work import UnusableReference, Workload

DEFAULT_DRAFT = "https://json-schema.org/draft/2020-12/schema"
DRAFTS = (
    DEFAULT_DRAFT,
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
)

MAX_SCHEMA_BYTES = 65_536
MAX_SCHEMA_DEPTH = 64
MAX_VALUE_DEPTH = 512
"""The library recurses on the stack of the process: an overflow would end the process."""

MAX_ERRORS = 20
MAX_MESSAGE_CHARS = 300
MAX_PATH_CHARS = 200

MAX_CHECK_WORK = 10_000_000
MAX_LIST_WORK = 200_000
"""Units of `Workload.of`: a fraction of a second for either, and at most some 100 MB for a list of errors."""

_MAX_LISTED_SCHEMA_BYTES = 8_192
"""Of a larger schema only the first problem is reported: the library would make a list of all of them at once."""

_PATTERNS = jsonschema_rs.RegexOptions()
"""The engine without look-around and back-references, whose time is linear in the text."""

_MASK = "the value"


class InvalidSchema(ValueError):
    """The schema cannot be used; `problems` are sentences that say why."""

    def __init__(self, *problems: str) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


Errors = tuple[dict[str, str], ...]
"""What is wrong with a value: at most MAX_ERRORS of `{"path": "$.entities[0]", "message": …}`."""


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """A schema that values can be checked against. `raw` is as the caller sent it."""

    raw: Mapping[str, Any]
    validator: jsonschema_rs.Validator
    workload: Workload

    def errors(self, value: Any) -> Errors:
        """What is wrong with a JSON value; also when it is too large or too deep to be checked."""
        if _is_deeper(value, MAX_VALUE_DEPTH):
            return _single(f"The value is nested more than {MAX_VALUE_DEPTH} levels deep.")
        work = self.workload.of(value, limit=MAX_CHECK_WORK)
        if work > MAX_CHECK_WORK:
            return _single("The schema and the value together are too large to be checked.")
        try:
            if self.validator.is_valid(value):
                return ()
            if work > MAX_LIST_WORK:
                return _single("The value does not match the schema; it is too large for a list of what is wrong.")
            return _listed(self.validator, value)
        except (ValueError, RecursionError):
            return _single("The value cannot be checked: it contains text that is not Unicode.")


def compile_schema(raw: Mapping[str, Any]) -> OutputSchema:
    """The schema, ready for use; draft 2020-12 unless `$schema` names another of DRAFTS. `format` is checked.

    Raises InvalidSchema when it is too large, too deep or not valid, refers to anything outside itself, or contains a
    pattern that the linear-time engine does not support.
    """
    schema = dict(raw)
    size = _checked_size(schema)
    draft = _draft(schema)
    if size <= _MAX_LISTED_SCHEMA_BYTES and (found := _listed(_meta_validator(draft), schema)):
        raise InvalidSchema(*(f"{error['path']}: {error['message']}" for error in found))
    try:
        validator = jsonschema_rs.validator_for(
            schema, offline=True, validate_formats=True, mask=_MASK, pattern_options=_PATTERNS
        )
        workload = Workload(schema)
    except jsonschema_rs.ValidationError as error:
        raise InvalidSchema(_compile_problem(error)) from error
    except UnusableReference as error:
        raise InvalidSchema(f"$: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidSchema("$: The schema cannot be read.") from error
    return OutputSchema(schema, validator, workload)


def _checked_size(schema: dict[str, Any]) -> int:
    """Bytes of the schema as JSON. Raises InvalidSchema when there are too many, or too many levels."""
    if _is_deeper(schema, MAX_SCHEMA_DEPTH):
        raise InvalidSchema(f"$: The schema is nested more than {MAX_SCHEMA_DEPTH} levels deep.")
    try:
        size = len(msgspec.json.encode(schema))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidSchema("$: The schema is not JSON.") from error
    if size > MAX_SCHEMA_BYTES:
        raise InvalidSchema(f"$: The schema is larger than {MAX_SCHEMA_BYTES} bytes.")
    return size


def _is_deeper(value: Any, limit: int) -> bool:
    depth = 0
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    while level and depth <= limit:
        depth += 1
        children = [c for part in level for c in (part.values() if isinstance(part, dict) else part)]
        level = [child for child in children if isinstance(child, dict | list)]
    return depth > limit


def _draft(schema: Mapping[str, Any]) -> str:
    named = schema.get("$schema", DEFAULT_DRAFT)
    draft = named.removesuffix("#") if isinstance(named, str) else ""
    if draft not in DRAFTS:
        raise InvalidSchema(f"$.$schema: Unknown draft; known are {', '.join(DRAFTS)}.")
    return draft


@cache
def _meta_validator(draft: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for({"$schema": draft, "$ref": draft}, offline=True, mask=_MASK)


def _compile_problem(error: jsonschema_rs.ValidationError) -> str:
    if error.kind.name == "$ref":
        return f"$: Every `$ref` must lead to a place inside the schema: {_clip(error.message, MAX_MESSAGE_CHARS)}"
    if error.kind.name in ("format", "pattern", "patternProperties"):
        return f"{_path(error)}: Not a pattern that can be used; look-around and back-references are not supported."
    return f"{_path(error)}: {_message(error)}"


def _single(message: str) -> Errors:
    return ({"path": "$", "message": message},)


def _listed(validator: jsonschema_rs.Validator, value: Any) -> Errors:
    """The first errors without duplicates: the library repeats those to which several paths in the schema lead."""
    found = dict.fromkeys((_path(error), _message(error)) for error in validator.iter_errors(value))
    return tuple({"path": path, "message": message} for path, message in islice(found, MAX_ERRORS))


def _message(error: jsonschema_rs.ValidationError) -> str:
    if error.kind.name == "anyOf" and error.schema_path[-2:] == ["type", "anyOf"]:
        return "the value is not one of the types of JSON Schema, nor a list of them"
    return _clip(error.message, MAX_MESSAGE_CHARS)


def _path(error: jsonschema_rs.ValidationError) -> str:
    parts = ["$"]
    for step in error.instance_path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif step.removeprefix("$").isidentifier():
            parts.append(f".{step}")
        else:
            parts.append(f'["{step}"]')
    return _clip("".join(parts), MAX_PATH_CHARS)


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
