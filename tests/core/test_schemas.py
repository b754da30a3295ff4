"""Structs as the only declaration: what is read, with every error at once, and what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest

from clasper.core.errors import InvalidRequest
from clasper.core.money import MAX_AMOUNT, NanoUSD
from clasper.core.schemas import INTERNAL, Errors, Input, Instant, LastInstant, Money, Query, Resource, render
from clasper.core.validation import MAX_KEY_CHARS, MAX_UNKNOWN, read
from tests.bodies import errors_of


class Inner(msgspec.Struct, frozen=True):
    kind: Literal["a", "b"]


class Body(Input, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    least: Money | None = None
    most: Money | None = None
    since: Instant | None = None
    until: LastInstant | None = msgspec.field(default=None, name="untilDate")
    items: list[Inner] = []

    aliases: ClassVar[Mapping[str, str]] = {"title": "name", "end": "untilDate"}

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        least, most = values.get("least"), values.get("most")
        return {"most": ["Must not be below least."]} if least is not None and most is not None and most < least else {}


class Search(Query, frozen=True, kw_only=True):
    text: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] = 10
    deep: bool = False


def test_what_is_read() -> None:
    body = read(Body, {"title": "x", "least": "0.1", "most": 0.3, "since": "2026-02-01", "end": "2026-02-01"})
    assert (body.name, body.least, body.most) == ("x", 100_000_000, 300_000_000)
    assert body.since == datetime(2026, 2, 1, tzinfo=UTC)
    assert body.until == datetime(2026, 2, 1, 23, 59, 59, 999_999, tzinfo=UTC)
    assert read(Body, {"name": "own", "title": "alias"}).name == "own"
    assert read(Body, {"name": "x", "least": None}).least is None


def test_every_error_at_once() -> None:
    given = {"least": 2, "most": 1, "since": "soon", "untilDate": 5, "items": [{"kind": "c"}, {}], "other": 1}
    found = errors_of(Body, given)
    assert found.keys() == {"name", "most", "since", "untilDate", "items", "other"}
    assert found["other"] == ["Unknown field. Allowed: name, least, most, since, untilDate, items."]
    assert [text.partition(":")[0] for text in found["items"]] == ["[0].kind", "[1].kind"]
    assert errors_of(Body, {"name": "x", "least": "x", "most": 1}).keys() == {"least"}


def test_many_unknown_fields_make_a_short_error() -> None:
    exact = {f"k{n:03}": 1 for n in range(MAX_UNKNOWN)}
    assert errors_of(Body, {"name": "x", **exact}).keys() == exact.keys()
    with pytest.raises(InvalidRequest) as caught:
        read(Body, {"name": "x", **{f"k{n:03}": 1 for n in range(1_000)}, "l" * 10_000: 1})
    details = caught.value.details
    assert len(details["fieldErrors"]) == MAX_UNKNOWN
    assert details["formErrors"] == [f"There are {1_001 - MAX_UNKNOWN} more unknown fields."]
    assert errors_of(Body, {"name": "x", "l" * 10_000: 1}).keys() == {"l" * MAX_KEY_CHARS}


class Sized(Input, frozen=True, kw_only=True):
    size: Annotated[int, msgspec.Meta(ge=1)]
    share: float = 0.0


def test_a_whole_number_may_be_written_with_a_fraction_of_zero() -> None:
    assert read(Sized, {"size": 30.0, "share": 1.0}) == Sized(size=30, share=1.0)
    assert type(read(Sized, {"size": 30.0}).size) is int
    assert errors_of(Sized, {"size": 30.5}) == {"size": ["Expected an integer, got a number"]}
    assert errors_of(Sized, {"size": 0.0}).keys() == {"size"}
    assert errors_of(Sized, {"size": True}) == {"size": ["Expected an integer, got a boolean"]}


@pytest.mark.parametrize("amount", [True, "", "x", "NaN", "Infinity", [1], {}, -1e-9, 9_000_000_000.1, "1e999999"])
def test_amounts_that_cannot_be_read(amount: Any) -> None:
    assert errors_of(Body, {"name": "x", "least": amount}).keys() == {"least"}


class Named(Input, frozen=True, kw_only=True):
    labels: dict[Annotated[str, msgspec.Meta(max_length=2)], str | None]


def test_keys_and_values_of_a_mapping_are_checked_one_by_one() -> None:
    assert read(Named, {"labels": {"ab": None}}).labels == {"ab": None}
    assert errors_of(Named, {"labels": {"ab": 1, "abc": "x"}})["labels"] == [
        "['ab']: Expected a string or null, got an integer",
        "['abc']: Expected a string of length <= 2",
    ]


def test_what_only_the_entry_point_knows_is_reported_with_the_rest() -> None:
    found = errors_of(Body, {"least": True}, also={"name": ["Not here."], "items": ["Not now."]})
    assert found["name"] == ["This field is required.", "Not here."]
    assert found.keys() == {"name", "least", "items"}


def test_amounts_at_the_edges() -> None:
    assert read(Body, {"name": "x", "least": 0, "most": 9_000_000_000}).most == MAX_AMOUNT
    assert read(Body, {"name": "x", "most": "1e-999999999"}).most == 0


def test_a_query_is_read_from_texts_and_ignores_what_it_does_not_know() -> None:
    query = read(Search, {"text": "5", "limit": "5", "deep": "true", "other": "x"}, strict=False)
    assert query == Search(text="5", limit=5, deep=True)
    assert errors_of(Search, {"text": "a\x00b", "limit": "0", "deep": "x"}, strict=False).keys() == {
        "text",
        "limit",
        "deep",
    }
    assert errors_of(Search, {"limit": "5"}).keys() == {"limit"}, "a body's number is a number"


@pytest.mark.parametrize("given", [None, [], "text", 1])
def test_what_is_not_an_object(given: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(Body, given)
    assert caught.value.details == {"fieldErrors": {}, "formErrors": ["Expected a JSON object."]}


class Row(Resource, frozen=True, kw_only=True):
    when: datetime
    cost: Money
    left: Money | None
    extra: Money | msgspec.UnsetType = msgspec.UNSET


class Shown(Resource, frozen=True, kw_only=True):
    first_row: Row = msgspec.field(name="firstRow")
    rows: tuple[Row, ...]
    by_name: Mapping[str, Money]
    other: Any = None
    kept: Annotated[int, INTERNAL] = 1


def test_what_is_shown() -> None:
    when = datetime(2026, 2, 1, 20, 30, 0, 1999, tzinfo=timezone(timedelta(hours=1)))
    row = Row(when=when, cost=NanoUSD(48_500_000), left=None)
    plain = {"when": "2026-02-01T19:30:00.001Z", "cost": 0.0485, "left": None}
    shown = Shown(first_row=row, rows=(row,), by_name={"a": NanoUSD(1)}, other={"x": [1]})
    assert render(shown) == {"firstRow": plain, "rows": [plain], "by_name": {"a": 1e-9}, "other": {"x": [1]}}
    assert render(Row(when=when, cost=NanoUSD(0), left=None, extra=NanoUSD(0)))["extra"] == 0.0
    assert render({"not": "a Struct"}) == {"not": "a Struct"}
