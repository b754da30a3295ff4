"""POST /traces/{id}/annotate and GET /traces/{id}/annotations."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import principal_of, tenant_of
from apps.identity.domain.permissions import TRACES_READ, TRACES_WRITE
from apps.traces.api.shapes import annotation_json
from apps.traces.services.annotations import MAX_AUTHOR, MAX_VALUE, annotate_trace, list_annotations
from apps.traces.services.labels import MAX_KEY
from clasper.core.clock import utc_now
from clasper.core.inputs import Input, validated


class AnnotationInput(Input):
    """A note: what it is about, and what it says."""

    key = serializers.CharField(max_length=MAX_KEY, help_text="For example incident, reviewed, note.")
    value = serializers.CharField(max_length=MAX_VALUE, allow_blank=True, trim_whitespace=False)
    created_by = serializers.CharField(
        required=False,
        max_length=MAX_AUTHOR,
        help_text="Who wrote it. Default: the credential. `createdBy` is the same.",
    )

    aliases = {"createdBy": "created_by"}


class AnnotationBody(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    traceId = serializers.CharField()  # noqa: N815  the API's spelling
    key = serializers.CharField()
    value = serializers.CharField()
    createdAt = serializers.DateTimeField()  # noqa: N815
    createdBy = serializers.CharField(help_text="As given, or the credential, type:id.")  # noqa: N815


class AnnotateAnswer(serializers.Serializer[Any]):
    status = serializers.CharField()
    annotation = AnnotationBody()


class AnnotationsAnswer(serializers.Serializer[Any]):
    annotations = AnnotationBody(many=True)


class TraceAnnotateView(APIView):
    """`POST /traces/{id}/annotate`"""

    required_scopes = {"POST": TRACES_WRITE}

    @extend_schema(operation_id="traces_annotate", request=AnnotationInput, responses={201: AnnotateAnswer})
    def post(self, request: Request, trace_id: str) -> Response:
        """Add a note to a run. Notes are never changed."""
        tenants = tenant_of(request, None)
        note = validated(AnnotationInput, request.data)
        added = annotate_trace(
            tenants=tenants,
            trace_id=trace_id,
            key=note["key"],
            value=note["value"],
            author=note.get("created_by", ""),
            actor=principal_of(request).actor,
            now=utc_now(),
        )
        return Response({"status": "ok", "annotation": annotation_json(added)}, status=201)


class TraceAnnotationsView(APIView):
    """`GET /traces/{id}/annotations`"""

    required_scopes = {"GET": TRACES_READ}

    @extend_schema(operation_id="traces_annotations", responses=AnnotationsAnswer)
    def get(self, request: Request, trace_id: str) -> Response:
        """All notes on a run, oldest first."""
        notes = list_annotations(tenants=tenant_of(request, None), trace_id=trace_id)
        return Response({"annotations": [annotation_json(note) for note in notes]})
