"""Whether an answer has the shape of an example: every key of it, and the same JSON types."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "fixtures" / "api"


@dataclass(frozen=True)
class Example:
    """One JSON sample of the API reference or of the contract."""

    endpoint: str
    part: str
    value: Any


def examples(name: str) -> list[Example]:
    """The samples of one file, in the order of the document."""
    rows = json.loads((EXAMPLES / f"{name}.json").read_text())
    return [Example(row["endpoint"], row["part"], row["example"]) for row in rows]


def example(name: str, part: str = "response", number: int = 0) -> Any:
    """The `number`th sample of a part, counted from 0."""
    return [each.value for each in examples(name) if each.part == part][number]


def differences(
    sample: Any, actual: Any, *, data: Collection[str] = (), nullable: Collection[str] = (), path: str = ""
) -> list[str]:
    """How `actual` falls short of `sample`; empty when it has its shape.

    `data` are the paths of objects whose keys are values (labels, counts by status): only their scalars' type is
    compared. `nullable` are the paths that may be null. Further keys are allowed everywhere. `$any` in a sample
    stands for anything.
    """
    if sample == "$any":
        return []
    if actual is None and sample is not None:
        return [] if path in nullable else [f"{path or '.'}: null"]
    if isinstance(sample, dict):
        return _object(sample, actual, data, nullable, path)
    if isinstance(sample, list):
        return _list(sample, actual, data, nullable, path)
    expected = _kind(sample)
    # A sample of 0.5 means a number; a sample of 5 means a whole one.
    if _kind(actual) == expected or (expected == "number" and _kind(actual) == "integer"):
        return []
    return [f"{path or '.'}: {_kind(actual)} instead of {expected}"]


def _object(
    sample: dict[str, Any], actual: Any, data: Collection[str], nullable: Collection[str], path: str
) -> list[str]:
    if not isinstance(actual, dict):
        return [f"{path or '.'}: {_kind(actual)} instead of object"]
    if sample == {"$any": True}:
        return []
    if path in data:
        scalar = next((value for value in sample.values() if not isinstance(value, dict | list)), "$any")
        here = f"{path}.*"
        return [fault for each in actual.values() for fault in differences(scalar, each, nullable=nullable, path=here)]
    found = []
    for key, value in sample.items():
        here = f"{path}.{key}".lstrip(".")
        if key in actual:
            found += differences(value, actual[key], data=data, nullable=nullable, path=here)
        else:
            found.append(f"{here}: missing")
    return found


def _list(sample: list[Any], actual: Any, data: Collection[str], nullable: Collection[str], path: str) -> list[str]:
    """Each kind of element of the sample is there, and no other."""
    if not isinstance(actual, list):
        return [f"{path or '.'}: {_kind(actual)} instead of array"]
    if not sample:
        return []
    if not actual:
        return [f"{path or '.'}: empty, so nothing is shown"]
    rows = [
        [differences(wanted, each, data=data, nullable=nullable, path=f"{path}[]") for each in actual]
        for wanted in sample
    ]
    return [fault for faults in [*rows, *zip(*rows, strict=True)] if all(faults) for fault in _least(faults)]


def _least(faults: Collection[list[str]]) -> list[str]:
    return min(faults, key=lambda each: len(each))


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}
    return kinds.get(type(value), "null")
