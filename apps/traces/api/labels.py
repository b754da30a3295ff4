"""POST /traces/{id}/label and GET /traces/by-label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import Meta
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import principal_of, read_body, read_query
from apps.identity.domain.permissions import TRACES_READ, TRACES_WRITE
from apps.traces.api.inputs import PageInput
from apps.traces.domain.filters import Filters
from apps.traces.domain.views import Labels
from apps.traces.services.labels import MAX_KEY, MAX_VALUE, label_trace
from apps.traces.services.reading import list_traces
from clasper.core.clock import utc_now
from clasper.core.http import operation
from clasper.core.schemas import Count, Input, Resource, TraceId, about

Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
Value = Annotated[str, Meta(max_length=MAX_VALUE)]


class LabelsInput(Input, frozen=True, kw_only=True):
    """Labels to set; null or "" removes one."""

    labels: Annotated[
        dict[Key, Value | None],
        about(f"Keys of 1 to {MAX_KEY} characters; values of at most {MAX_VALUE}, or null.", example={"team": "blue"}),
    ]


class LabelQuery(PageInput, frozen=True, kw_only=True):
    """A label, with a value or with any."""

    label: Annotated[Key, about("`label_key` is the same.", example="team")]
    value: Annotated[Value | None, about("Any, when left out. `label_value` is the same.")] = None

    aliases: ClassVar[Mapping[str, str]] = {"label_key": "label", "label_value": "value"}


class LabelAnswer(Resource, frozen=True, kw_only=True):
    """All labels of the run."""

    status: Literal["ok"] = "ok"
    trace_id: TraceId
    labels: Labels


class TraceIdPage(Resource, frozen=True, kw_only=True):
    """A page of ids of runs, newest first."""

    traces: tuple[TraceId, ...]
    total: Count
    total_is_exact: bool
    limit: Count
    next_cursor: Annotated[str | None, about(example=None)]


class TraceLabelView(APIView):
    """`POST /traces/{id}/label`"""

    required_scopes = {"POST": TRACES_WRITE}

    @operation("traces_label", body=LabelsInput, response=LabelAnswer)
    def post(self, request: Request, trace_id: str) -> Response:
        """Add, change or remove labels; the others stay. Returns all labels of the run."""
        tenants, body = read_body(LabelsInput, request)
        labels = label_trace(
            tenants=tenants, trace_id=trace_id, changes=body.labels, actor=principal_of(request).actor, now=utc_now()
        )
        return Response(LabelAnswer(trace_id=trace_id.lower(), labels=labels))


class TraceByLabelView(APIView):
    """`GET /traces/by-label`"""

    required_scopes = {"GET": TRACES_READ}

    @operation("traces_by_label", query=LabelQuery, response=TraceIdPage)
    def get(self, request: Request) -> Response:
        """Ids of the runs that carry a label, newest first."""
        tenants, query = read_query(LabelQuery, request)
        filters = Filters(tenants=tenants, label=query.label, label_value=query.value)
        page = list_traces(filters=filters, limit=query.limit, after=query.cursor)
        return Response(
            TraceIdPage(
                traces=tuple(trace.id for trace in page.traces),
                total=page.total,
                total_is_exact=page.total_is_exact,
                limit=page.limit,
                next_cursor=page.next_cursor,
            )
        )
