"""Invented runs that look like a busy tenant's: the same seed, tenant and end give the same runs.

Most of a run (who, which model, which texts) is one of a fixed number of *profiles*, drawn once; the rest (when, how
long, how many tokens) is drawn for each run. So a million runs take seconds and no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple

from apps.governance.domain.prices import PriceBook
from apps.traces.domain.record import Status
from apps.traces.domain.sample_profiles import Profile, draw_profile
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage

PROFILES = 1500
MAX_DURATION_MS = 110_000
"""Below a run's total deadline."""

TOOL_MS = 140
"""How long tools take; those of one answer run side by side."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TASK_MS = 7_200_000
"""For two hours runs belong to the same few tasks. Ids that grow with time also keep the indexes quick to fill."""

_MARGIN = timedelta(minutes=2)
"""The last run began this long before the end, so that none ends after it."""

_PROTECTED = ("baseline", "incident", "hold")
"""Labels under which retention leaves a run alone; one in a thousand has one."""

_FAILURES: tuple[tuple[float, Status, str, str], ...] = (
    (0.045, "error", "provider_error", "The model's provider answered 503 after 3 attempts."),
    (0.055, "error", "budget_exceeded", "The budget does not hold the run."),
    (0.070, "timeout", "timeout", "The run took longer than allowed."),
    (0.085, "cancelled", "cancelled", "The caller went away."),
)
"""Up to which share of all runs each failure goes; the rest are successes."""


class SampleStep(NamedTuple):
    """One step; `input` and `output` are JSON texts. A tuple, because a million runs have two million of them."""

    seq: int
    type: str
    name: str
    provider: str
    status: str
    code: str
    started_at: datetime
    duration_ms: int
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: int = 0
    input: str | None = None
    output: str | None = None


@dataclass(slots=True)
class SampleCall:
    """One model call that was paid for."""

    usage: Usage
    cost: NanoUSD
    duration_ms: int


@dataclass(slots=True)
class SampleRun:
    """One run that has ended. `calls` is empty when the run failed before a model answered."""

    id: str
    profile: Profile
    user_id: str
    status: Status
    error_code: str
    error: str
    started_at: datetime
    ended_at: datetime
    duration_ms: int
    calls: list[SampleCall]
    task_id: str
    message_id: str
    labels: tuple[tuple[str, str], ...]

    @property
    def usage(self) -> Usage:
        """What its calls used together."""
        calls = self.calls
        return Usage() if not calls else calls[0].usage if len(calls) == 1 else calls[0].usage + calls[1].usage

    @property
    def cost(self) -> int:
        """What its calls cost together, in nano-USD."""
        return sum(call.cost for call in self.calls)

    def steps(self) -> list[SampleStep]:
        """Its steps in order."""
        ref, at = self.profile.ref, self.started_at
        if self.error_code == "budget_exceeded":
            return []
        if not self.calls:
            status = "cancelled" if self.status == "cancelled" else "error"
            ended = ("llm_call", ref.model, ref.provider, status, self.error_code, at, self.duration_ms)
            return [SampleStep(1, *ended)]
        asked, *answered = self.calls
        steps = [self._llm_step(1, asked, at, "tool_calls" if answered else "stop")]
        at += timedelta(milliseconds=asked.duration_ms)
        for tool in self.profile.tools:
            called = ("tool_call", tool.name, "", "ok", "", at, TOOL_MS, 0, 0, 0, tool.input, tool.output)
            steps.append(SampleStep(len(steps) + 1, *called))
        at += timedelta(milliseconds=TOOL_MS)
        steps += [self._llm_step(len(steps) + 1, call, at, "stop") for call in answered]
        return steps

    def _llm_step(self, seq: int, call: SampleCall, at: datetime, finish: str) -> SampleStep:
        ref, usage = self.profile.ref, call.usage
        said = self.profile.tool_calls if finish == "tool_calls" else None
        paid = (usage.prompt_tokens, usage.output, call.cost)
        return SampleStep(
            seq, "llm_call", ref.model, ref.provider, "ok", finish, at, call.duration_ms, *paid, None, said
        )


def sample_runs(
    *, tenant_id: str, count: int, days: int, seed: int, until: datetime, prices: PriceBook
) -> Iterator[SampleRun]:
    """`count` runs of the `days` before `until`, oldest first, busier by day than by night and at weekends quiet."""
    dice = Random(f"{seed}:{tenant_id}:{count}:{days}:{until.isoformat()}")  # noqa: S311  repeatable, nothing secret
    profiles = [draw_profile(dice, prices) for _ in range(PROFILES)]
    for started_ms in _moments(dice, count=count, days=days, until=until):
        yield _run(dice, profiles[int(dice.random() * PROFILES)], started_ms)


def _run(dice: Random, profile: Profile, started_ms: int) -> SampleRun:
    status: Status = "success"
    code = error = ""
    luck = dice.random()
    if luck < _FAILURES[-1][0]:
        _, status, code, error = next(failure for failure in _FAILURES if luck < failure[0])
    calls = []
    if not code:
        calls.append(_call(dice, profile))
        if profile.tools:
            calls.append(_call(dice, profile))
    duration = _duration(dice, status, profile, calls)
    bits = dice.getrandbits(74)
    digits = f"{started_ms << 80 | 7 << 76 | bits >> 62 << 64 | 2 << 62 | bits & (1 << 62) - 1:032x}"
    number = bits & 0xFFFF
    return SampleRun(
        f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
        profile,
        f"u-{number % 400}",
        status,
        code,
        error,
        _EPOCH + timedelta(milliseconds=started_ms),
        _EPOCH + timedelta(milliseconds=started_ms + duration),
        duration,
        calls,
        f"task-{started_ms // _TASK_MS}-{number % 8}",
        f"msg-{digits}" if not code else "",
        profile.labels if number % 1000 else (*profile.labels, (_PROTECTED[number % 3], "true")),
    )


def _call(dice: Random, profile: Profile) -> SampleCall:
    prompt = int(profile.prompt_tokens * (0.6 + 0.8 * dice.random())) + 1
    output = int(profile.output_tokens * (0.4 + 1.2 * dice.random())) + 1
    cached = prompt // 2 if output & 1 else 0
    usage = Usage(prompt - cached, cached, 0, output)
    return SampleCall(usage, profile.price.cost(usage).total, _lognormal(dice, 900 + 9 * output))


def _duration(dice: Random, status: Status, profile: Profile, calls: Sequence[SampleCall]) -> int:
    if status == "timeout":
        return MAX_DURATION_MS
    if not calls:
        return _lognormal(dice, 1500)
    tools = TOOL_MS if profile.tools else 0
    return min(MAX_DURATION_MS, tools + sum(call.duration_ms for call in calls) + 8)


def _lognormal(dice: Random, median_ms: int) -> int:
    return min(MAX_DURATION_MS // 3, int(median_ms * math.exp(0.5 * dice.gauss(0.0, 1.0))))


def _moments(dice: Random, *, count: int, days: int, until: datetime) -> Iterator[int]:
    """Ascending starts in milliseconds since the epoch; drawn hour by hour, so that only one hour's are in memory."""
    hours = days * 24
    first = until - _MARGIN - timedelta(days=days)
    weights = [_busy(first + timedelta(hours=hour)) for hour in range(hours)]
    whole, passed, done = sum(weights), 0, 0
    first_ms = (first - _EPOCH) // timedelta(milliseconds=1)
    for hour, weight in enumerate(weights):
        passed += weight
        due = count * passed // whole
        begin = first_ms + hour * 3_600_000
        yield from sorted(begin + int(dice.random() * 3_600_000) for _ in range(due - done))
        done = due


def _busy(moment: datetime) -> int:
    by_day = 10 if 7 <= moment.hour < 19 else 2
    return by_day if moment.weekday() < 5 else max(1, by_day // 3)
