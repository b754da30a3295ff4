"""Invented runs that look like those of a busy tenant: the same seed, tenant and end yield the same runs.

A fixed number of *templates* is drawn, each a whole run; every run is one of them with an id, a user, a task and a time
of its own. So memory stays small, however many runs are made.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple, TypeVar

from apps.governance.domain.prices import Price, PriceBook
from apps.governance.domain.risk import RiskInput, Sensitivity, score_risk
from apps.traces.domain.record import Redacted, Status, Step, TraceEnd, TraceRisk, TraceStart
from apps.traces.domain.retention import PROTECTING_KEYS
from clasper.core.model_ref import ModelRef
from clasper.core.money import NanoUSD
from clasper.core.usage import Usage, estimate_tokens

TEMPLATES = 1500
MAX_DURATION_MS = 110_000
"""Below a run's total deadline."""

TOOL_MS = 140
OVERHEAD_MS = 8

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TASK_MS = 7_200_000
"""For two hours runs belong to the same few tasks. Ids that grow with time also keep the indexes quick to fill."""

_MARGIN = timedelta(minutes=2)
"""The last run starts this long before the end, so that none ends after it."""

_ONE_PROTECTED_IN = 1000
"""One run in so many has a label that protects it from retention."""

_OUTCOMES: dict[tuple[Status, str, str], int] = {
    ("success", "", ""): 915,
    ("error", "provider_error", "The model's provider answered 503 after 3 attempts."): 45,
    ("error", "budget_exceeded", "The budget does not cover the run."): 10,
    ("timeout", "timeout", "The run took longer than allowed."): 15,
    ("cancelled", "cancelled", "The caller went away."): 15,
}

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


def sample_runs(
    *, tenant_id: str, count: int, days: int, seed: int, until: datetime, prices: PriceBook
) -> Iterator[SampleRun]:
    """`count` runs of the `days` before `until`, oldest first: busy by day, less so by night and at weekends."""
    dice = Random(f"{seed}:{tenant_id}:{count}:{days}:{until.isoformat()}")  # noqa: S311  repeatable, nothing secret
    templates = [_template(dice, tenant_id, prices) for _ in range(TEMPLATES)]
    for started_ms in _moments(dice, count=count, days=days, until=until):
        yield _begun_at(started_ms, templates[int(dice.random() * TEMPLATES)], dice.getrandbits(74))


def _template(dice: Random, tenant_id: str, prices: PriceBook) -> SampleRun:
    """A run that began at the epoch."""
    ref = _pick(dice, _MODELS)
    price = prices.price(ref.provider, ref.model)
    sensitivity = _pick(dice, _SENSITIVITY)
    tools = tuple(_pick(dice, _TOOLS) for _ in range(dice.choice((0, 0, 0, 1, 1, 2))))
    risk = score_risk(
        RiskInput(
            tool_count=len(tools) + 2,
            tool_names=tools,
            temperature=_pick(dice, _TEMPERATURES),
            data_sensitivity=sensitivity,
        )
    )
    factors = {**risk.factors, "riskFactors": list(risk.risk_factors)}
    message, answer = _prose(dice, 15, 90), _prose(dice, 30, 130)
    if sensitivity == "pii":
        message += " Write to [EMAIL] or call [PHONE]."
    soul, skills, memory = dice.randrange(1500, 9000), dice.randrange(300, 4000), dice.randrange(0, 2500)
    sections = {"soul": soul, "skills": skills, "memory": memory, "time": 90}
    content = {"message": message, "messages": [], "metadata": {}, "task_title": "Support", "prompt_sections": sections}
    prompt_tokens = sum(sections.values()) // 4 + estimate_tokens(message)
    status, code, error = _pick(dice, _OUTCOMES)
    calls = [] if code else list(_calls(dice, ref, price, tools, prompt_tokens, estimate_tokens(answer)))
    steps = tuple(_in_order([step for step, _ in calls] or _failed(dice, ref, status, code)))
    duration_ms = OVERHEAD_MS + sum(step.duration_ms for step in steps)
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
        risk=TraceRisk(score=risk.score, level=risk.level, factors=factors),
        skills=dict(sorted(dice.sample(sorted(_SKILLS.items()), dice.choice((0, 1, 1, 2))))),
        labels={key: dice.choice(values) for key, values in _LABELS.items() if dice.random() < 0.25},
        input=Redacted(content, {"email": 1, "phone": 1} if sensitivity == "pii" else {}),
        started_at=_EPOCH,
        lease_until=_EPOCH,
    )
    end = TraceEnd(
        id="",
        tenant_id=tenant_id,
        status=status,
        ended_at=_EPOCH + timedelta(milliseconds=duration_ms),
        duration_ms=duration_ms,
        provider=ref.provider,
        model=ref.model,
        usage=sum((usage for _, usage in calls), Usage()),
        cost=NanoUSD(sum(step.cost for step in steps)),
        price_version=price.version,
        estimated=False,
        steps=steps,
        output=answer if calls else None,
        error_code=code,
        error=error,
    )
    return SampleRun(start, end, "" if calls else None)


def _begun_at(started_ms: int, run: SampleRun, bits: int) -> SampleRun:
    """The template with what is a run's own; all of it but the time follows from 74 random bits."""
    later = timedelta(milliseconds=started_ms)
    digits = f"{started_ms << 80 | 7 << 76 | bits >> 62 << 64 | 2 << 62 | bits & (1 << 62) - 1:032x}"
    trace_id = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    number = bits & 0xFFFF
    protected = {} if number % _ONE_PROTECTED_IN else {PROTECTING_KEYS[number % len(PROTECTING_KEYS)]: "true"}
    start = replace(
        run.start,
        id=trace_id,
        user_id=f"u-{number % 400}",
        labels={**run.start.labels, **protected},
        started_at=run.start.started_at + later,
    )
    end = replace(
        run.end,
        id=trace_id,
        ended_at=run.end.ended_at + later,
        steps=tuple(replace(step, started_at=step.started_at + later) for step in run.end.steps),
        task_id=f"task-{started_ms // _TASK_MS}-{number % 8}",
    )
    return SampleRun(start, end, None if run.message_id is None else f"msg-{digits}")


def _calls(
    dice: Random, ref: ModelRef, price: Price, tools: tuple[str, ...], prompt_tokens: int, output_tokens: int
) -> Iterator[tuple[Step, Usage]]:
    """A model call; if it asks for tools, their calls and a second model call."""
    order = f"ORD-{dice.randrange(1000, 9999)}"
    asked = {"text": "", "tool_calls": [{"name": tool, "arguments": f'{{"order_id":"{order}"}}'} for tool in tools]}
    for last in (False, True) if tools else (True,):
        prompt = int(prompt_tokens * (0.6 + 0.8 * dice.random())) + 1
        output = int(output_tokens * (0.4 + 1.2 * dice.random())) + 1
        cached = prompt // 2 if output & 1 else 0
        usage = Usage(prompt - cached, cached, 0, output)
        call = _model_call(ref, "ok", "stop" if last else "tool_calls", _lognormal(dice, 900 + 9 * output))
        facts: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": output, "cost": price.cost(usage).total}
        yield replace(call, **facts, output=None if last else asked), usage
        for tool in () if last else tools:
            result = {"id": order, "note": _prose(dice, 8, 40)}
            yield replace(_TOOL_CALL, name=tool, input={"order_id": order}, output=result), Usage()


def _failed(dice: Random, ref: ModelRef, status: Status, code: str) -> list[Step]:
    """The model call that failed; a run without budget made none."""
    if code == "budget_exceeded":
        return []
    duration_ms = MAX_DURATION_MS - OVERHEAD_MS if status == "timeout" else _lognormal(dice, 1500)
    return [_model_call(ref, "cancelled" if status == "cancelled" else "error", code, duration_ms)]


_TOOL_CALL = Step(seq=0, type="tool_call", name="", status="ok", started_at=_EPOCH, duration_ms=TOOL_MS)


def _model_call(ref: ModelRef, status: str, code: str, duration_ms: int) -> Step:
    return Step(
        seq=0,
        type="llm_call",
        name=ref.model,
        provider=ref.provider,
        status=status,
        code=code,
        started_at=_EPOCH,
        duration_ms=duration_ms,
    )


def _in_order(steps: list[Step]) -> Iterator[Step]:
    """The steps with their places; each begins when the one before it ends."""
    at = _EPOCH
    for seq, step in enumerate(steps, 1):
        yield replace(step, seq=seq, started_at=at)
        at += timedelta(milliseconds=step.duration_ms)


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
