"""Doors of retention: a tenant's policy, its enforcement, and the figures of all policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.governance.api.legacy import TENANT_PARAMETER, TenantInput, body_of, read_input, read_tenant_input
from apps.identity.api import principal_of
from apps.identity.domain.permissions import GOVERNANCE_READ, GOVERNANCE_WRITE
from apps.traces.domain.retention import MAX_DAYS, MIN_DAYS, STORAGE_MODES, STRATEGIES, policy_errors
from apps.traces.services.enforcement import Enforcement, enforce, enforce_all
from apps.traces.services.retention import (
    RetentionStats,
    TenantPolicy,
    get_policy,
    retention_stats,
    set_policy,
)
from clasper.core.clock import iso, utc_now
from clasper.core.inputs import NumberField, OneOfField
from clasper.core.tenancy import AllTenants


class PolicyInput(TenantInput):
    """What to change of a tenant's policy; fields that are left out stay, those of a new policy take their default."""

    retention_days = serializers.IntegerField(
        required=False, min_value=MIN_DAYS, max_value=MAX_DAYS, help_text="Days a trace is kept. Default: 90."
    )
    sampling_strategy = OneOfField(
        required=False, choices=STRATEGIES, help_text="Which traces are kept. Default: full."
    )
    sample_rate = NumberField(
        required=False, min_value=0, max_value=1, help_text="The share that `sampled` keeps. Default: 0.1."
    )
    storage_mode = OneOfField(
        required=False, choices=STORAGE_MODES, help_text="How much of their texts is kept. Default: full."
    )

    aliases = {
        "retentionDays": "retention_days",
        "samplingStrategy": "sampling_strategy",
        "sampleRate": "sample_rate",
        "storageMode": "storage_mode",
    }
    closed = True

    def rule_faults(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, list[str]]:
        return policy_errors(values)


class EnforceInput(TenantInput):
    """Whose policy to enforce; without a tenant, the platform key enforces all policies."""

    tenant_id = serializers.CharField(
        required=False,
        allow_null=True,
        max_length=128,
        trim_whitespace=False,
        help_text="Default: every tenant with a policy; a tenant's key stands for its own.",
    )
    dry_run = serializers.BooleanField(default=False, help_text="Only count what would be deleted and stripped.")

    tenant_required: ClassVar[bool] = False
    aliases = {"dryRun": "dry_run"}
    closed = True


class StatsInput(TenantInput):
    """Whose figures."""

    tenant_required: ClassVar[bool] = False


class PolicyShown(serializers.Serializer[Any]):
    """A tenant's policy."""

    tenantId = serializers.CharField()  # noqa: N815  the API's spelling
    retentionDays = serializers.IntegerField()  # noqa: N815
    samplingStrategy = serializers.ChoiceField(choices=STRATEGIES)  # noqa: N815
    storageMode = serializers.ChoiceField(choices=STORAGE_MODES)  # noqa: N815
    sampleRate = serializers.FloatField()  # noqa: N815
    createdAt = serializers.DateTimeField()  # noqa: N815
    updatedAt = serializers.DateTimeField()  # noqa: N815


class PolicyAnswer(serializers.Serializer[Any]):
    policy = PolicyShown()


class PolicySetAnswer(PolicyAnswer):
    status = serializers.CharField()


class EnforcementShown(serializers.Serializer[Any]):
    """What was done for a tenant, or with `dry_run` would be."""

    tenantId = serializers.CharField()  # noqa: N815
    tracesDeleted = serializers.IntegerField()  # noqa: N815
    oldestRemainingTrace = serializers.DateTimeField(allow_null=True)  # noqa: N815
    tracesStripped = serializers.IntegerField(help_text="Traces whose texts were removed.")  # noqa: N815
    tracesProtected = serializers.IntegerField(help_text="Traces left alone for a label or annotation.")  # noqa: N815
    cutoffDate = serializers.DateTimeField(help_text="Traces that began before this are too old.")  # noqa: N815
    durationMs = serializers.IntegerField()  # noqa: N815
    longestTransactionMs = serializers.FloatField()  # noqa: N815
    dryRun = serializers.BooleanField()  # noqa: N815


class EnforceAnswer(serializers.Serializer[Any]):
    """`result` for one tenant; `results` and `totalDeleted` for all."""

    status = serializers.CharField()
    result = EnforcementShown(required=False)
    results = EnforcementShown(many=True, required=False)
    totalDeleted = serializers.IntegerField(required=False)  # noqa: N815


class ByStrategy(serializers.Serializer[Any]):
    full = serializers.IntegerField()
    errors_only = serializers.IntegerField()
    sampled = serializers.IntegerField()


class RetentionStatsAnswer(serializers.Serializer[Any]):
    totalPolicies = serializers.IntegerField()  # noqa: N815
    avgRetentionDays = serializers.IntegerField(help_text="Rounded; 0 without any policy.")  # noqa: N815
    tenantsByStrategy = ByStrategy()  # noqa: N815


class PolicyView(APIView):
    """`GET` and `POST /retention/policy`"""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ, "POST": GOVERNANCE_WRITE}

    @extend_schema(operation_id="retention_policy_get", parameters=[TENANT_PARAMETER], responses=PolicyAnswer)
    def get(self, request: Request) -> Response:
        """The tenant's retention policy; 404 when it has none."""
        tenant_id, _ = read_tenant_input(TenantInput, request, request.query_params.dict())
        return Response({"policy": policy_json(get_policy(tenant_id=tenant_id))})

    @extend_schema(operation_id="retention_policy_set", request=PolicyInput, responses=PolicySetAnswer)
    def post(self, request: Request) -> Response:
        """Creates the tenant's policy or changes the fields that are given. Deletes nothing by itself."""
        tenant_id, values = read_tenant_input(PolicyInput, request, body_of(request))
        changes = {name: value for name, value in values.items() if name != "tenant_id"}
        found = set_policy(tenant_id=tenant_id, actor=principal_of(request).actor, now=utc_now(), values=changes)
        return Response({"status": "ok", "policy": policy_json(found)})


class EnforceView(APIView):
    """`POST /retention/enforce`"""

    required_scopes: ClassVar[dict[str, str]] = {"POST": GOVERNANCE_WRITE}

    @extend_schema(operation_id="retention_enforce", request=EnforceInput, responses=EnforceAnswer)
    def post(self, request: Request) -> Response:
        """Deletes and strips what the policy does not keep, and answers when it is done."""
        tenants, values = read_input(EnforceInput, request, body_of(request))
        how: dict[str, Any] = {
            "actor": principal_of(request).actor,
            "now": utc_now(),
            "dry_run": values["dry_run"],
        }
        if isinstance(tenants, AllTenants):
            return Response({"status": "ok", **enforcements_json(enforce_all(**how))})
        return Response({"status": "ok", "result": enforcement_json(enforce(tenant_id=tenants.tenant_id, **how))})


class StatsView(APIView):
    """`GET /retention/stats`"""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ}

    @extend_schema(operation_id="retention_stats", parameters=[TENANT_PARAMETER], responses=RetentionStatsAnswer)
    def get(self, request: Request) -> Response:
        """How many policies there are, their average window, and how many follow which strategy."""
        tenants, _ = read_input(StatsInput, request, request.query_params.dict())
        return Response(stats_json(retention_stats(tenants=tenants)))


def policy_json(found: TenantPolicy) -> dict[str, Any]:
    """A tenant's policy as the API and the command show it."""
    return {
        "tenantId": found.tenant_id,
        "retentionDays": found.policy.retention_days,
        "samplingStrategy": found.policy.sampling_strategy,
        "storageMode": found.policy.storage_mode,
        "sampleRate": found.policy.sample_rate,
        "createdAt": iso(found.created_at),
        "updatedAt": iso(found.updated_at),
    }


def enforcement_json(done: Enforcement) -> dict[str, Any]:
    """What was done for one tenant, as the API and the command show it."""
    return {
        "tenantId": done.tenant_id,
        "tracesDeleted": done.deleted,
        "oldestRemainingTrace": iso(done.oldest) if done.oldest else None,
        "tracesStripped": done.stripped,
        "tracesProtected": done.protected,
        "cutoffDate": iso(done.cutoff),
        "durationMs": done.duration_ms,
        "longestTransactionMs": done.longest_transaction_ms,
        "dryRun": done.dry_run,
    }


def enforcements_json(done: list[Enforcement]) -> dict[str, Any]:
    """What was done for all tenants."""
    return {
        "results": [enforcement_json(each) for each in done],
        "totalDeleted": sum(each.deleted for each in done),
    }


def stats_json(stats: RetentionStats) -> dict[str, Any]:
    """The figures of policies as the API and the command show them."""
    return {
        "totalPolicies": stats.policies,
        "avgRetentionDays": stats.average_days,
        "tenantsByStrategy": stats.by_strategy,
    }
