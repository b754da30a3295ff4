"""What the endpoints of traces take: the filters of lists and exports, and where a page begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from uuid import UUID

from msgspec import Meta

from apps.governance.domain.risk import Level
from apps.identity.api import TenantQuery
from apps.traces.domain.filters import Filters
from apps.traces.domain.record import Status
from apps.traces.queries import CursorKey
from apps.traces.services.reading import read_cursor
from clasper.core.schemas import Codec, Errors, Instant, LastInstant, Money, about
from clasper.core.tenancy import TenantScope

MAX_OFFSET = 10_000
"""Where exact counting stops too; a cursor leads further."""

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Id = Annotated[str, Meta(min_length=1, max_length=128)]
Cursor = Annotated[CursorKey | None, Codec(read=read_cursor), about("The next_cursor of the previous page.")]


class DaysQuery(TenantQuery, frozen=True, kw_only=True):
    """A tenant and a range of time."""

    start_date: Annotated[Instant | None, about("Began at this time or later. `start_time` is the same.")] = None
    end_date: Annotated[LastInstant | None, about("Began at this time or earlier. `end_time` is the same.")] = None

    aliases: ClassVar[Mapping[str, str]] = {"start_time": "start_date", "end_time": "end_date"}

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        ends_first = _is_less(values, "end_date", "start_date")
        return {"end_date": ["The end must not be before the start."]} if ends_first else {}


class FilterInput(DaysQuery, frozen=True, kw_only=True):
    """Filters of lists and exports; all of them narrow."""

    agent_id: Annotated[Name | None, about("The role. `agent_role` is the same.")] = None
    status: Status | None = None
    model: Annotated[Annotated[str, Meta(min_length=1, max_length=160)] | None, about("A name, or provider/name.")] = (
        None
    )
    workspace_id: Name | None = None
    environment: Name | None = None
    user_id: Id | None = None
    kind: Annotated[
        Annotated[str, Meta(min_length=1, max_length=16)] | None, about("`send`, `stream`, `llm_task`, …")
    ] = None
    risk: Annotated[Level | None, about("`risk_level` is the same.")] = None
    min_cost: Annotated[Money | None, about("At least this many USD.")] = None
    max_cost: Annotated[Money | None, about("At most this many USD.")] = None
    label: Name | None = None
    label_value: Annotated[Annotated[str, Meta(max_length=256)] | None, about("Default: any.")] = None
    replay_of: Annotated[UUID | None, about("Repetitions of this trace.")] = None
    text: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)] | None,
        about("An exact id, or words in the texts of the newest 10,000 runs."),
    ] = None

    aliases: ClassVar[Mapping[str, str]] = {**DaysQuery.aliases, "agent_role": "agent_id", "risk_level": "risk"}

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        errors = super().cross_field_errors(values, given)
        if "label_value" in given and "label" not in given:
            errors["label_value"] = ["label_value needs label."]
        if _is_less(values, "max_cost", "min_cost"):
            errors["max_cost"] = ["max_cost must not be below min_cost."]
        return errors

    def filters(self, tenants: TenantScope) -> Filters:
        """The filters, for the services."""
        texts = ("status", "agent_id", "model", "workspace_id", "environment", "user_id", "kind", "label", "text")
        return Filters(
            tenants=tenants,
            risk_level=self.risk or "",
            replay_of=str(self.replay_of or ""),
            label_value=self.label_value,
            start=self.start_date,
            end=self.end_date,
            min_cost=self.min_cost,
            max_cost=self.max_cost,
            **{name: getattr(self, name) or "" for name in texts},
        )


class ListInput(FilterInput, frozen=True, kw_only=True):
    """The filters, and which page of what they leave."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 50
    offset: Annotated[int, Meta(ge=0, le=MAX_OFFSET)] = 0
    cursor: Annotated[Cursor, about("The next_cursor of the previous page; reaches further than offset.")] = None

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        errors = super().cross_field_errors(values, given)
        if "cursor" in given and values.get("offset"):
            errors["offset"] = ["Use either cursor or offset."]
        return errors


class PageInput(TenantQuery, frozen=True, kw_only=True):
    """A tenant and which page, for the shorter lists."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    cursor: Cursor = None


def _is_less(values: Mapping[str, Any], high: str, low: str) -> bool:
    return values.get(high) is not None and values.get(low) is not None and bool(values[high] < values[low])
