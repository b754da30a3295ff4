"""Arguments for a tool, made from its JSON schema and the contents of a message: quoted text, ids, numbers, choices.

Only as clever as a demonstration needs; what the message does not say becomes the schema's default or the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|'([^']+)'(?!\w)")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_ID = re.compile(r"(?<![\w.@-])(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[A-Za-z0-9][\w-]*(?![\w@])")
_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?![\w-])")
_MAX_DEPTH = 4
_MAX_TEXT = 200


class _Evidence:
    """What a message offers for arguments; every piece is used once."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self.quoted = ["".join(groups) for groups in _QUOTED.findall(text)]
        plain = _QUOTED.sub(" ", text)
        self.emails = _EMAIL.findall(plain)
        plain = _EMAIL.sub(" ", plain)
        self.ids = _ID.findall(plain)
        self.numbers = _NUMBER.findall(plain)


def arguments_for(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    """An object for the schema: its required properties always, the others where the message says something."""
    return _object(schema, _Evidence(text), 0)


def value_for(schema: Mapping[str, Any], text: str) -> Any:
    """A value of the schema's top-level type, made like `arguments_for`."""
    if _type(schema) == "object":
        return arguments_for(schema, text)
    return _value("", schema, _Evidence(text), 0, needed=True)


def _object(schema: Mapping[str, Any], found: _Evidence, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or depth >= _MAX_DEPTH:
        return {}
    required = set(schema.get("required") or ())
    made: dict[str, Any] = {}
    for name in sorted(properties, key=lambda property_name: property_name not in required):
        inner = properties[name] if isinstance(properties[name], Mapping) else {}
        value = _value(name, inner, found, depth, needed=name in required)
        if value is not None:
            made[name] = value
    return made


def _value(name: str, schema: Mapping[str, Any], found: _Evidence, depth: int, *, needed: bool) -> Any:
    value = _evident(name, schema, found, depth)
    if value is not None or not needed:
        return value
    return _fallback(schema, found, depth)


def _evident(name: str, schema: Mapping[str, Any], found: _Evidence, depth: int) -> Any:
    """What the message says about this property, None when it says nothing."""
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum")
    if choices:
        return next((choice for choice in choices if str(choice).lower() in found.text.lower()), None)
    kind = _type(schema)
    if kind in ("integer", "number"):
        return _number(found, kind)
    if kind == "string":
        return _string(name, schema, found)
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        item = _evident(name, schema["items"], found, depth + 1) if depth < _MAX_DEPTH else None
        return None if item is None else [item]
    return None


def _fallback(schema: Mapping[str, Any], found: _Evidence, depth: int) -> Any:
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = _type(schema)
    if kind == "object":
        return _object(schema, found, depth + 1)
    empty: dict[str, Any] = {"integer": 0, "number": 0, "boolean": True, "array": [], "null": None}
    return empty[kind] if kind in empty else found.text[:_MAX_TEXT]


def _type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "string"


def _number(found: _Evidence, kind: str) -> int | float | None:
    for text in found.numbers:
        if kind == "integer" and "." in text:
            continue
        found.numbers.remove(text)
        return float(text) if "." in text else int(text)
    return None


def _string(name: str, schema: Mapping[str, Any], found: _Evidence) -> str | None:
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))
    if "email" in words or schema.get("format") == "email":
        sources = [found.emails]
    elif words & {"id", "ids", "number", "no", "code", "key", "ref", "reference"}:
        sources = [found.ids, found.numbers, found.quoted]
    else:
        sources = [found.quoted]
    return next((source.pop(0) for source in sources if source), None)
