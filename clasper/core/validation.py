"""Reading a decoded JSON object or a query string into a Struct, with every error at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from clasper.core.errors import InvalidRequest
from clasper.core.schemas import Codec, Errors, Input, bare, codec_of, is_mapping, is_struct, item_of, members_of

I = TypeVar("I", bound=Input)  # noqa: E741 - the input

MAX_KEY_CHARS = 80
"""How much of a wrong key an error repeats."""

MAX_UNKNOWN = 20
"""How many unknown fields an error names; the rest are counted."""

REQUIRED = "This field is required."

_TYPE = re.compile(r"`([^`]+)`")
_TYPE_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "a list",
    "object": "an object",
}
"""msgspec names Python's types in its messages; callers send JSON."""


class _Field(NamedTuple):
    name: str
    encode_name: str
    kind: Any
    codec: Codec | None
    default: Any


def read(kind: type[I], given: Any, *, strict: bool = True, also: Mapping[str, list[str]] | None = None) -> I:
    """The input in `given`. Raises InvalidRequest with every error at once, those between fields too.

    With `strict=False`, for queries, numbers and booleans are read from texts. `also` are errors that only the entry
    point can know.
    """
    whole = _read_whole(kind, given) if strict else None
    values, errors = _read_fields(kind, given, strict) if whole is None else (msgspec.structs.asdict(whole), {})
    for more in (kind.cross_field_errors(values, given), also or {}):
        for name, texts in more.items():
            known = errors.setdefault(name, [])
            known += [text for text in texts if text not in known]
    if errors:
        form = errors.pop("", [])
        raise InvalidRequest(field_errors=errors, form_errors=form)
    return kind(**values) if whole is None else whole


def _read_whole(kind: type[I], given: Any) -> I | None:
    """The input by one call, which is ten times faster than field by field; None when that cannot read it."""
    if not _is_plain(kind):
        return None
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError:
        return None


def _read_fields(kind: type[Input], given: Any, strict: bool) -> tuple[dict[str, Any], Errors]:
    """The fields that could be read, with defaults, and what is wrong with the others."""
    if not isinstance(given, dict):
        raise InvalidRequest(form_errors=["Expected a JSON object."])
    given = {**{name: given[alias] for alias, name in kind.aliases.items() if alias in given}, **given}
    values: dict[str, Any] = {}
    errors: Errors = {}
    for field in _fields(kind):
        if field.encode_name not in given:
            if field.default is msgspec.NODEFAULT:
                errors[field.encode_name] = [REQUIRED]
            else:
                values[field.name] = field.default
            continue
        try:
            values[field.name] = _read_field(field, given[field.encode_name], strict)
        except ValueError as error:  # msgspec.ValidationError is one
            texts = [] if field.codec else _inner_errors(given[field.encode_name], field.kind, "", strict)
            errors[field.encode_name] = texts or [_text(str(each), "", field.kind) for each in error.args]
    if kind.__struct_config__.forbid_unknown_fields:
        names = [field.encode_name for field in _fields(kind)]
        unknown = sorted(given.keys() - kind.aliases.keys() - set(names))
        for name in unknown[:MAX_UNKNOWN]:
            errors[name[:MAX_KEY_CHARS]] = [f"Unknown field. Allowed: {', '.join(names)}."]
        if (more := len(unknown) - MAX_UNKNOWN) > 0:
            errors[""] = [f"There are {more} more unknown fields."]
    return values, errors


def _read_field(field: _Field, value: Any, strict: bool) -> Any:
    if isinstance(value, str) and not strict and "\x00" in value:
        raise ValueError("Must not contain NUL characters.")
    if field.codec is not None and not (value is None and type(None) in members_of(field.kind)):
        value = field.codec.read(value)
    if isinstance(value, float) and value.is_integer() and {int, float} & {*map(bare, members_of(field.kind))} == {int}:
        value = int(value)  # JSON does not distinguish 30.0 from 30, and some clients write it so
    return msgspec.convert(value, field.kind, strict=strict)


@cache
def _is_plain(kind: type[Input]) -> bool:
    return not kind.aliases and not any(field.codec for field in _fields(kind))


@cache
def _fields(kind: type[Input]) -> tuple[_Field, ...]:
    return tuple(
        _Field(each.name, each.encode_name, each.type, codec_of(each.type), _default(each))
        for each in msgspec.structs.fields(kind)
    )


def _default(field: msgspec.structs.FieldInfo) -> Any:
    # Structs are frozen and nothing changes a default, so one may serve every input.
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _errors(value: Any, kind: Any, path: str, strict: bool) -> list[str]:
    """What is wrong with `value`, descending into lists and structs so that each item is checked by itself."""
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        return _inner_errors(value, kind, path, strict) or [_text(str(error), path, kind)]
    return []


def _inner_errors(value: Any, kind: Any, path: str, strict: bool) -> list[str]:
    members = [bare(each) for each in members_of(kind)]
    if isinstance(value, list):
        item = next((item_of(each) for each in members if not is_mapping(each) and item_of(each)), None)
        items = enumerate(value) if item is not None else ()
        return [text for n, each in items for text in _errors(each, item, f"{path}[{n}]", strict)]
    if isinstance(value, dict) and (mapping := next(filter(is_mapping, members), None)) is not None:
        key, item = get_args(mapping)
        return [
            text
            for name, each in value.items()
            for here in [f"{path}[{name[:MAX_KEY_CHARS]!r}]"]
            for text in _errors(name, key, here, strict) + _errors(each, item, here, strict)
        ]
    struct = next((each for each in members if is_struct(each)), None)
    if struct is None or not isinstance(value, dict):
        return []
    found: list[str] = []
    for field in msgspec.structs.fields(struct):
        here = f"{path}.{field.encode_name}"
        if field.encode_name in value:
            found += _errors(value[field.encode_name], field.type, here, strict)
        elif field.required:
            found.append(_text(REQUIRED, here))
    return found


def _text(message: str, path: str, kind: Any = None) -> str:
    message = _TYPE.sub(_type_names, message.split(" - at `")[0])
    if message.startswith("Invalid enum value"):
        choices = [
            choice for each in members_of(kind) if get_origin(bare(each)) is Literal for choice in get_args(bare(each))
        ]
        message = f"Must be one of {', '.join(choices)}."
    return f"{path.lstrip('.')}: {message}" if path else message


def _type_names(match: re.Match[str]) -> str:
    return " or ".join(_TYPE_NAMES.get(name, name) for name in match[1].split(" | "))
