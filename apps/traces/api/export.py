"""GET /traces/export: a stream of rows, as CSV for spreadsheets or as NDJSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.identity.api import asked, principal_of
from apps.identity.domain.permissions import TRACES_READ
from apps.traces.api.inputs import FilterInput, filters_of
from apps.traces.api.shapes import step_json, summary_json
from apps.traces.services.exporting import PARTS, Exported, export_batches, record_export
from clasper.core.clock import utc_now
from clasper.core.export import csv_text, streamed
from clasper.core.inputs import OneOfField
from clasper.core.money import NANO_PER_USD

CSV = "csv"
NDJSON = "ndjson"
MEDIA_TYPES = {CSV: "text/csv; charset=utf-8", NDJSON: "application/x-ndjson"}

COLUMNS = (
    *("id", "tenant_id", "agent_id", "status", "start_time", "end_time", "duration_ms", "total_tokens", "total_cost"),
    *("labels", "workspace_id", "environment", "user_id", "kind", "provider", "model", "error_code", "risk_score"),
    *("risk_level", "estimated"),
)

_json = msgspec.json.Encoder().encode


class ExportInput(FilterInput):
    """The filters of the list, the format, and what is exported besides its rows."""

    format = OneOfField(choices=tuple(MEDIA_TYPES))
    include = serializers.CharField(
        required=False, max_length=64, help_text=f"With ndjson: {', '.join(PARTS)}, separated by commas."
    )

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        faults = dict(super().rule_faults(values, given))
        unknown = sorted(set(_parts(values)) - set(PARTS))
        if unknown:
            faults["include"] = [f"Nothing to include is called {', '.join(unknown)}; there are {', '.join(PARTS)}."]
        elif _parts(values) and values.get("format") == CSV:
            faults["include"] = ["A CSV row has no room for this; export as ndjson."]
        return faults


class TraceExportView(APIView):
    """`GET /traces/export`"""

    required_scopes = {"GET": TRACES_READ}
    http_method_names = ["get"]  # HEAD would audit an export of which nothing is sent

    @extend_schema(
        operation_id="traces_export",
        parameters=[ExportInput],
        responses={(200, "text/csv"): OpenApiTypes.STR, (200, "application/x-ndjson"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """All runs that match, newest first, as a stream. Texts are exported only with `include=content`; audited."""
        tenants, query = asked(ExportInput, request)
        filters, file_format, parts = filters_of(tenants, query), query["format"], _parts(query)
        record_export(
            filters=filters, file_format=file_format, parts=parts, actor=principal_of(request).actor, now=utc_now()
        )
        batches = export_batches(filters=filters, parts=parts)
        return StreamingHttpResponse(
            streamed(_csv(batches) if file_format == CSV else _ndjson(batches)),
            content_type=MEDIA_TYPES[file_format],
            headers={
                "Content-Disposition": f'attachment; filename="traces.{file_format}"',
                "Cache-Control": "no-store",
            },
        )


def _ndjson(batches: Iterator[list[Exported]]) -> Iterator[bytes]:
    for batch in batches:
        yield b"".join(_json(_shown(run)) + b"\n" for run in batch)


def _shown(run: Exported) -> dict[str, Any]:
    shown = summary_json(run.summary)
    if run.steps is not None:
        steps = [step_json(step) for step in run.steps]
        shown["steps"] = steps if run.content else [_without_texts(step) for step in steps]
    if run.content:
        shown |= {"input": run.content.input, "output": run.content.output}
    return shown


def _without_texts(step: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in step.items() if name not in ("input", "output")}


def _csv(batches: Iterator[list[Exported]]) -> Iterator[bytes]:
    yield csv_text([COLUMNS])
    for batch in batches:
        yield csv_text(_cells(run) for run in batch)


def _cells(run: Exported) -> list[Any]:
    shown = summary_json(run.summary)
    dollars, rest = divmod(run.summary.cost, NANO_PER_USD)
    shown |= {"total_cost": f"{dollars}.{rest:09d}", "labels": _json(shown["labels"]).decode()}
    return [shown[name] for name in COLUMNS]


def _parts(query: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(part for each in query.get("include", "").split(",") if (part := each.strip()))
