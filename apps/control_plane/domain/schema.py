"""A small part of JSON Schema, enough for this contract: types, lengths, ranges, enums, required and unknown keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]
Faults = dict[str, list[str]]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def faults_of(value: Mapping[str, Any], schema: Schema, *, prefix: str = "") -> Faults:
    """Every fault of an object's fields, by field name; empty when the object satisfies the schema."""
    properties: Mapping[str, Schema] = schema.get("properties", {})
    faults: Faults = {}
    for name in schema.get("required", ()):
        if name not in value:
            faults.setdefault(prefix + name, []).append("Required.")
    for name, item in value.items():
        if name in properties:
            found = _faults(item, properties[name])
        else:
            found = ["Unknown field."] if schema.get("additionalProperties") is False else []
        if found:
            faults.setdefault(prefix + name, []).extend(found)
    return faults


def _faults(value: Any, schema: Schema) -> list[str]:
    wanted = schema.get("type")
    kinds: Sequence[str] = [wanted] if isinstance(wanted, str) else wanted or ()
    if kinds and not any(_is(value, kind) for kind in kinds):
        return [f"Expected {' or '.join(kinds)}."]
    faults = []
    if "enum" in schema and value not in schema["enum"]:
        faults.append(f"Expected one of: {', '.join(map(str, schema['enum']))}.")
    if isinstance(value, str):
        faults += _bounds(len(value), schema, "minLength", "maxLength", " characters")
    elif _is(value, "number"):
        faults += _bounds(value, schema, "minimum", "maximum", "")
    return faults


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, _TYPES[kind])


def _bounds(size: float, schema: Schema, lower: str, upper: str, unit: str) -> list[str]:
    faults = []
    if lower in schema and size < schema[lower]:
        faults.append(f"Expected at least {schema[lower]}{unit}.")
    if upper in schema and size > schema[upper]:
        faults.append(f"Expected at most {schema[upper]}{unit}.")
    return faults
