"""What Prometheus scrapes: `GET /metrics`."""

from __future__ import annotations

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from prometheus_client.core import GaugeMetricFamily, Metric
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.agents.delivery.backlog import backlog
from apps.agents.services.providers import open_circuits
from apps.identity.api import require_platform
from apps.identity.domain.permissions import GOVERNANCE_READ
from apps.traces.services.in_flight import runs_in_flight
from clasper.metrics import CONTENT_TYPE, exposition

_TEXT = OpenApiResponse(OpenApiTypes.STR, description="Prometheus' text format.")


class MetricsView(APIView):
    """`GET /metrics`"""

    required_scopes = {"GET": GOVERNANCE_READ}

    @extend_schema(operation_id="metrics", responses={(200, "text/plain"): _TEXT})
    def get(self, request: Request) -> HttpResponse:
        """Counters and gauges for Prometheus, over all tenants: for the platform's key only."""
        require_platform(request)
        return HttpResponse(exposition(_gauges()), content_type=CONTENT_TYPE)


def _gauges() -> list[Metric]:
    deliveries = backlog()
    circuits = GaugeMetricFamily(
        "clasper_circuit_open",
        "1 while the process that answers does not ask the provider, because it failed too often.",
        labels=["provider"],
    )
    for provider, is_open in open_circuits().items():
        circuits.add_metric([provider], float(is_open))
    numbers = (
        ("clasper_runs_in_flight", "Runs that have not ended, of all processes.", runs_in_flight()),
        ("clasper_outbox_pending", "Deliveries that wait for their first or next attempt.", deliveries.pending),
        ("clasper_outbox_dead", "Deliveries that were given up.", deliveries.dead),
    )
    return [*(GaugeMetricFamily(name, text, value=number) for name, text, number in numbers), circuits]
