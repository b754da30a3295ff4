"""How much work a JSON Schema makes of a value, counted before the work begins.

References let a schema of a few lines visit one value 2⁶⁰ times, and a recursive schema can double its work with every
level of the value. Every error that the validator lists copies its part of the value. The count follows the schema over
the value like a validator that never stops early, so it is an upper bound; it ends as soon as its limit is passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, repeat
from typing import Any
from urllib.parse import unquote

_VISIT_UNITS = 8
_CHARS_PER_UNIT = 16
_REVISITS = 3
"""`unevaluated…` looks again at everything that applies to the same value; measured 2.7 times per level."""
_MAX_SHOWN_CHARS = 200

_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_UNEVALUATED = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies"})
_IN_PLACE = ("not", "if", "then", "else", "allOf", "anyOf", "oneOf", "dependentSchemas", "dependencies")
_OTHER_MEMBERS = ("additionalProperties", "unevaluatedProperties")
_OTHER_ITEMS = frozenset({"items", "additionalItems", "unevaluatedItems"})
_BELOW = ("properties", "patternProperties", *_OTHER_MEMBERS, "propertyNames", "prefixItems", *_OTHER_ITEMS, "contains")
_NO_UNITS = frozenset(
    {"$schema", "$id", "$anchor", "$dynamicAnchor", "$comment", "$defs", "definitions", "title", "description"}
    | {"default", "examples", *_REFERENCES, *_IN_PLACE, *_BELOW}
)


class UnusableReference(ValueError):
    """A reference that leads out of the document, to nothing, or round in a circle; `str()` of it is a sentence."""


class Workload:
    """The work that a valid schema of draft 6 or later makes. Raises UnusableReference."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        own_id = document.get("$id")
        self._document = document
        self._own_id = own_id.removesuffix("#") if isinstance(own_id, str) else ""
        self._anchors = _anchors(document)
        self._sizes = _sizes(document)
        self._units: dict[int, int] = {}
        self._in_place: dict[int, list[Any]] = {}
        pending: list[Any] = [document]
        while pending:
            pending += self._enter(pending.pop())

    def of(self, value: Any, *, limit: int) -> int:
        """Units of work for a value, at most just over `limit`: 2 ns of checking, or 1 µs and 400 bytes of listing."""
        sizes, total, times = _sizes(value), 0, 1
        pending: list[tuple[dict[str, Any], Any, int]] = []
        visits: Iterable[tuple[Any, Any]] = [(self._document, value)]
        while True:
            for schema, part in visits:
                total += times * self._units.get(id(schema), 1) * (_VISIT_UNITS + _size(part, sizes))
                if total > limit:
                    return total
                if isinstance(schema, dict):
                    pending.append((schema, part, times))
            if not pending:
                return total
            schema, part, times = pending.pop()
            times *= 1 if _UNEVALUATED.isdisjoint(schema) else _REVISITS
            visits = chain(zip(self._in_place[id(schema)], repeat(part)), _visits_below(schema, part))

    def _enter(self, schema: Any) -> list[Any]:
        """Notes what applies to the same value as `schema`, and returns all that this applies to parts of the value."""
        if not isinstance(schema, dict) or id(schema) in self._in_place:
            return []
        if id(schema) in self._units:
            raise UnusableReference("A `$ref` leads back to itself and never to a part of the value.")
        self._units[id(schema)] = 1 + sum(_size(schema[keyword], self._sizes) for keyword in schema.keys() - _NO_UNITS)
        targets = (self._targets(str(schema[keyword])) for keyword in _REFERENCES & schema.keys())
        in_place = [*chain.from_iterable(targets), *_schemas_in(schema, *_IN_PLACE)]
        below = [*_schemas_in(schema, *_BELOW), *chain.from_iterable(map(self._enter, in_place))]
        self._in_place[id(schema)] = in_place
        return below

    def _targets(self, reference: str) -> list[Any]:
        """The schemas that a reference may lead to: several when more than one has its anchor."""
        local = unquote(reference.removeprefix(self._own_id)) or "#"
        if local in self._anchors:
            return self._anchors[local]
        start, *steps = local.split("/")
        at: Any = self._document if start == "#" else None
        try:
            for step in steps:
                name = step.replace("~1", "/").replace("~0", "~")
                at = at[int(name)] if isinstance(at, list) else at[name]
        except (LookupError, TypeError, ValueError):
            at = None
        if at is None:
            shown = reference[:_MAX_SHOWN_CHARS]
            raise UnusableReference(
                f"Every `$ref` must lead to a place inside the schema, as `#/…` or `#name` do: {shown}"
            )
        return [at]


def _schemas_in(schema: dict[str, Any], *keywords: str) -> list[Any]:
    """The schemas that the keywords contain."""
    found: list[Any] = []
    for keyword in keywords:
        content = schema.get(keyword, [])
        if keyword in _BY_NAME:
            content = list(content.values()) if isinstance(content, dict) else []
        found += content if isinstance(content, list) else [content]
    return found


def _visits_below(schema: dict[str, Any], value: Any) -> Iterator[tuple[Any, Any]]:
    """The schemas that `schema` applies to parts of the value, with those parts."""
    if isinstance(value, dict):
        named, patterned = schema.get("properties", {}), _schemas_in(schema, "patternProperties")
        others, names = _schemas_in(schema, *_OTHER_MEMBERS), _schemas_in(schema, "propertyNames")
        for name, part in value.items() if named or patterned or others or names else ():
            if name in named:
                yield named[name], part
            for inner in others if name not in named else ():
                yield inner, part
            for inner in patterned:
                yield inner, part
            for inner in names:
                yield inner, name
    elif isinstance(value, list):
        items = schema.get("items")
        first = items if isinstance(items, list) else _schemas_in(schema, "prefixItems")
        yield from zip(first, value, strict=False)
        for keyword in _OTHER_ITEMS & schema.keys():
            if schema[keyword] is not first:
                yield from zip(repeat(schema[keyword]), value[len(first) :])
        for inner in _schemas_in(schema, "contains"):
            yield from zip(repeat(inner), value)


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _containers(value: Any) -> list[Any]:
    """All objects and arrays of the value, before those that they contain."""
    found = [value] if isinstance(value, dict | list) else []
    for container in found:  # grows
        found += [part for part in _parts(container) if isinstance(part, dict | list)]
    return found


def _size(value: Any, sizes: dict[int, int]) -> int:
    if isinstance(value, dict | list):
        return sizes[id(value)]
    return 1 + len(value) // _CHARS_PER_UNIT if isinstance(value, str) else 1


def _sizes(value: Any) -> dict[int, int]:
    """Units of every object and array of the value, by identity."""
    sizes: dict[int, int] = {}
    for container in reversed(_containers(value)):
        names = container if isinstance(container, dict) else ()
        sizes[id(container)] = 1 + sum(_size(part, sizes) for part in chain(names, _parts(container)))
    return sizes


def _anchors(document: Mapping[str, Any]) -> dict[str, list[Any]]:
    """All named places. Raises UnusableReference for an `$id` below the root: it gives `#` a new meaning."""
    found: dict[str, list[Any]] = {"#": [document]}
    for container in _containers(document):
        if not isinstance(container, dict):
            continue
        if container is not document and isinstance(container.get("$id"), str):
            raise UnusableReference("Only the root of the schema may have an `$id`.")
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(name := container.get(keyword), str):
                found.setdefault(f"#{name}", []).append(container)
    return found
