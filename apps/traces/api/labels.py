"""POST /traces/{id}/label and GET /traces/by-label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import asked, principal_of, tenant_of
from apps.identity.domain.permissions import TRACES_READ, TRACES_WRITE
from apps.traces.api.inputs import PageInput
from apps.traces.api.shapes import page_json
from apps.traces.domain.filters import Filters
from apps.traces.services.labels import MAX_KEY, MAX_VALUE, label_trace
from apps.traces.services.reading import list_traces
from clasper.core.clock import utc_now
from clasper.core.inputs import Input, validated


class LabelsInput(Input):
    """Labels to set; null or "" removes one."""

    labels = serializers.DictField(
        help_text=f"Keys of 1 to {MAX_KEY} characters; values of at most {MAX_VALUE}, or null."
    )

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, list[str]]:
        faults = [
            f"{key[:80]!r}: {fault}" for key, value in values.get("labels", {}).items() for fault in _faults(key, value)
        ]
        return {"labels": faults} if faults else {}


def _faults(key: str, value: Any) -> Iterator[str]:
    if not 0 < len(key) <= MAX_KEY:
        yield f"keys have 1 to {MAX_KEY} characters."
    if not isinstance(value, str | None):
        yield "values are texts."
    elif len(value or "") > MAX_VALUE:
        yield f"values have at most {MAX_VALUE} characters."


class LabelQuery(PageInput):
    """A label, with a value or with any."""

    label = serializers.CharField(  # type: ignore[assignment]  # a filter, not a caption
        max_length=MAX_KEY, trim_whitespace=False, help_text="`label_key` is the same."
    )
    value = serializers.CharField(
        required=False,
        max_length=MAX_VALUE,
        allow_blank=True,
        trim_whitespace=False,
        help_text="Any, when not given. `label_value` is the same.",
    )

    aliases = {"label_key": "label", "label_value": "value"}


class LabelAnswer(serializers.Serializer[Any]):
    status = serializers.CharField()
    trace_id = serializers.CharField()
    labels = serializers.DictField(child=serializers.CharField())


class ByLabelAnswer(serializers.Serializer[Any]):
    traces = serializers.ListField(child=serializers.CharField())
    total = serializers.IntegerField()
    total_is_exact = serializers.BooleanField()
    limit = serializers.IntegerField()
    next_cursor = serializers.CharField(allow_null=True)


class TraceLabelView(APIView):
    """`POST /traces/{id}/label`"""

    required_scopes = {"POST": TRACES_WRITE}

    @extend_schema(operation_id="traces_label", request=LabelsInput, responses=LabelAnswer)
    def post(self, request: Request, trace_id: str) -> Response:
        """Add, change or remove labels; the others stay. Answers with all labels of the run."""
        tenants = tenant_of(request, None)
        changes = validated(LabelsInput, request.data)["labels"]
        labels = label_trace(
            tenants=tenants,
            trace_id=trace_id,
            changes=changes,
            actor=principal_of(request).actor,
            now=utc_now(),
        )
        return Response({"status": "ok", "trace_id": trace_id.lower(), "labels": labels})


class TraceByLabelView(APIView):
    """`GET /traces/by-label`"""

    required_scopes = {"GET": TRACES_READ}

    @extend_schema(operation_id="traces_by_label", parameters=[LabelQuery], responses=ByLabelAnswer)
    def get(self, request: Request) -> Response:
        """Ids of the runs that carry a label, newest first."""
        tenants, query = asked(LabelQuery, request)
        filters = Filters(tenants=tenants, label=query["label"], label_value=query.get("value"))
        page = list_traces(filters=filters, limit=query["limit"], after=query.get("cursor"))
        return Response({**page_json(page, [trace.id for trace in page.traces]), "limit": query["limit"]})
