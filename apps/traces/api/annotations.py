"""POST /traces/{id}/annotate and GET /traces/{id}/annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import Meta
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import principal_of, read_body, tenant_of
from apps.identity.domain.permissions import TRACES_READ, TRACES_WRITE
from apps.traces.domain.views import AnnotationView
from apps.traces.services.annotations import MAX_AUTHOR, MAX_VALUE, annotate_trace, list_annotations
from apps.traces.services.labels import MAX_KEY
from clasper.core.clock import utc_now
from clasper.core.http import operation
from clasper.core.schemas import Input, Resource, about


class AnnotationInput(Input, frozen=True, kw_only=True):
    """A note: what it is about, and what it says."""

    key: Annotated[
        str, about("For example incident.", example="incident", min_length=1, max_length=MAX_KEY, pattern=r"\S")
    ]
    value: Annotated[str, about(example="INC-123", max_length=MAX_VALUE)]
    created_by: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_AUTHOR)] | None,
        about("Who wrote it. Default: the credential. `createdBy` is the same."),
    ] = None

    aliases: ClassVar[Mapping[str, str]] = {"createdBy": "created_by"}


class AnnotateAnswer(Resource, frozen=True, kw_only=True):
    """The note that was added."""

    status: Literal["ok"] = "ok"
    annotation: AnnotationView


class AnnotationsAnswer(Resource, frozen=True, kw_only=True):
    """All notes on a run."""

    annotations: tuple[AnnotationView, ...]


class TraceAnnotateView(APIView):
    """`POST /traces/{id}/annotate`"""

    required_scopes = {"POST": TRACES_WRITE}

    @operation("traces_annotate", body=AnnotationInput, response={201: AnnotateAnswer})
    def post(self, request: Request, trace_id: str) -> Response:
        """Add a note to a run. Notes are never changed."""
        tenants, note = read_body(AnnotationInput, request)
        added = annotate_trace(
            tenants=tenants,
            trace_id=trace_id,
            key=note.key.strip(),
            value=note.value,
            author=note.created_by or "",
            actor=principal_of(request).actor,
            now=utc_now(),
        )
        return Response(AnnotateAnswer(annotation=added), status=201)


class TraceAnnotationsView(APIView):
    """`GET /traces/{id}/annotations`"""

    required_scopes = {"GET": TRACES_READ}

    @operation("traces_annotations", response=AnnotationsAnswer)
    def get(self, request: Request, trace_id: str) -> Response:
        """All notes on a run, oldest first."""
        notes = list_annotations(tenants=tenant_of(request, None), trace_id=trace_id)
        return Response(AnnotationsAnswer(annotations=notes))
