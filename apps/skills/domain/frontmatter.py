"""The YAML block at the top of a SKILL.md, read with hard limits.

A subset of YAML 1.2: mappings, lists and plain values. No aliases, no tags, no duplicate keys, so that a small text
cannot become a large value and no key is silently lost. Numbers stay text unless they print back as written: `1.10` is
a version, not 1.1.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import yaml

MAX_YAML_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_NODES = 5_000

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

_MAX_SAFE_INTEGER = 2**53 - 1
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,17})?")
_SURROGATE_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_QUOTES = frozenset("'\"|>")
_PLAIN: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class FrontmatterError(ValueError):
    """The block cannot be understood; the message says why, in words for the skill's author."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file split in two. `yaml` is None without a block; `closed` is False when the block's end is missing."""

    yaml: str | None
    body: str
    closed: bool = True


def split_frontmatter(text: str) -> Document:
    """Splits at the `---` lines. Blank lines before the block are tolerated: to overlook it would drop its gates."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((index for index, line in enumerate(lines) if line.strip()), None)
    if first is None or lines[first].rstrip() != "---":
        return Document(None, "\n".join(lines))
    for index in range(first + 1, len(lines)):
        if lines[index].rstrip() == "---":
            return Document("\n".join(lines[first + 1 : index]), "\n".join(lines[index + 1 :]))
    return Document("\n".join(lines[first + 1 :]), "", closed=False)


def parse_mapping(text: str) -> dict[str, Value]:
    """The mapping that `text` contains, empty for an empty text. Raises FrontmatterError."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_YAML_BYTES:
        raise FrontmatterError(f"larger than {MAX_YAML_BYTES // 1024} KiB")
    # JSON writes emoji as two escapes, which YAML does not know.
    text = _SURROGATE_PAIR.sub(lambda pair: bytes.fromhex(pair[1] + pair[2]).decode("utf-16-be"), text)
    try:
        _check_limits(text)
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f" in its line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise FrontmatterError(f"not valid YAML{line}: {error.problem or 'cannot be parsed'}") from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise FrontmatterError("not valid YAML: it contains characters that YAML does not allow") from error
    value = None if node is None else _value(node)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FrontmatterError("not a mapping of keys to values")
    return value


def _check_limits(text: str) -> None:
    """Walks the parser's events, whose cost is bounded by the text, before anything is built or recursed into."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise FrontmatterError("YAML aliases are not allowed")
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            depth += isinstance(event, yaml.CollectionStartEvent)
            if getattr(event, "tag", None) is not None:
                raise FrontmatterError("YAML tags are not allowed")
        if depth > MAX_DEPTH:
            raise FrontmatterError(f"nested more than {MAX_DEPTH} levels deep")
        if nodes > MAX_NODES:
            raise FrontmatterError(f"more than {MAX_NODES} values")


def _value(node: yaml.Node) -> Value:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, yaml.ScalarNode) and node.style in _QUOTES:
        return str(node.value)
    return _plain(str(node.value))


def _mapping(node: yaml.MappingNode) -> dict[str, Value]:
    mapping: dict[str, Value] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise FrontmatterError("a key is not a plain text")
        if key.value in mapping:
            raise FrontmatterError(f"the key {key.value[:64]!r} appears twice")
        mapping[key.value] = _value(value)
    return mapping


def _plain(text: str) -> bool | int | float | str | None:
    if text in _PLAIN:
        return _PLAIN[text]
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    if match[2] is None:
        number: int | float = int(text)
        exact = abs(number) <= _MAX_SAFE_INTEGER and str(number) == text
    else:
        number = float(text)
        exact = math.isfinite(number) and repr(number) == text
    return number if exact else text
