"""What many invented runs have in common: who asks which model what, with which tools, skills and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import msgspec

from apps.governance.domain.prices import Price, PriceBook
from apps.governance.domain.risk import RiskInput, score_risk
from clasper.core.model_ref import ModelRef
from clasper.core.usage import estimate_tokens

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
_SENSITIVITY = {"none": 85, "pii": 15}
_TEMPERATURES = {0.7: 70, 0.2: 20, 1.0: 10}

T = TypeVar("T")

_WORDS = (
    "order refund customer invoice delivery the of a to we will please check status number tomorrow account shipment "
    "address returned payment confirmed with and for your this has been sent within two days parcel if not received"
)


@dataclass(frozen=True, slots=True)
class SampleTool:
    """A tool call; the texts are JSON."""

    name: str
    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What many runs have in common. `risk_factors`, `input`, `output` and `tool_calls` are JSON texts."""

    agent_id: str
    workspace_id: str
    environment: str
    kind: str
    ref: ModelRef
    price: Price
    tools: tuple[SampleTool, ...]
    skills: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str], ...]
    risk_score: int
    risk_level: str
    risk_factors: str
    workspace_hash: str
    redactions: int
    input: str
    output: str
    tool_calls: str
    prompt_tokens: int
    output_tokens: int


def draw_profile(dice: Random, prices: PriceBook) -> Profile:
    """A profile at random: frequent values often, rare ones rarely."""
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
    tools = tuple(_tool(dice, name) for name in names)
    content = {"message": message, "messages": [], "metadata": {}, "task_title": "Support", "prompt_sections": sections}
    return Profile(
        agent_id=_pick(dice, _AGENTS),
        workspace_id=_pick(dice, _WORKSPACES),
        environment=_pick(dice, _ENVIRONMENTS),
        kind=_pick(dice, _KINDS),
        ref=ref,
        price=prices.price(ref.provider, ref.model),
        tools=tools,
        skills=tuple(sorted(dice.sample(sorted(_SKILLS.items()), dice.choice((0, 1, 1, 2))))),
        labels=tuple((key, dice.choice(values)) for key, values in _LABELS.items() if dice.random() < 0.25),
        risk_score=risk.score,
        risk_level=risk.level,
        risk_factors=_json({**risk.factors, "riskFactors": list(risk.risk_factors)}),
        workspace_hash="sha256:" + hashlib.sha256(str(dice.randrange(12)).encode()).hexdigest(),
        redactions=2 if sensitivity == "pii" else 0,
        input=_json(content),
        output=_json({"response": answer}),
        tool_calls=_json({"text": "", "tool_calls": [{"name": tool.name, "arguments": tool.input} for tool in tools]}),
        prompt_tokens=sum(sections.values()) // 4 + estimate_tokens(message),
        output_tokens=estimate_tokens(answer),
    )


def _tool(dice: Random, name: str) -> SampleTool:
    number = f"ORD-{dice.randrange(1000, 9999)}"
    return SampleTool(name, _json({"order_id": number}), _json({"id": number, "note": _prose(dice, 8, 40)}))


def _prose(dice: Random, least: int, most: int) -> str:
    return " ".join(dice.choices(_WORDS.split(), k=dice.randint(least, most))).capitalize() + "."


def _pick(dice: Random, weighted: Mapping[T, int]) -> T:
    return dice.choices(list(weighted), list(weighted.values()))[0]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
