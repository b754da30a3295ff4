"""The tree of errors drawn in `clasper.core.errors` is the tree of its classes, with their statuses."""

from __future__ import annotations

import inspect
import re
from collections import Counter

from clasper.core import errors
from clasper.core.errors import ClasperError
from clasper.core.http import ErrorBody, error_body

LINE = re.compile(r"^(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: (?P<status>\d{3}))?(?: {2,}.*)?$")
DEFINED = {
    kind.__name__: kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ClasperError) and kind.__module__ == errors.__name__
}


def drawn() -> list[tuple[str, str, int]]:
    """Each class of the drawing with its parent's name and its status, which children inherit."""
    found: list[tuple[str, str, int]] = []
    above: dict[int, tuple[str, int]] = {-1: ("Exception", 500)}
    for line in (errors.__doc__ or "").splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        depth = len(match["branch"]) // 4
        parent, inherited = above[depth - 1]
        status = int(match["status"] or inherited)
        above[depth] = (match["name"], status)
        found.append((match["name"], parent, status))
    return found


def test_the_drawing_is_complete() -> None:
    assert sorted(name for name, _, _ in drawn()) == sorted(DEFINED)


def test_parents_and_statuses_are_as_drawn() -> None:
    actual = {(name, kind.__base__.__name__, kind.status) for name, kind in DEFINED.items() if kind.__base__}
    assert set(drawn()) == actual


def test_codes_are_the_callers_only_names() -> None:
    codes = Counter(kind.code for kind in DEFINED.values())
    assert [code for code, times in codes.items() if times > 1] == []
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_every_error_has_a_sentence_for_people() -> None:
    for kind in DEFINED.values():
        body = error_body(kind())
        assert body == ErrorBody(error=kind.default_message, code=kind.code, details={})
        assert body.error[0].isupper()
