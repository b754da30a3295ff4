"""Comparisons over HTTP: POST /traces/diff."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, UnsetType
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import principal_of, read_body
from apps.identity.domain.permissions import TRACES_READ
from apps.traces.services.diffing import show_comparison
from clasper.core.clock import utc_now
from clasper.core.http import operation
from clasper.core.schemas import AnyTenantId, Input, Resource, about

GivenId = Annotated[str, about(example="0194c8f0-7e1a-7000-8000-000000000001", min_length=1, max_length=64)]


class DiffInput(Input, frozen=True, kw_only=True):
    """The two runs, and what to say of their difference."""

    base_trace_id: GivenId
    compare_trace_id: GivenId
    include_summary: Annotated[bool, about("Also summarise the difference in a sentence.")] = True
    include_output_diff: Annotated[bool, about("Add the answers' diff: unified, at most 2,000 lines and 64 KiB.")] = (
        False
    )
    tenant_id: AnyTenantId = None


class DiffAnswer(Resource, frozen=True, kw_only=True):
    """Sections of the comparison, with the values of both runs; deltas are the compared run's less the base's."""

    diff: Annotated[
        dict[str, Any],
        about(
            "`summary.totalDifferences` counts the sections that differ, `summary.significantChanges` "
            "names what matters, `steps.firstDivergence` shows where the runs part.",
            example={"summary": {"totalDifferences": 1, "significantChanges": ["model"]}},
        ),
    ]
    summary_text: Annotated[
        str | UnsetType,
        about("Absent with `include_summary: false`.", example="Compared traces a vs b: model changed."),
    ] = UNSET


class DiffView(APIView):
    """`POST /traces/diff`"""

    required_scopes = {"POST": TRACES_READ}

    @operation("traces_diff", body=DiffInput, response=DiffAnswer)
    def post(self, request: Request) -> Response:
        """How two runs differ: model, cost, tokens, skills, tool calls, steps, answer, error, time."""
        tenants, body = read_body(DiffInput, request)
        found = show_comparison(
            tenants=tenants,
            base_id=body.base_trace_id,
            compare_id=body.compare_trace_id,
            include_text=body.include_output_diff,
            actor=principal_of(request).actor,
            now=utc_now(),
        )
        return Response(DiffAnswer(diff=found.diff, summary_text=found.summary_text if body.include_summary else UNSET))
