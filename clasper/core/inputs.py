"""What the doors share of reading queries and bodies: every fault at once, and fields that more than one app takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.fields import SkipField

from clasper.core.clock import iso, parse_iso

END_BEFORE_START = "The end is before the start."


class Input(serializers.Serializer[Any]):
    """A query or a body whose faults are all reported at once, those between fields too."""

    aliases: ClassVar[Mapping[str, str]] = {}
    """Other names of fields; the first one counts when both are given."""

    closed: ClassVar[bool] = False
    """Whether a name that is no field is a fault: for bodies of which nothing may be lost to a typing error."""

    def to_internal_value(self, data: Mapping[str, Any]) -> dict[str, Any]:
        given = {**{name: data[alias] for alias, name in self.aliases.items() if alias in data}, **dict(data.items())}
        values: dict[str, Any] = {}
        faults: dict[str, Any] = {}
        for name, field in self.fields.items():
            try:
                values[name] = field.run_validation(field.get_value(given))
            except serializers.ValidationError as error:
                faults[name] = error.detail
            except SkipField:
                pass
        for name, texts in self.rule_faults(values, given).items():
            faults.setdefault(name, texts)
        if self.closed:
            unknown = given.keys() - self.fields.keys() - self.aliases.keys()
            faults |= {name: [f"There is no such field; there are {', '.join(self.fields)}."] for name in unknown}
        if faults:
            raise serializers.ValidationError(faults)
        return values

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        """What is wrong between fields; `values` are those that could be read, `given` what was sent."""
        return {}


def validated(kind: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """The values of a query or body. Raises ValidationError with all faults."""
    read = kind(data=data)
    read.is_valid(raise_exception=True)
    return dict(read.validated_data)


@extend_schema_field(OpenApiTypes.DATETIME)
class InstantField(serializers.Field[datetime, str, str, Any]):
    """An ISO 8601 instant, UTC unless it says so. A bare date means its first instant, or its last with `last`."""

    default_error_messages = {"invalid": "Write an ISO 8601 time such as 2026-02-01T19:30:00.000Z."}

    def __init__(self, *, last: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._last = last

    def to_internal_value(self, data: str) -> datetime:
        try:
            return parse_iso(data, last=self._last)
        except (ValueError, OverflowError):
            self.fail("invalid")

    def to_representation(self, value: datetime) -> str:
        return iso(value)


@extend_schema_field(OpenApiTypes.STR)
class CursorField(serializers.Field[Any, str, str, Any]):
    """The `next_cursor` of the page before; `read` raises ValueError for what its list did not give."""

    default_error_messages = {"invalid": "Not a cursor of this list."}

    def __init__(self, *, read: Callable[[str], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._read = read

    def to_internal_value(self, data: str) -> Any:
        try:
            return self._read(data)
        except ValueError:
            self.fail("invalid")


class OneOfField(serializers.ChoiceField):
    """One of the choices; what is none of them is told which there are."""

    def __init__(self, choices: Sequence[str], **kwargs: Any) -> None:
        super().__init__(choices, **kwargs)
        self.error_messages["invalid_choice"] = f"Choose one of {', '.join(choices)}."


class NumberField(serializers.FloatField):
    """A number; booleans and NaN are none."""

    def to_internal_value(self, data: Any) -> float:
        value = super().to_internal_value(data)
        if isinstance(data, bool) or math.isnan(value):
            self.fail("invalid")
        return value
