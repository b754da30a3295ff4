"""Sets, reads, counts, and applies retention policies when runs settle; `enforcement` applies them to older traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from django.db import models
from django.db.models import Avg
from msgspec import convert, field
from msgspec.structs import asdict

from apps.audit.services.recording import record_audit
from apps.traces.domain.retention import PROTECTING_KEYS, STRATEGIES, Policy, StorageMode, mode_at_settle
from apps.traces.models import RetentionPolicy
from clasper.core.db import Batch, atomic_batch, placeholders
from clasper.core.errors import NotFound
from clasper.core.schemas import Count, Instant, Resource, TenantId, about
from clasper.core.tenancy import TenantScope

POLICY_SET = "retention.policy"

POLICY_SECONDS = 5
"""How long a process may use a policy that another one has changed."""

_FIELDS = Policy.__struct_fields__
_READ_DEMANDING = (
    f"SELECT tenant_id, {', '.join(_FIELDS)} FROM retention_policies"
    " WHERE sampling_strategy <> 'full' OR storage_mode <> 'full'"
)


class TenantPolicy(Policy, frozen=True, kw_only=True):
    """A tenant's policy and when it was made and last changed."""

    tenant_id: TenantId
    created_at: Instant
    updated_at: Instant


class RetentionStats(Resource, frozen=True, kw_only=True):
    """How many policies there are, and how many by strategy."""

    policies: Count = field(name="totalPolicies")
    average_days: Annotated[Count, about("Rounded; 0 without any policy.")] = field(name="avgRetentionDays")
    by_strategy: Annotated[dict[str, int], about(example={"full": 12, "errors_only": 0, "sampled": 0})] = field(
        name="tenantsByStrategy"
    )


def set_policy(*, tenant_id: str, actor: str, now: datetime, values: Mapping[str, Any]) -> TenantPolicy:
    """Creates or changes the tenant's policy; `values` are those of a PolicyChange, and what is left out stays.

    Writes `retention.policy` with the policy before and after.
    """
    with atomic_batch() as batch:
        row, created = RetentionPolicy.objects.get_or_create(
            tenant_id=tenant_id, defaults={**asdict(Policy()), "created_at": now, "updated_at": now}
        )
        if not created:
            row = RetentionPolicy.objects.select_for_update().get(tenant_id=tenant_id)
        before = None if created else asdict(_policy(row))
        for name, value in values.items():
            setattr(row, name, value)
        row.updated_at = now
        row.save()
        after = asdict(_policy(row))
        details = {"before": before, "after": after}
        record_audit(batch, tenant_id=tenant_id, event_type=POLICY_SET, actor=actor, now=now, details=details)
    demanding.forget()
    return _view(row)


def get_policy(*, tenant_id: str) -> TenantPolicy:
    """The tenant's policy. Raises NotFound when it has none."""
    row = RetentionPolicy.objects.for_tenant(tenant_id).first()
    if row is None:
        raise NotFound("The tenant has no retention policy.")
    return _view(row)


def policy_of(*, tenant_id: str) -> Policy:
    """The tenant's policy, or the default one."""
    row = RetentionPolicy.objects.for_tenant(tenant_id).first()
    return Policy() if row is None else _policy(row)


def all_policies() -> list[TenantPolicy]:
    """Every tenant's policy, tenants sorted."""
    return [_view(row) for row in RetentionPolicy.objects.order_by("tenant_id")]


def retention_stats(*, tenants: TenantScope) -> RetentionStats:
    """The figures of the scope's policies."""
    policies = RetentionPolicy.objects.in_scope(tenants)
    counts = dict(policies.order_by().values_list("sampling_strategy").annotate(models.Count("id")))
    return RetentionStats(
        policies=sum(counts.values()),
        average_days=round(policies.aggregate(days=Avg("retention_days"))["days"] or 0),
        by_strategy={strategy: counts.get(strategy, 0) for strategy in STRATEGIES},
    )


class DemandingPolicies:
    """The policies that do not keep everything, read at most every POLICY_SECONDS.

    They are all in memory, so that a run costs no query, whether its tenant has a policy or not.
    """

    def __init__(self) -> None:
        self._policies: dict[str, Policy] = {}
        self._read_at: datetime | None = None

    def of(self, batch: Batch, tenant_id: str, now: datetime) -> Policy | None:
        """The tenant's policy, or None when it has none that removes anything."""
        if self._read_at is None or abs(now - self._read_at) >= _POLICY_AGE:
            self._policies = {
                tenant_id: Policy(**dict(zip(_FIELDS, values, strict=True)))
                for tenant_id, *values in batch.fetch_all(_READ_DEMANDING)
            }
            self._read_at = now
        return self._policies.get(tenant_id)

    def forget(self) -> None:
        """Makes the next use read the policies again."""
        self._read_at = None


_POLICY_AGE = timedelta(seconds=POLICY_SECONDS)

demanding = DemandingPolicies()
"""This process's; runs settle in one thread."""


def settle_storage(batch: Batch, *, tenant_id: str, trace_id: str, status: str, now: datetime) -> StorageMode:
    """What may be stored of the texts of a run that ends now. Removes what is stored already beyond that."""
    policy = demanding.of(batch, tenant_id, now)
    if policy is None:
        return "full"
    mode = mode_at_settle(policy, trace_id=trace_id, status=status)
    if mode == "full":
        return mode
    batch.flush_rows()
    if protected(batch, tenant_id, [trace_id]):
        return "full"
    strip(batch, tenant_id, [trace_id], mode)
    return mode


def protected(batch: Batch, tenant_id: str, trace_ids: Sequence[str]) -> set[str]:
    """Those of the traces that a label or an annotation protects from retention."""
    keys, ids = placeholders(PROTECTING_KEYS), placeholders(trace_ids)
    one = f"tenant_id = %s AND trace_id IN ({ids}) AND key IN ({keys})"
    rows = batch.fetch_all(
        f"SELECT trace_id FROM trace_labels WHERE {one} UNION SELECT trace_id FROM trace_annotations WHERE {one}",
        (tenant_id, *trace_ids, *PROTECTING_KEYS) * 2,
    )
    return {row[0] for row in rows}


def strip(batch: Batch, tenant_id: str, trace_ids: Sequence[str], mode: StorageMode) -> None:
    """Removes the texts that `mode` does not keep, and notes that on the traces. Facts such as an error's code stay."""
    marks = placeholders(trace_ids)
    but_own = " AND seq <> 0" if mode == "summary" else ""
    error = ", error = ''" if mode == "minimal" else ""
    batch.execute(
        f"DELETE FROM trace_payloads WHERE tenant_id = %s AND trace_id IN ({marks}){but_own}", (tenant_id, *trace_ids)
    )
    # By the id alone: with the tenant, SQLite would walk an index of all the tenant's traces.
    batch.execute(f"UPDATE traces SET storage_mode = %s{error} WHERE id IN ({marks})", (mode, *trace_ids))


def _policy(row: RetentionPolicy) -> Policy:
    return convert(row, Policy, from_attributes=True)


def _view(row: RetentionPolicy) -> TenantPolicy:
    return convert(row, TenantPolicy, from_attributes=True)
