"""Retention over HTTP: a tenant's policy, its enforcement, and the figures of all policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.identity.api import OneTenantQuery, TenantQuery, principal_of, read_body, read_query
from apps.identity.domain.permissions import GOVERNANCE_READ, GOVERNANCE_WRITE
from apps.traces.domain.retention import PolicyChange
from apps.traces.services.enforcement import Enforcement, enforce, enforce_all
from apps.traces.services.retention import RetentionStats, TenantPolicy, get_policy, retention_stats, set_policy
from clasper.core.clock import utc_now
from clasper.core.http import operation
from clasper.core.schemas import AnyTenantId, Count, Input, OneTenantId, Resource, about
from clasper.core.tenancy import OneTenant


class PolicyInput(PolicyChange, frozen=True, kw_only=True):
    """What to change of a tenant's policy; fields that are left out stay, those of a new policy take their default."""

    tenant_id: OneTenantId

    aliases: ClassVar[Mapping[str, str]] = {
        "retentionDays": "retention_days",
        "samplingStrategy": "sampling_strategy",
        "sampleRate": "sample_rate",
        "storageMode": "storage_mode",
    }


class EnforceInput(Input, frozen=True, kw_only=True):
    """Whose policy to enforce; without a tenant, the platform key enforces all policies."""

    tenant_id: AnyTenantId = None
    dry_run: Annotated[bool, about("Only count what would be deleted and stripped.", example=True)] = False

    aliases: ClassVar[Mapping[str, str]] = {"dryRun": "dry_run"}


class PolicyAnswer(Resource, frozen=True, kw_only=True):
    """The policy."""

    policy: TenantPolicy


class PolicySetAnswer(PolicyAnswer, frozen=True, kw_only=True):
    """The policy as it is now."""

    status: Literal["ok"] = "ok"


class EnforcedOne(Resource, frozen=True, kw_only=True):
    """What was done for the tenant."""

    status: Literal["ok"] = "ok"
    result: Enforcement


class EnforcedAll(Resource, frozen=True, kw_only=True, rename="camel"):
    """What was done for every tenant with a policy."""

    status: Literal["ok"] = "ok"
    results: tuple[Enforcement, ...]
    total_deleted: Count


class PolicyView(APIView):
    """`GET` and `POST /retention/policy`"""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ, "POST": GOVERNANCE_WRITE}

    @operation("retention_policy_get", query=OneTenantQuery, response=PolicyAnswer)
    def get(self, request: Request) -> Response:
        """The tenant's retention policy; 404 when it has none."""
        _, query = read_query(OneTenantQuery, request)
        return Response(PolicyAnswer(policy=get_policy(tenant_id=query.tenant_id)))

    @operation("retention_policy_set", body=PolicyInput, response=PolicySetAnswer)
    def post(self, request: Request) -> Response:
        """Creates the tenant's policy or changes the fields that are given. Deletes nothing by itself."""
        _, body = read_body(PolicyInput, request)
        actor, now = principal_of(request).actor, utc_now()
        return Response(
            PolicySetAnswer(policy=set_policy(tenant_id=body.tenant_id, actor=actor, now=now, values=body.values))
        )


class EnforceView(APIView):
    """`POST /retention/enforce`"""

    required_scopes: ClassVar[dict[str, str]] = {"POST": GOVERNANCE_WRITE}

    @operation("retention_enforce", body=EnforceInput, response=EnforcedOne | EnforcedAll)
    def post(self, request: Request) -> Response:
        """Deletes and strips what the policy does not keep, and returns when it is done."""
        tenants, body = read_body(EnforceInput, request)
        how: dict[str, Any] = {"actor": principal_of(request).actor, "now": utc_now(), "dry_run": body.dry_run}
        if isinstance(tenants, OneTenant):
            return Response(EnforcedOne(result=enforce(tenant_id=tenants.tenant_id, **how)))
        done = tuple(enforce_all(**how))
        return Response(EnforcedAll(results=done, total_deleted=sum(result.deleted for result in done)))


class StatsView(APIView):
    """`GET /retention/stats`"""

    required_scopes: ClassVar[dict[str, str]] = {"GET": GOVERNANCE_READ}

    @operation("retention_stats", query=TenantQuery, response=RetentionStats)
    def get(self, request: Request) -> Response:
        """How many policies there are, their average window, and how many follow which strategy."""
        tenants, _ = read_query(TenantQuery, request)
        return Response(retention_stats(tenants=tenants))
