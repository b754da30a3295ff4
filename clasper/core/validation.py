"""Checking a decoded JSON value against a msgspec Struct, with every fault at once."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, get_origin

import msgspec

from clasper.core.errors import InvalidRequest

S = TypeVar("S", bound=msgspec.Struct)

Faults = dict[str, list[str]]


def convert(value: Any, kind: type[S]) -> tuple[S | None, Faults]:
    """`value` as a `kind`, or None and what is wrong with each top-level field.

    The happy path is one call into msgspec; only a faulty value is walked field by field. Raises InvalidRequest when
    the value is not an object at all.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(form_errors=["Expected a JSON object."])
    try:
        return msgspec.convert(value, kind), {}
    except msgspec.ValidationError:
        faults: Faults = {}
        for field in msgspec.structs.fields(kind):
            if field.encode_name in value:
                if texts := _faults(value[field.encode_name], field.type, ""):
                    faults[field.encode_name] = texts
            elif field.required:
                faults[field.encode_name] = ["This field is required."]
        return None, faults or {"": ["Invalid value."]}


def _faults(value: Any, kind: Any, path: str) -> list[str]:
    """What is wrong with `value`, descending into lists and structs so that each item is judged by itself."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        inner = _inner_faults(value, kind, path)
        return inner or [_text(str(error), path)]
    return []


def _inner_faults(value: Any, kind: Any, path: str) -> list[str]:
    if isinstance(value, list) and (item := _item_type(kind)) is not None:
        return [fault for i, each in enumerate(value) for fault in _faults(each, item, f"{path}[{i}]")]
    struct = _struct_type(kind)
    if struct is not None and isinstance(value, dict):
        found: list[str] = []
        for field in msgspec.structs.fields(struct):
            here = f"{path}.{field.encode_name}"
            if field.encode_name in value:
                found += _faults(value[field.encode_name], field.type, here)
            elif field.required:
                found.append(_text("This field is required.", here))
        return found
    return []


def _options(kind: Any) -> list[Any]:
    """The members of a union, or the type alone; annotations are looked through."""
    if get_origin(kind) is not None and hasattr(kind, "__metadata__"):
        return _options(get_args(kind)[0])
    args = get_args(kind)
    if args and get_origin(kind) not in (list, tuple, dict):
        return [option for arg in args for option in _options(arg)]
    return [kind]


def _item_type(kind: Any) -> Any:
    for option in _options(kind):
        if get_origin(option) in (list, tuple):
            return get_args(option)[0]
    return None


def _struct_type(kind: Any) -> type[msgspec.Struct] | None:
    for option in _options(kind):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def _text(message: str, path: str) -> str:
    message = message.split(" - at `")[0]
    return f"{path.lstrip('.')}: {message}" if path else message
