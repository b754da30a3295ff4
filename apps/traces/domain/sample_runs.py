"""Invented runs that look like those of a busy tenant: the same seed, tenant and end give the same runs.

What most of a run consists of (who, which model, which texts) is drawn once for each of a fixed number of *profiles*;
the rest (when, how long, how many tokens) is drawn for each run. So memory stays small, however many runs are drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple, TypeVar

import msgspec

from apps.governance.domain.prices import Price, PriceBook
from apps.governance.domain.risk import RiskInput, Sensitivity, score_risk
from apps.traces.domain.record import Redacted, Risk, Status, Step, TraceEnd, TraceStart
from clasper.core.model_ref import ModelRef
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage, estimate_tokens

PROFILES = 1500
MAX_DURATION_MS = 110_000
"""Below a run's total deadline."""

TOOL_MS = 140
"""How long tools take; those of one answer run side by side."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TASK_MS = 7_200_000
"""For two hours runs belong to the same few tasks. Ids that grow with time also keep the indexes quick to fill."""

_MARGIN = timedelta(minutes=2)
"""The last run starts this long before the end, so that none ends after it."""

_PROTECTED = ("baseline", "incident", "hold")
"""Labels that protect a run from retention; one run in a thousand has one."""

_FAILURES: tuple[tuple[float, Status, str, str], ...] = (
    (0.045, "error", "provider_error", "The model's provider answered 503 after 3 attempts."),
    (0.055, "error", "budget_exceeded", "The budget does not cover the run."),
    (0.070, "timeout", "timeout", "The run took longer than allowed."),
    (0.085, "cancelled", "cancelled", "The caller went away."),
)
"""Up to which share of all runs each failure goes; the rest are successes."""

_MODELS = {
    ModelRef("openai", "gpt-4o-mini"): 34,
    ModelRef("openai", "gpt-4o"): 18,
    ModelRef("openai", "gpt-4.1-mini"): 8,
    ModelRef("anthropic", "claude-sonnet-4-5"): 18,
    ModelRef("anthropic", "claude-haiku-4-5"): 10,
    ModelRef("gemini", "gemini-2.5-flash"): 12,
}
_AGENTS = {"support": 45, "sales": 20, "research": 15, "billing": 12, "ops": 8}
_WORKSPACES = {"default": 60, "shop": 25, "back-office": 15}
_ENVIRONMENTS = {"prod": 78, "staging": 14, "dev": 8}
_KINDS = {"send": 55, "stream": 38, "llm_task": 6, "compact": 1}
_TOOLS = {
    "orders:lookup": 40,
    "crm:search": 25,
    "kb:search": 20,
    "calendar:book": 8,
    "mail:send_email": 5,
    "run_command": 2,
}
_SKILLS = {"orders": "1.4.0", "tone": "2.1.0", "refunds": "0.9.2", "research": "1.0.1"}
_LABELS = {"team": ("blue", "red", "green"), "channel": ("web", "mail", "phone"), "release": ("2026.1", "2026.2")}
_SENSITIVITY: dict[Sensitivity, int] = {"none": 85, "pii": 15}
_TEMPERATURES = {0.7: 70, 0.2: 20, 1.0: 10}

_WORDS = (
    "order refund customer invoice delivery the of a to we will please check status number tomorrow account shipment "
    "address returned payment confirmed with and for your this has been sent within two days parcel if not received"
)

T = TypeVar("T")


class SampleRun(NamedTuple):
    """A run that has ended. `message_id` is None when its answer was never delivered."""

    start: TraceStart
    end: TraceEnd
    message_id: str | None


class _Tool(NamedTuple):
    name: str
    input: Mapping[str, Any]
    output: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Profile:
    """What many runs have in common; `start` lacks what is a run's own."""

    start: TraceStart
    price: Price
    tools: tuple[_Tool, ...]
    answer: str
    prompt_tokens: int
    output_tokens: int


class _Call(NamedTuple):
    """A model call that was paid for."""

    usage: Usage
    cost: NanoUSD
    duration_ms: int


def sample_runs(
    *, tenant_id: str, count: int, days: int, seed: int, until: datetime, prices: PriceBook
) -> Iterator[SampleRun]:
    """`count` runs of the `days` before `until`, oldest first: busy by day, less so by night and at weekends."""
    dice = Random(f"{seed}:{tenant_id}:{count}:{days}:{until.isoformat()}")  # noqa: S311  repeatable, nothing secret
    profiles = [_draw_profile(dice, tenant_id, prices) for _ in range(PROFILES)]
    for started_ms in _moments(dice, count=count, days=days, until=until):
        yield _run(dice, profiles[int(dice.random() * PROFILES)], started_ms)


def _draw_profile(dice: Random, tenant_id: str, prices: PriceBook) -> _Profile:
    ref = _pick(dice, _MODELS)
    sensitivity, temperature = _pick(dice, _SENSITIVITY), _pick(dice, _TEMPERATURES)
    names = tuple(_pick(dice, _TOOLS) for _ in range(dice.choice((0, 0, 0, 1, 1, 2))))
    risk = score_risk(
        RiskInput(tool_count=len(names) + 2, tool_names=names, temperature=temperature, data_sensitivity=sensitivity)
    )
    message, answer, soul = _prose(dice, 15, 90), _prose(dice, 30, 130), dice.randrange(1500, 9000)
    sections = {"soul": soul, "skills": dice.randrange(300, 4000), "memory": dice.randrange(0, 2500), "time": 90}
    if sensitivity == "pii":
        message += " Write to [EMAIL] or call [PHONE]."
    content = {"message": message, "messages": [], "metadata": {}, "task_title": "Support", "prompt_sections": sections}
    start = TraceStart(
        id="",
        id_given=True,
        tenant_id=tenant_id,
        workspace_id=_pick(dice, _WORKSPACES),
        environment=_pick(dice, _ENVIRONMENTS),
        agent_id=_pick(dice, _AGENTS),
        user_id="",
        kind=_pick(dice, _KINDS),
        provider=ref.provider,
        model=ref.model,
        snapshot_hash="sha256:" + hashlib.sha256(str(dice.randrange(12)).encode()).hexdigest(),
        risk=Risk(score=risk.score, level=risk.level, factors={**risk.factors, "riskFactors": list(risk.risk_factors)}),
        skills=dict(sorted(dice.sample(sorted(_SKILLS.items()), dice.choice((0, 1, 1, 2))))),
        labels={key: dice.choice(values) for key, values in _LABELS.items() if dice.random() < 0.25},
        input=Redacted(content, {"email": 1, "phone": 1} if sensitivity == "pii" else {}),
        started_at=_EPOCH,
        lease_until=_EPOCH,
    )
    return _Profile(
        start=start,
        price=prices.price(ref.provider, ref.model),
        tools=tuple(_draw_tool(dice, name) for name in names),
        answer=answer,
        prompt_tokens=sum(sections.values()) // 4 + estimate_tokens(message),
        output_tokens=estimate_tokens(answer),
    )


def _draw_tool(dice: Random, name: str) -> _Tool:
    number = f"ORD-{dice.randrange(1000, 9999)}"
    return _Tool(name, {"order_id": number}, {"id": number, "note": _prose(dice, 8, 40)})


def _run(dice: Random, profile: _Profile, started_ms: int) -> SampleRun:
    status: Status = "success"
    code = error = ""
    luck = dice.random()
    if luck < _FAILURES[-1][0]:
        _, status, code, error = next(failure for failure in _FAILURES if luck < failure[0])
    calls = [] if code else [_call(dice, profile) for _ in range(2 if profile.tools else 1)]
    duration_ms = _duration(dice, status, profile, calls)
    bits = dice.getrandbits(74)
    digits = f"{started_ms << 80 | 7 << 76 | bits >> 62 << 64 | 2 << 62 | bits & (1 << 62) - 1:032x}"
    number = bits & 0xFFFF
    kept = {} if number % 1000 else {_PROTECTED[number % 3]: "true"}
    start = replace(
        profile.start,
        id=f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
        user_id=f"u-{number % 400}",
        labels={**profile.start.labels, **kept},
        started_at=_EPOCH + timedelta(milliseconds=started_ms),
    )
    end = TraceEnd(
        id=start.id,
        tenant_id=start.tenant_id,
        status=status,
        ended_at=start.started_at + timedelta(milliseconds=duration_ms),
        duration_ms=duration_ms,
        provider=start.provider,
        model=start.model,
        usage=sum((call.usage for call in calls), Usage()),
        cost=NanoUSD(sum(call.cost for call in calls)),
        price_version=profile.price.version,
        estimated=False,
        steps=tuple(_steps(profile, start, calls) if calls else _failed_step(start, status, code, duration_ms)),
        output=profile.answer if calls else None,
        error_code=code,
        error=error,
        task_id=f"task-{started_ms // _TASK_MS}-{number % 8}",
    )
    return SampleRun(start, end, None if code else f"msg-{digits}")


def _steps(profile: _Profile, start: TraceStart, calls: list[_Call]) -> Iterator[Step]:
    """A model call; then, if the profile has tools, their calls and a second model call."""
    asked, *answered = calls
    requested = [{"name": tool.name, "arguments": _json(tool.input)} for tool in profile.tools]
    at = start.started_at
    yield _model_step(1, start, asked, at, {"text": "", "tool_calls": requested} if answered else None)
    at += timedelta(milliseconds=asked.duration_ms)
    for seq, tool in enumerate(profile.tools, 2):
        yield Step(
            seq=seq,
            type="tool_call",
            name=tool.name,
            status="ok",
            started_at=at,
            duration_ms=TOOL_MS,
            input=tool.input,
            output=tool.output,
        )
    at += timedelta(milliseconds=TOOL_MS)
    for call in answered:
        yield _model_step(len(profile.tools) + 2, start, call, at, None)


def _model_step(seq: int, start: TraceStart, call: _Call, at: datetime, output: Any) -> Step:
    return Step(
        seq=seq,
        type="llm_call",
        name=start.model,
        provider=start.provider,
        status="ok",
        code="tool_calls" if output else "stop",
        started_at=at,
        duration_ms=call.duration_ms,
        prompt_tokens=call.usage.prompt_tokens,
        completion_tokens=call.usage.output,
        cost=call.cost,
        output=output,
    )


def _failed_step(start: TraceStart, status: Status, code: str, duration_ms: int) -> Iterator[Step]:
    """The model call that failed; a run without budget made none."""
    if code != "budget_exceeded":
        yield Step(
            seq=1,
            type="llm_call",
            name=start.model,
            provider=start.provider,
            status="cancelled" if status == "cancelled" else "error",
            code=code,
            started_at=start.started_at,
            duration_ms=duration_ms,
        )


def _call(dice: Random, profile: _Profile) -> _Call:
    prompt = int(profile.prompt_tokens * (0.6 + 0.8 * dice.random())) + 1
    output = int(profile.output_tokens * (0.4 + 1.2 * dice.random())) + 1
    cached = prompt // 2 if output & 1 else 0
    usage = Usage(prompt - cached, cached, 0, output)
    return _Call(usage, profile.price.cost(usage).total, _lognormal(dice, 900 + 9 * output))


def _duration(dice: Random, status: Status, profile: _Profile, calls: list[_Call]) -> int:
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
    first = until - _MARGIN - timedelta(days=days)
    weights = [_weight(first + timedelta(hours=hour)) for hour in range(days * 24)]
    whole, passed, done = sum(weights), 0, 0
    first_ms = (first - _EPOCH) // timedelta(milliseconds=1)
    for hour, weight in enumerate(weights):
        passed += weight
        due = count * passed // whole
        begin = first_ms + hour * 3_600_000
        yield from sorted(begin + int(dice.random() * 3_600_000) for _ in range(due - done))
        done = due


def _weight(moment: datetime) -> int:
    """How busy the hour is."""
    by_day = 10 if 7 <= moment.hour < 19 else 2
    return by_day if moment.weekday() < 5 else max(1, by_day // 3)


def _prose(dice: Random, least: int, most: int) -> str:
    return " ".join(dice.choices(_WORDS.split(), k=dice.randint(least, most))).capitalize() + "."


def _pick(dice: Random, weighted: Mapping[T, int]) -> T:
    return dice.choices(list(weighted), list(weighted.values()))[0]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
