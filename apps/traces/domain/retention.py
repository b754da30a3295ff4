"""Retention policies: what they may say, which traces they keep, and what they leave of their texts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long traces are kept, which of them, and with how much of their texts. The defaults are a new policy's."""

    retention_days: int = 90
    sampling_strategy: SamplingStrategy = "full"
    sample_rate: float = 0.1
    storage_mode: StorageMode = "full"

    @property
    def keeps_all(self) -> bool:
        """Whether every trace inside the window stays as it is."""
        return self.sampling_strategy == "full" and self.storage_mode == "full"


def policy_errors(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is wrong with the given fields of a policy, by field; absent fields have no error."""
    errors = {}
    days = values.get("retention_days", MIN_DAYS)
    if not _is_number(days) or days != int(days) or not MIN_DAYS <= days <= MAX_DAYS:
        errors["retention_days"] = [f"Must be a whole number of days from {MIN_DAYS} to {MAX_DAYS}."]
    if values.get("sampling_strategy", "full") not in STRATEGIES:
        errors["sampling_strategy"] = [f"Must be one of {', '.join(STRATEGIES)}."]
    rate = values.get("sample_rate", 0.0)
    if not _is_number(rate) or not 0 <= rate <= 1:
        errors["sample_rate"] = ["Must be a number from 0 to 1."]
    if values.get("storage_mode", "full") not in STORAGE_MODES:
        errors["storage_mode"] = [f"Must be one of {', '.join(STORAGE_MODES)}."]
    return errors


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
