"""Doors of traces: the list, one trace, the sums, in the shapes of the API reference."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.governance.api import tenant_of
from apps.governance.domain.permissions import TRACES_READ
from apps.traces.domain.record import STATUSES
from apps.traces.domain.views import StepView, TraceDetail, TraceSummary
from apps.traces.services.reading import get_trace, list_traces, trace_stats
from clasper.core.clock import iso
from clasper.core.money import usd


class TraceQuery(serializers.Serializer[Any]):
    """Filters of the list; all of them narrow."""

    tenant_id = serializers.CharField(required=False, max_length=128)
    agent_id = serializers.CharField(required=False, max_length=64)
    agent_role = serializers.CharField(required=False, max_length=64, help_text="Alias of agent_id.")
    status = serializers.ChoiceField(required=False, choices=STATUSES)
    model = serializers.CharField(required=False, max_length=160)
    workspace_id = serializers.CharField(required=False, max_length=64)
    environment = serializers.CharField(required=False, max_length=64)
    label = serializers.CharField(required=False, max_length=64)  # type: ignore[assignment]  # a filter, not a caption
    label_value = serializers.CharField(required=False, max_length=256, allow_blank=True)
    start_date = serializers.DateTimeField(required=False, default_timezone=UTC)
    end_date = serializers.DateTimeField(required=False, default_timezone=UTC)
    limit = serializers.IntegerField(required=False, min_value=1, max_value=100, default=50)
    offset = serializers.IntegerField(required=False, min_value=0, max_value=1_000_000, default=0)
    cursor = serializers.CharField(required=False, max_length=200)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        faults = {}
        if "label_value" in attrs and "label" not in attrs:
            faults["label_value"] = ["label_value needs label."]
        if "start_date" in attrs and "end_date" in attrs and attrs["end_date"] < attrs["start_date"]:
            faults["end_date"] = ["The end is before the start."]
        if faults:
            raise serializers.ValidationError(faults)
        return attrs


class StatsQuery(serializers.Serializer[Any]):
    """Tenant and days of the sums."""

    tenant_id = serializers.CharField(required=False, max_length=128)
    start_date = serializers.DateTimeField(required=False, default_timezone=UTC)
    end_date = serializers.DateTimeField(required=False, default_timezone=UTC)


class TraceListView(APIView):
    """`GET /traces`"""

    required_scopes = {"GET": TRACES_READ}

    @extend_schema(operation_id="traces_list", parameters=[TraceQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """Runs, newest first. `next_cursor` leads to the next page and is stable while runs are added."""
        query = _validated(TraceQuery, request)
        limit, offset = query["limit"], query["offset"]
        page = list_traces(
            tenant_id=tenant_of(request, query.get("tenant_id")),
            agent_id=query.get("agent_id") or query.get("agent_role", ""),
            label_value=query.get("label_value"),
            start=query.get("start_date"),
            end=query.get("end_date"),
            limit=limit,
            offset=offset,
            cursor=query.get("cursor", ""),
            **{name: query.get(name, "") for name in ("status", "model", "workspace_id", "environment", "label")},
        )
        body = {
            "traces": [summary_json(trace) for trace in page.traces],
            "total": page.total,
            "total_is_exact": page.total_is_exact,
            "limit": limit,
            "offset": offset,
            "next_cursor": page.next_cursor or None,
        }
        return Response(body)


class TraceDetailView(APIView):
    """`GET /traces/{id}`"""

    required_scopes = {"GET": TRACES_READ}

    @extend_schema(operation_id="traces_read", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, trace_id: str) -> Response:
        """One run with its steps and redacted texts."""
        tenant_id = tenant_of(request, None)
        return Response(detail_json(get_trace(tenant_id=tenant_id, trace_id=trace_id)))


class TraceStatsView(APIView):
    """`GET /traces/stats`"""

    required_scopes = {"GET": TRACES_READ}

    @extend_schema(operation_id="traces_stats", parameters=[StatsQuery], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """Sums over ended runs, by whole UTC days."""
        query = _validated(StatsQuery, request)
        tenant_id = tenant_of(request, query.get("tenant_id"))
        stats = trace_stats(tenant_id=tenant_id, start=query.get("start_date"), end=query.get("end_date"))
        by_status = {"success": 0, "error": 0, "timeout": 0, **stats.by_status}
        ended_badly = stats.total - by_status["success"]
        body = {
            "total_traces": stats.total,
            "traces_by_status": by_status,
            "avg_duration_ms": round(stats.duration_ms / stats.total) if stats.total else 0,
            "total_tokens": stats.tokens,
            "total_cost": usd(stats.cost),
            "error_rate": ended_badly / stats.total if stats.total else 0,
        }
        return Response(body)


def summary_json(trace: TraceSummary) -> dict[str, Any]:
    """One row of the list: the reference's keys, then ours."""
    return {
        "id": trace.id,
        "tenant_id": trace.tenant_id,
        "agent_id": trace.agent_id,
        "status": trace.status,
        "start_time": iso(trace.started_at),
        "end_time": iso(trace.ended_at) if trace.ended_at else None,
        "duration_ms": trace.duration_ms,
        "total_tokens": trace.prompt_tokens + trace.completion_tokens,
        "total_cost": usd(trace.cost),
        "labels": dict(trace.labels),
        "workspace_id": trace.workspace_id,
        "environment": trace.environment,
        "user_id": trace.user_id,
        "kind": trace.kind,
        "provider": trace.provider,
        "model": trace.model,
        "error_code": trace.error_code or None,
        "risk_score": trace.risk_score,
        "risk_level": trace.risk_level,
        "estimated": trace.estimated,
    }


def detail_json(trace: TraceDetail) -> dict[str, Any]:
    """The whole trace: the reference's keys, then ours."""
    summary = trace.summary
    row = summary_json(summary)
    return {
        **row,
        "workspace_hash": trace.workspace_hash,
        "skill_versions": dict(trace.skill_versions),
        "task_id": trace.task_id or None,
        "document_id": trace.document_id or None,
        "message_id": trace.message_id or None,
        "steps": [step_json(step) for step in trace.steps],
        "usage": {
            "prompt_tokens": summary.prompt_tokens,
            "completion_tokens": summary.completion_tokens,
            "total_tokens": summary.prompt_tokens + summary.completion_tokens,
            "cached_tokens": trace.cached_tokens,
            "cache_write_tokens": trace.cache_write_tokens,
            "reasoning_tokens": trace.reasoning_tokens,
        },
        "cost": {
            "model": summary.model,
            "totalCost": usd(summary.cost),
            "currency": "USD",
            "priceVersion": trace.price_version,
        },
        "error": trace.error or None,
        "risk": {"score": summary.risk_score, "level": summary.risk_level, "factors": dict(trace.risk_factors)},
        "redactions": trace.redactions,
        "input": trace.input,
        "output": trace.output,
    }


def step_json(step: StepView) -> dict[str, Any]:
    """A step in the reference's flat shape: a tool call and its result are one record."""
    common = {
        "seq": step.seq,
        "type": step.type,
        "status": step.status,
        "code": step.code or None,
        "duration_ms": step.duration_ms,
        "timestamp": iso(step.started_at),
    }
    if step.type == "llm_call":
        return {
            **common,
            "model": step.name,
            "provider": step.provider,
            "attempt": step.attempt,
            "prompt_tokens": step.prompt_tokens,
            "completion_tokens": step.completion_tokens,
            "cost": usd(step.cost),
            "output": step.output,
        }
    if step.type == "tool_call":
        permitted = step.status != "denied"
        return {
            **common,
            "tool_name": step.name,
            "input": step.input,
            "output": step.output,
            "permitted": permitted,
            "success": step.status == "ok",
        }
    return {**common, "name": step.name, "output": step.output}


def _validated(kind: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    query = kind(data=request.query_params)
    query.is_valid(raise_exception=True)
    return dict(query.validated_data)
