"""How much work a JSON Schema makes of a value, counted before the work is begun.

References let a schema of some lines visit one value 2⁶⁰ times, and a recursive one doubles its work with each level
of the value. The count follows the schema over the value like a validator that never stops early, so it is an upper
bound; it gives up as soon as its limit is passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

_CHARS_PER_UNIT = 16
_ERROR_UNITS = 8
_REVISITS = 3
"""`unevaluated…` looks again at all that applies to the same value; measured 2.7 times for each level."""

_HERE = frozenset({"not", "if", "then", "else", "allOf", "anyOf", "oneOf"})
_HERE_BY_NAME = frozenset({"dependentSchemas", "dependencies"})
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_UNEVALUATED = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_SILENT = frozenset(
    {"$schema", "$id", "$anchor", "$dynamicAnchor", "$comment", "$defs", "definitions", "title", "description"}
    | {"default", "examples"}
)


_MAX_SHOWN_CHARS = 200


class UnusableReference(ValueError):
    """A reference that leads out of the document, to nothing, or round in a circle; `str()` of it is a sentence."""


@dataclass(slots=True, eq=False)
class Node:
    """A schema by what it applies to: `here` to the same value, the rest to parts of it.

    `own` are the units of its own keywords, `revisits` how often it looks at what is `here`.
    """

    own: int = 1
    revisits: int = 1
    here: list[Node] = field(default_factory=list)
    properties: dict[str, Node] = field(default_factory=dict)
    patterned: list[Node] = field(default_factory=list)
    unnamed: list[Node] = field(default_factory=list)
    names: list[Node] = field(default_factory=list)
    prefix: list[Node] = field(default_factory=list)
    items: list[Node] = field(default_factory=list)
    contains: list[Node] = field(default_factory=list)

    @property
    def below(self) -> list[Node]:
        """All that applies to parts of the value."""
        parts = (self.patterned, self.unnamed, self.names, self.prefix, self.items, self.contains)
        return [*self.properties.values(), *(node for nodes in parts for node in nodes)]


@dataclass(frozen=True, slots=True)
class Work:
    """Units of work: `check` for a yes or no (some 20 ns each), `listing` for all errors (about 1 µs and 400 bytes)."""

    check: int
    listing: int


def build(schema: Mapping[str, Any]) -> Node:
    """The root of a valid schema of draft 6 or later. Raises UnusableReference."""
    root = _Builder(schema).build()
    _refuse_circles(root)
    return root


def _refuse_circles(root: Node) -> None:
    """Raises UnusableReference when a value would be looked at without an end."""
    seen: set[int] = set()
    below = [root]
    while below:
        start = below.pop()
        if id(start) in seen:
            continue
        above: set[int] = set()
        path: list[tuple[Node, bool]] = [(start, False)]
        while path:
            node, is_done = path.pop()
            if is_done:
                above.discard(id(node))
            elif id(node) in above:
                raise UnusableReference("A `$ref` leads back to itself and never to a part of the value.")
            elif id(node) not in seen:
                seen.add(id(node))
                above.add(id(node))
                path.append((node, True))
                path += [(each, False) for each in node.here]
                below += node.below


def measure(root: Node, value: Any, *, limit: int) -> Work:
    """The work that `value` makes; counting stops when `check` is over `limit`."""
    sizes = _sizes(value)
    check = listing = 0
    pending: list[tuple[Node, Any, int]] = [(root, value, 1)]
    while pending and check <= limit:
        node, each, times = pending.pop()
        size = sizes[id(each)] if isinstance(each, dict | list) else _scalar_units(each)
        listing += times * node.own * (_ERROR_UNITS + size)
        if isinstance(each, dict):
            check += times * (node.own + len(each) * (1 + len(node.patterned)))
        elif isinstance(each, list):
            check += times * (node.own + len(each))
        else:
            check += times * node.own * size
        if check > limit:
            break
        again = times * node.revisits
        pending += [(below, each, again) for below in node.here]
        if isinstance(each, dict):
            pending += [(below, part, again) for part, nodes in _members(node, each) for below in nodes]
        elif isinstance(each, list):
            pending += [(below, part, again) for part, nodes in _elements(node, each) for below in nodes]
    return Work(check, listing)


def _members(node: Node, value: dict[str, Any]) -> Iterable[tuple[Any, list[Node]]]:
    if not (node.properties or node.patterned or node.unnamed or node.names):
        return
    for name, part in value.items():
        named = node.properties.get(name)
        yield part, [*node.patterned, *(node.unnamed if named is None else [named])]
        if node.names:
            yield name, node.names


def _elements(node: Node, value: list[Any]) -> Iterable[tuple[Any, list[Node]]]:
    if node.prefix:
        yield from ((part, [first]) for part, first in zip(value, node.prefix, strict=False))
    if rest := node.items:
        yield from ((part, rest) for part in value[len(node.prefix) :])
    if node.contains:
        yield from ((part, node.contains) for part in value)


def _scalar_units(value: Any) -> int:
    return 1 + len(value) // _CHARS_PER_UNIT if isinstance(value, str) else 1


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _sizes(value: Any) -> dict[int, int]:
    """Units of each object and array of the value, by identity."""
    order = [value] if isinstance(value, dict | list) else []
    for each in order:
        order += [part for part in _parts(each) if isinstance(part, dict | list)]
    sizes: dict[int, int] = {}
    for each in reversed(order):
        names = sum(1 + len(name) // _CHARS_PER_UNIT for name in each) if isinstance(each, dict) else 0
        sizes[id(each)] = 1 + names + sum(sizes.get(id(part)) or _scalar_units(part) for part in _parts(each))
    return sizes


class _Builder:
    """Makes one node for each schema that can be reached; references tie them together, in circles if need be."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        own_id = document.get("$id")
        self._own_id = own_id.removesuffix("#") if isinstance(own_id, str) else ""
        self._anchors = self._find_anchors()
        self._nodes: dict[int, Node] = {}
        self._unfilled: list[tuple[Node, Mapping[str, Any]]] = []

    def build(self) -> Node:
        root = self._node(self._document)
        while self._unfilled:
            node, schema = self._unfilled.pop()
            for keyword, content in schema.items():
                self._fill(node, keyword, content)
        return root

    def _node(self, schema: Any) -> Node:
        if not isinstance(schema, Mapping):
            return Node()
        node = self._nodes.get(id(schema))
        if node is None:
            node = self._nodes[id(schema)] = Node()
            self._unfilled.append((node, schema))
        return node

    def _fill(self, node: Node, keyword: str, content: Any) -> None:
        if keyword in _UNEVALUATED:
            node.revisits = _REVISITS
        if keyword in _HERE:
            node.here += map(self._node, content if isinstance(content, list) else [content])
        elif keyword in _HERE_BY_NAME and isinstance(content, dict):
            node.here += map(self._node, content.values())
        elif keyword in _REFERENCES:
            node.here += map(self._node, self._targets(content))
        elif keyword == "properties" and isinstance(content, dict):
            node.properties = {name: self._node(schema) for name, schema in content.items()}
        elif keyword == "patternProperties" and isinstance(content, dict):
            node.patterned += map(self._node, content.values())
        elif keyword in ("additionalProperties", "unevaluatedProperties"):
            node.unnamed.append(self._node(content))
        elif keyword == "propertyNames":
            node.names.append(self._node(content))
        elif keyword == "prefixItems" or (keyword == "items" and isinstance(content, list)):
            node.prefix += map(self._node, content)
        elif keyword in ("items", "additionalItems", "unevaluatedItems"):
            node.items.append(self._node(content))
        elif keyword == "contains":
            node.contains.append(self._node(content))
        elif keyword not in _SILENT:
            node.own += _units(content)

    def _targets(self, reference: Any) -> list[Any]:
        """The schemas a reference may lead to: several when an anchor is found more than once."""
        local = str(reference)
        if self._own_id:
            local = local.removeprefix(self._own_id)
        if local in ("", "#"):
            return [self._document]
        if local.startswith("#/"):
            return [self._by_pointer(local[2:], str(reference))]
        if (found := self._anchors.get(unquote(local[1:]))) and local.startswith("#"):
            return found
        raise _outside(str(reference))

    def _by_pointer(self, pointer: str, reference: str) -> Any:
        at: Any = self._document
        for step in unquote(pointer).split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                at = at[int(name)] if isinstance(at, list) else at[name]
            except (LookupError, TypeError, ValueError) as error:
                raise _outside(reference) from error
        return at

    def _find_anchors(self) -> dict[str, list[Any]]:
        """All named places. Raises UnusableReference for an `$id` below the root: it gives `#` a new meaning."""
        found: dict[str, list[Any]] = {}
        pending: list[Any] = [self._document]
        while pending:
            each = pending.pop()
            pending += [part for part in _parts(each) if isinstance(part, dict | list)]
            if isinstance(each, list):
                continue
            if each is not self._document and isinstance(each.get("$id"), str):
                raise UnusableReference("Only the root of the schema may have an `$id`.")
            for name in ("$anchor", "$dynamicAnchor"):
                if isinstance(each.get(name), str):
                    found.setdefault(each[name], []).append(each)
        return found


def _units(content: Any) -> int:
    if isinstance(content, dict | list):
        return _sizes(content)[id(content)]
    return _scalar_units(content)


def _outside(reference: str) -> UnusableReference:
    shown = reference[:_MAX_SHOWN_CHARS]
    return UnusableReference(f"Every `$ref` must lead to a place inside the schema, as `#/…` or `#name` do: {shown}")
