"""GET /traces, /traces/{id}, and runs by their links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import asked, principal_of, tenant_of
from apps.identity.domain.permissions import TRACES_READ
from apps.traces.api.inputs import ListInput, PageInput, filters_of
from apps.traces.api.shapes import detail_json, page_json, summary_json
from apps.traces.domain.filters import Filters
from apps.traces.services.reading import list_traces, read_trace
from clasper.core.clock import utc_now

LINKS = ("task_id", "document_id", "message_id")


class EntityInput(PageInput):
    """What the runs are linked to; several links mean runs that have them all."""

    task_id = serializers.CharField(required=False, max_length=128)
    document_id = serializers.CharField(required=False, max_length=128)
    message_id = serializers.CharField(required=False, max_length=128)

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        named = any(name in given for name in LINKS)
        return {} if named else {"task_id": [f"Give one of {', '.join(LINKS)}."]}


class TraceListView(APIView):
    """`GET /traces`"""

    required_scopes = {"GET": TRACES_READ}

    @extend_schema(operation_id="traces_list", parameters=[ListInput], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """Runs, newest first. `next_cursor` leads to the next page and is stable while runs are added."""
        tenants, query = asked(ListInput, request)
        limit, offset = query["limit"], query["offset"]
        page = list_traces(filters=filters_of(tenants, query), limit=limit, offset=offset, after=query.get("cursor"))
        body = page_json(page, [summary_json(trace) for trace in page.traces])
        searched = {} if page.text_searched is None else {"text_searched": page.text_searched}
        return Response({**body, "limit": limit, "offset": offset, **searched})


class TraceByEntityView(APIView):
    """`GET /traces/by-entity`"""

    required_scopes = {"GET": TRACES_READ}

    @extend_schema(operation_id="traces_by_entity", parameters=[EntityInput], responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """Runs that belong to a task, a document or a message, newest first."""
        tenants, query = asked(EntityInput, request)
        filters = Filters(tenants=tenants, **{name: query.get(name, "") for name in LINKS})
        page = list_traces(filters=filters, limit=query["limit"], after=query.get("cursor"))
        return Response({**page_json(page, [summary_json(trace) for trace in page.traces]), "limit": query["limit"]})


class TraceDetailView(APIView):
    """`GET /traces/{id}`"""

    required_scopes = {"GET": TRACES_READ}

    @extend_schema(operation_id="traces_read", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request, trace_id: str) -> Response:
        """One run with its steps, annotations and redacted texts. Audited as `trace.read`."""
        tenants, actor = tenant_of(request, None), principal_of(request).actor
        return Response(detail_json(read_trace(tenants=tenants, trace_id=trace_id, actor=actor, now=utc_now())))
