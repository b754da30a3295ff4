"""GET /traces/export: a stream of rows, as CSV for spreadsheets or as NDJSON for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from msgspec import Meta
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.identity.api import principal_of, read_query
from apps.identity.domain.permissions import TRACES_READ
from apps.traces.api.inputs import FilterInput
from apps.traces.domain.views import ExportedTrace
from apps.traces.services.exporting import PARTS, export_batches, record_export
from clasper.core.clock import utc_now
from clasper.core.export import csv_text, streamed
from clasper.core.http import operation
from clasper.core.money import NANO_PER_USD
from clasper.core.schemas import Errors, about, render

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}

COLUMNS = (
    *("id", "tenant_id", "agent_id", "status", "start_time", "end_time", "duration_ms", "total_tokens", "total_cost"),
    *("labels", "workspace_id", "environment", "user_id", "kind", "provider", "model", "error_code", "risk_score"),
    *("risk_level", "estimated"),
)

_json = msgspec.json.Encoder().encode


class ExportInput(FilterInput, frozen=True, kw_only=True):
    """The filters of the list, the format, and what is exported in addition to the rows."""

    format: Annotated[Literal["csv", "ndjson"], about(example="csv")]
    include: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        about(f"With ndjson: {', '.join(PARTS)}, separated by commas."),
    ] = None

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        errors = super().cross_field_errors(values, given)
        parts = _parts(values.get("include"))
        if unknown := sorted(set(parts) - set(PARTS)):
            errors["include"] = [f"Unknown: {', '.join(unknown)}. Allowed: {', '.join(PARTS)}."]
        elif parts and values.get("format") == "csv":
            errors["include"] = ["CSV rows cannot contain this; export as ndjson."]
        return errors


class TraceExportView(APIView):
    """`GET /traces/export`"""

    required_scopes = {"GET": TRACES_READ}
    http_method_names = ["get"]  # HEAD would audit an export of which nothing is sent

    @operation(
        "traces_export",
        query=ExportInput,
        response={(200, "text/csv"): OpenApiTypes.STR, (200, "application/x-ndjson"): ExportedTrace},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """All runs that match, newest first, as a stream. Texts are exported only with `include=content`; audited."""
        tenants, query = read_query(ExportInput, request)
        filters, file_format, parts = query.filters(tenants), query.format, _parts(query.include)
        record_export(
            filters=filters, file_format=file_format, parts=parts, actor=principal_of(request).actor, now=utc_now()
        )
        batches = export_batches(filters=filters, parts=parts)
        return StreamingHttpResponse(
            streamed(_csv(batches) if file_format == "csv" else _ndjson(batches)),
            content_type=MEDIA_TYPES[file_format],
            headers={
                "Content-Disposition": f'attachment; filename="traces.{file_format}"',
                "Cache-Control": "no-store",
            },
        )


def _ndjson(batches: Iterator[list[ExportedTrace]]) -> Iterator[bytes]:
    for batch in batches:
        yield b"".join(_json(render(run)) + b"\n" for run in batch)


def _csv(batches: Iterator[list[ExportedTrace]]) -> Iterator[bytes]:
    yield csv_text([COLUMNS])
    for batch in batches:
        yield csv_text(_cells(run) for run in batch)


def _cells(run: ExportedTrace) -> list[Any]:
    shown = render(run)
    dollars, rest = divmod(run.cost, NANO_PER_USD)
    shown |= {"total_cost": f"{dollars}.{rest:09d}", "labels": _json(shown["labels"]).decode()}
    return [shown[name] for name in COLUMNS]


def _parts(include: str | None) -> tuple[str, ...]:
    return tuple(part for each in (include or "").split(",") if (part := each.strip()))
