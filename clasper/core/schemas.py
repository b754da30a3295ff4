"""What the API takes and shows, declared once: frozen msgspec Structs.

A field's type says what it may hold, `Meta` explains it, and a `Codec` says how it is written in JSON when that is not
how it is kept. From this follow reading (`clasper.core.validation`), rendering (`render`) and the OpenAPI document
(`clasper.openapi`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import cache, partial
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Union, get_args, get_origin

import msgspec

from clasper.core.clock import iso, parse_iso
from clasper.core.money import MAX_AMOUNT, NANO_PER_USD, NanoUSD, from_usd, usd

Errors = dict[str, list[str]]
"""What is wrong with an input, by field; `""` for the input as a whole."""

Render = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How a field is written in JSON, as the type `json`.

    `read` is for top-level fields only; it raises ValueError with a sentence for each thing that is wrong.
    """

    read: Callable[[Any], Any]
    write: Render = str
    json: Any = str


def about(description: str | None = None, *, example: Any = msgspec.UNSET, **limits: Any) -> msgspec.Meta:
    """What the API's description says of a field, and limits as in `msgspec.Meta`."""
    return msgspec.Meta(description=description, examples=None if example is msgspec.UNSET else [example], **limits)


class Internal:
    """Marks a field that is not shown."""


INTERNAL: Final = Internal()


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON body. Subclasses may say that unknown fields are ignored: `forbid_unknown_fields=False`."""

    aliases: ClassVar[Mapping[str, str]] = {}
    """Other names of fields; the field's own name counts when both are given."""

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        """What types cannot say. `values` are the fields that could be read and defaults; `given` is what was sent."""
        return {}


class Query(Input, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The parameters of a query string: numbers and booleans are read from their texts."""

    ignore_blank: ClassVar[bool] = False
    """Whether a parameter without a value counts as left out."""


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """What the API shows; services may return it. A field is always present unless its default is UNSET."""


# --- Types of fields -------------------------------------------------------------------------------------------------


def _read_instant(value: Any, *, last: bool = False) -> datetime:
    try:
        return parse_iso(value, last=last)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("Write an ISO 8601 time such as 2026-02-01T19:30:00.000Z.") from None


def read_money(value: Any) -> NanoUSD:
    """Nano-USD of a JSON number or a numeric text of dollars. Raises ValueError."""
    try:
        amount = Decimal("nan" if isinstance(value, bool) else str(value))
    except (InvalidOperation, ValueError):
        amount = Decimal("nan")
    # Checked before any arithmetic: 1e999999 would fill the memory with digits.
    if not amount.is_finite() or not 0 <= amount <= MAX_AMOUNT // NANO_PER_USD:
        raise ValueError(f"Must be an amount from 0 to {MAX_AMOUNT // NANO_PER_USD} USD.")
    return from_usd(amount)


_DATE_TIME = Annotated[str, about(example="2026-02-01T19:30:00.000Z", extra_json_schema={"format": "date-time"})]
Instant = Annotated[datetime, Codec(read=_read_instant, write=iso, json=_DATE_TIME)]
"""ISO 8601, UTC unless it says otherwise. A bare date means its first instant; shown with milliseconds and `Z`."""

LastInstant = Annotated[datetime, Codec(read=partial(_read_instant, last=True), write=iso, json=_DATE_TIME)]
"""As Instant, but a bare date means its last instant."""

Money = Annotated[NanoUSD, Codec(read=read_money, write=usd, json=Annotated[float, about(example=0.0485)])]
"""Nano-USD, shown as a JSON number of dollars; read from a number or a numeric text, exactly."""

TenantId = Annotated[str, about(example="acme", min_length=1, max_length=128)]
OneTenantId = Annotated[TenantId, about("Needed with the platform key; a tenant's key means its own.")]
AnyTenantId = Annotated[TenantId | None, about("Default: every tenant that the caller may see; with a key, its own.")]
TraceId = Annotated[str, about(example="0194c8f0-7e1a-7000-8000-000000000001", extra_json_schema={"format": "uuid"})]
Count = Annotated[int, about(example=12, ge=0)]


# --- Types, taken apart ----------------------------------------------------------------------------------------------


def metadata_of(kind: Any) -> tuple[Any, ...]:
    """The annotations of a type itself, not those of its union's members."""
    return getattr(kind, "__metadata__", ()) if get_origin(kind) is Annotated else ()


def members_of(kind: Any) -> Iterator[Any]:
    """The members of a union, or the type alone; annotations stay on members and are looked through outside."""
    if get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from members_of(member)
    elif get_origin(kind) is Annotated and get_origin(get_args(kind)[0]) in (Union, UnionType):
        yield from members_of(get_args(kind)[0])
    else:
        yield kind


def codec_of(kind: Any) -> Codec | None:
    """The codec of a type or of a member of its union."""
    parts = (kind, *members_of(kind))
    return next((each for part in parts for each in metadata_of(part) if isinstance(each, Codec)), None)


def bare(kind: Any) -> Any:
    """The type without its annotations."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def is_mapping(kind: Any) -> bool:
    """Whether a type is a mapping with declared keys and values."""
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def item_of(kind: Any) -> Any:
    """The type of a collection's items, or of a mapping's values; None for any other type."""
    if not isinstance(get_origin(kind), type):
        return None
    return get_args(kind)[1 if is_mapping(kind) else 0]


def shown_fields(kind: type[msgspec.Struct]) -> list[msgspec.structs.FieldInfo]:
    """The fields of a Struct that callers see."""
    return [each for each in msgspec.structs.fields(kind) if INTERNAL not in metadata_of(each.type)]


def is_struct(kind: Any) -> bool:
    """Whether a type is a Struct class."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


# --- Rendering -------------------------------------------------------------------------------------------------------


def render(value: Any) -> Any:
    """A Struct as JSON values: money in dollars, instants in ISO 8601, UNSET fields left out. Other values are kept."""
    return _struct_renderer(type(value))(value) if isinstance(value, msgspec.Struct) else value


@cache
def _struct_renderer(kind: type[msgspec.Struct]) -> Render:
    fields = msgspec.structs.fields(kind)
    written = [(each.encode_name, one) for each in fields if (one := _renderer(each.type)) is not None]
    optional = [each.encode_name for each in fields if each.default is msgspec.UNSET]
    internal = {each.encode_name for each in fields} - {each.encode_name for each in shown_fields(kind)}

    def shown(value: Any) -> dict[str, Any]:
        found = dict(zip(kind.__struct_encode_fields__, msgspec.structs.astuple(value), strict=True))
        for name in optional:
            if found[name] is msgspec.UNSET:
                del found[name]
        for name, one in written:
            if found.get(name) is not None:
                found[name] = one(found[name])
        for name in internal:
            del found[name]
        return found

    return shown


def _renderer(kind: Any) -> Render | None:
    """How values of a type are shown; None when they are shown as they are."""
    if (codec := codec_of(kind)) is not None:
        return codec.write
    kinds = [bare(each) for each in members_of(kind)]
    if any(is_struct(each) for each in kinds):
        return render
    if datetime in kinds:
        return iso
    for each in kinds:
        if (item := item_of(each)) is not None and (one := _renderer(item)) is not None:
            return partial(_render_values if is_mapping(each) else _render_items, one)
    return None


def _render_values(one: Render, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one(value) for name, value in values.items()}


def _render_items(one: Render, values: Iterable[Any]) -> list[Any]:
    return [one(value) for value in values]
