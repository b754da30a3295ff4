"""GET /traces, /traces/{id}, and runs by their links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec.structs import replace
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import principal_of, read_query, tenant_of
from apps.identity.domain.permissions import TRACES_READ
from apps.traces.api.inputs import Id, ListInput, PageInput
from apps.traces.domain.filters import Filters
from apps.traces.domain.views import TraceDetail, TracePage
from apps.traces.queries import LINKS
from apps.traces.services.reading import list_traces, read_trace
from clasper.core.clock import utc_now
from clasper.core.http import operation
from clasper.core.schemas import Errors, about


class EntityInput(PageInput, frozen=True, kw_only=True):
    """What the runs are linked to; several links mean runs that have them all."""

    task_id: Annotated[Id | None, about("Needed unless another link is named.", example="task-1")] = None
    document_id: Id | None = None
    message_id: Id | None = None

    @classmethod
    def cross_field_errors(cls, values: Mapping[str, Any], given: Mapping[str, Any]) -> Errors:
        named = any(name in given for name in LINKS)
        return {} if named else {"task_id": [f"Name one of {', '.join(LINKS)}."]}


class TraceListView(APIView):
    """`GET /traces`"""

    required_scopes = {"GET": TRACES_READ}

    @operation("traces_list", query=ListInput, response=TracePage)
    def get(self, request: Request) -> Response:
        """Runs, newest first. `next_cursor` leads to the next page and is stable while runs are added."""
        tenants, query = read_query(ListInput, request)
        page = list_traces(filters=query.filters(tenants), limit=query.limit, offset=query.offset, after=query.cursor)
        return Response(replace(page, offset=query.offset))


class TraceByEntityView(APIView):
    """`GET /traces/by-entity`"""

    required_scopes = {"GET": TRACES_READ}

    @operation("traces_by_entity", query=EntityInput, response=TracePage)
    def get(self, request: Request) -> Response:
        """Runs that belong to a task, a document or a message, newest first."""
        tenants, query = read_query(EntityInput, request)
        links: dict[str, Any] = {name: getattr(query, name) or "" for name in LINKS}
        filters = Filters(tenants=tenants, **links)
        return Response(list_traces(filters=filters, limit=query.limit, after=query.cursor))


class TraceDetailView(APIView):
    """`GET /traces/{id}`"""

    required_scopes = {"GET": TRACES_READ}

    @operation("traces_read", response=TraceDetail)
    def get(self, request: Request, trace_id: str) -> Response:
        """One run with its steps, annotations and redacted texts. Audited as `trace.read`."""
        tenants, actor = tenant_of(request, None), principal_of(request).actor
        return Response(read_trace(tenants=tenants, trace_id=trace_id, actor=actor, now=utc_now()))
