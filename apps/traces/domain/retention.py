"""Retention policies: what they may say, which traces they keep, and what they leave of their texts."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from clasper.core.schemas import Input, Resource, about

SamplingStrategy = Literal["full", "errors_only", "sampled"]
STRATEGIES: tuple[SamplingStrategy, ...] = ("full", "errors_only", "sampled")

StorageMode = Literal["full", "summary", "minimal"]
STORAGE_MODES: tuple[StorageMode, ...] = ("full", "summary", "minimal")
"""From all texts to none: `summary` is the run's own input and output, without those of its steps."""

RetentionAction = Literal["keep", "strip", "delete"]

PROTECTING_KEYS = ("baseline", "incident", "hold")
"""A label or annotation with one of these keys protects a trace from retention."""

MIN_DAYS, MAX_DAYS = 1, 3650

_HASHES = 2.0**256


Days = Annotated[int, Meta(ge=MIN_DAYS, le=MAX_DAYS)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Policy(Resource, frozen=True, kw_only=True, rename="camel"):
    """How long traces are kept, which of them, and with how much of their texts. The defaults are a new policy's."""

    retention_days: Days = 90
    sampling_strategy: SamplingStrategy = "full"
    sample_rate: Share = 0.1
    storage_mode: StorageMode = "full"

    @property
    def keeps_all(self) -> bool:
        """Whether every trace inside the window stays as it is."""
        return self.sampling_strategy == "full" and self.storage_mode == "full"


class PolicyChange(Input, frozen=True, kw_only=True):
    """The fields of a policy that change."""

    retention_days: Annotated[Days | UnsetType, about("Days a trace is kept. Default: 90.", example=30)] = UNSET
    sampling_strategy: Annotated[SamplingStrategy | UnsetType, about("Which traces are kept. Default: full.")] = UNSET
    sample_rate: Annotated[Share | UnsetType, about("The share that `sampled` keeps. Default: 0.1.")] = UNSET
    storage_mode: Annotated[StorageMode | UnsetType, about("How much of their texts is kept. Default: full.")] = UNSET

    @property
    def values(self) -> dict[str, Any]:
        """The fields of Policy that were given."""
        given = {name: getattr(self, name) for name in PolicyChange.__struct_fields__}
        return {name: value for name, value in given.items() if value is not UNSET}


def in_sample(trace_id: str, rate: float) -> bool:
    """Whether a share `rate` (0..1) of all ids includes this one: always the same answer, and a larger share
    includes all that a smaller one does."""
    return int.from_bytes(hashlib.sha256(trace_id.encode()).digest()) < rate * _HASHES


def keeps(policy: Policy, *, trace_id: str, status: str) -> bool:
    """Whether the sampling strategy keeps an ended trace. Every strategy keeps runs that did not succeed."""
    if policy.sampling_strategy == "full" or status != "success":
        return True
    return policy.sampling_strategy == "sampled" and in_sample(trace_id, policy.sample_rate)


def mode_at_settle(policy: Policy, *, trace_id: str, status: str) -> StorageMode:
    """What is stored of the texts of a run that ends now: nothing if the strategy does not keep it."""
    return policy.storage_mode if keeps(policy, trace_id=trace_id, status=status) else "minimal"


def cutoff(policy: Policy, now: datetime) -> datetime:
    """Where the window begins: traces that started earlier are deleted."""
    return now - timedelta(days=policy.retention_days)


def retention_action(
    policy: Policy, *, trace_id: str, status: str, started_at: datetime, storage_mode: str, now: datetime
) -> RetentionAction:
    """What enforcement does with a trace that nothing protects; `storage_mode` is what is left of its texts."""
    if status == "running":
        return "keep"
    if started_at < cutoff(policy, now) or not keeps(policy, trace_id=trace_id, status=status):
        return "delete"
    return "strip" if poorer(policy.storage_mode, storage_mode) else "keep"


def poorer(mode: str, than: str) -> bool:
    """Whether a storage mode leaves less of the texts than another."""
    modes: tuple[str, ...] = STORAGE_MODES
    return modes.index(mode) > modes.index(than)
