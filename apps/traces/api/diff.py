"""The door to comparisons: POST /traces/diff."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import principal_of, tenant_of
from apps.identity.domain.permissions import TRACES_READ
from apps.traces.services.diffing import show_comparison
from clasper.core.clock import utc_now


class DiffInput(serializers.Serializer[Any]):
    """The two runs, and what to tell of them."""

    base_trace_id = serializers.CharField(max_length=64)
    compare_trace_id = serializers.CharField(max_length=64)
    include_summary = serializers.BooleanField(default=True, help_text="Tell it in one sentence too.")
    include_output_diff = serializers.BooleanField(
        default=False, help_text="Add the answers' diff: unified, at most 2,000 lines and 64 KiB."
    )
    tenant_id = serializers.CharField(
        required=False,
        max_length=128,
        help_text="Narrows the platform key to one tenant; a tenant's key stands for it.",
    )


class DiffAnswer(serializers.Serializer[Any]):
    """Sections of the comparison, each with the values of both runs; deltas are the compared run's less the base's."""

    diff = serializers.DictField(
        help_text="`summary.totalDifferences` counts the sections that differ, `summary.significantChanges` names what"
        " matters, `steps.firstDivergence` shows where the runs part."
    )
    summary_text = serializers.CharField(required=False, help_text="Absent with `include_summary: false`.")


class DiffView(APIView):
    """`POST /traces/diff`"""

    required_scopes: ClassVar[dict[str, str]] = {"POST": TRACES_READ}

    @extend_schema(operation_id="traces_diff", request=DiffInput, responses=DiffAnswer)
    def post(self, request: Request) -> Response:
        """How two runs differ: model, cost, tokens, skills, tool calls, steps, answer, error, time."""
        named = request.data.get("tenant_id") if isinstance(request.data, dict) else None
        tenants = tenant_of(request, str(named) if isinstance(named, str | int) else None)
        given = DiffInput(data=request.data)
        given.is_valid(raise_exception=True)
        values = given.validated_data
        found = show_comparison(
            tenants=tenants,
            base_id=values["base_trace_id"],
            compare_id=values["compare_trace_id"],
            include_text=values["include_output_diff"],
            actor=principal_of(request).actor,
            now=utc_now(),
        )
        return Response(
            {"diff": found.diff, **({"summary_text": found.summary_text} if values["include_summary"] else {})}
        )
