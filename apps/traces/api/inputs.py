"""What the doors of traces take: the filters of lists and exports, and where a page begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers

from apps.governance.api.legacy import USDField
from apps.traces.domain.filters import Filters
from apps.traces.domain.record import STATUSES
from apps.traces.services.reading import read_cursor
from clasper.core.inputs import END_BEFORE_START, CursorField, Input, InstantField, OneOfField
from clasper.core.money import from_usd
from clasper.core.tenancy import TenantScope

RISK_LEVELS = ("low", "medium", "high", "critical")
MAX_OFFSET = 10_000
"""Where exact counting stops too; a cursor leads further."""


class FilterInput(Input):
    """Filters of lists and exports; all of them narrow."""

    tenant_id = serializers.CharField(required=False, max_length=128)
    agent_id = serializers.CharField(required=False, max_length=64, help_text="The role. `agent_role` is the same.")
    status = OneOfField(required=False, choices=STATUSES)
    model = serializers.CharField(required=False, max_length=160, help_text="A name, or provider/name.")
    workspace_id = serializers.CharField(required=False, max_length=64)
    environment = serializers.CharField(required=False, max_length=64)
    user_id = serializers.CharField(required=False, max_length=128)
    kind = serializers.CharField(required=False, max_length=16, help_text="`send`, `stream`, `llm_task`, ...")
    risk = OneOfField(required=False, choices=RISK_LEVELS, help_text="`risk_level` is the same.")
    min_cost = USDField(required=False, help_text="At least this many USD.")
    max_cost = USDField(required=False, help_text="At most this many USD.")
    label = serializers.CharField(required=False, max_length=64, trim_whitespace=False)  # type: ignore[assignment]  # a filter, not a caption
    label_value = serializers.CharField(required=False, max_length=256, allow_blank=True, trim_whitespace=False)
    replay_of = serializers.UUIDField(required=False, help_text="Repetitions of this trace.")
    text = serializers.CharField(
        required=False, max_length=200, help_text="An exact id, or words in the texts of the newest 10,000 runs."
    )
    start_date = InstantField(required=False, help_text="Began not before. `start_time` is the same.")
    end_date = InstantField(required=False, last=True, help_text="Began not after. `end_time` is the same.")

    aliases = {
        "agent_role": "agent_id",
        "risk_level": "risk",
        "start_time": "start_date",
        "end_time": "end_date",
    }

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        faults: dict[str, list[str]] = {}
        if "label_value" in given and "label" not in given:
            faults["label_value"] = ["label_value needs label."]
        faults |= order_faults(values)
        if _is_less(values, "max_cost", "min_cost"):
            faults["max_cost"] = ["The most is less than the least."]
        return faults


class ListInput(FilterInput):
    """The filters, and which page of what they leave."""

    limit = serializers.IntegerField(required=False, min_value=1, max_value=100, default=50)
    offset = serializers.IntegerField(required=False, min_value=0, max_value=MAX_OFFSET, default=0)
    cursor = CursorField(
        read=read_cursor,
        required=False,
        help_text="The next_cursor of the page before; reaches further than offset.",
    )

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        faults = dict(super().rule_faults(values, given))
        if "cursor" in given and values.get("offset"):
            faults["offset"] = ["Give either a cursor or an offset."]
        return faults


class PageInput(Input):
    """A tenant and which page, for the shorter lists."""

    tenant_id = serializers.CharField(required=False, max_length=128)
    limit = serializers.IntegerField(required=False, min_value=1, max_value=500, default=100)
    cursor = CursorField(read=read_cursor, required=False, help_text="The next_cursor of the page before.")


def filters_of(tenants: TenantScope, query: Mapping[str, Any]) -> Filters:
    """The filters of a validated FilterInput."""
    texts = ("status", "agent_id", "model", "workspace_id", "environment", "user_id", "kind", "label", "text")
    return Filters(
        tenants=tenants,
        risk_level=query.get("risk", ""),
        replay_of=str(query.get("replay_of", "")),
        label_value=query.get("label_value"),
        start=query.get("start_date"),
        end=query.get("end_date"),
        min_cost=from_usd(query["min_cost"]) if "min_cost" in query else None,
        max_cost=from_usd(query["max_cost"]) if "max_cost" in query else None,
        **{name: query.get(name, "") for name in texts},
    )


def order_faults(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is wrong with a range of `start_date` and `end_date`."""
    return {"end_date": [END_BEFORE_START]} if _is_less(values, "end_date", "start_date") else {}


def _is_less(values: Mapping[str, Any], high: str, low: str) -> bool:
    return high in values and low in values and bool(values[high] < values[low])
