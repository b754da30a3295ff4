"""How two runs differ: section by section, the first step where they part, and a summary in one sentence.

Every delta is the compared run's value minus the base's. Amounts of money are dollars, exact to nine decimals. Texts
are compared as far as retention has left them in both runs; `context` shows both storage modes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from apps.traces.domain.retention import poorer
from apps.traces.domain.step_diff import outline, step_digests, steps, tool_calls
from apps.traces.domain.text_diff import text_diff
from apps.traces.domain.views import TraceDetail
from clasper.core.money import usd

__all__ = ["diff_traces", "step_digests", "summary_sentence"]

_NAMES_SHOWN = 5


def diff_traces(base: TraceDetail, compare: TraceDetail, *, include_text: bool = False) -> dict[str, Any]:
    """The sections of the comparison, as the API shows them, with `summary` last.

    `summary.totalDifferences` counts the sections that differ at all, `summary.significantChanges` names what matters.
    With `include_text`, `output.textDiff` holds unified diff lines of the two answers. `messagesEqual`,
    `messageLengthDelta` and `textDiff` are None when an answer was stripped.
    """
    mode = compare.storage_mode if poorer(compare.storage_mode, base.storage_mode) else base.storage_mode
    known = _left(base, mode), _left(compare, mode)
    diff: dict[str, Any] = {
        "traceIds": {"base": base.id, "compare": compare.id},
        "context": {
            "sameTenant": base.tenant_id == compare.tenant_id,
            "sameWorkspace": base.workspace_id == compare.workspace_id,
            "sameAgent": base.agent_id == compare.agent_id,
            **_both(base, compare, StorageMode="storage_mode"),
        },
        "timing": _timing(base, compare),
        "model": {
            **_both(base, compare, Model="model", Provider="provider"),
            "changed": (base.model, base.provider) != (compare.model, compare.provider),
        },
        "workspace": {
            "baseHash": base.snapshot_hash or None,
            "compareHash": compare.snapshot_hash or None,
            "changed": base.snapshot_hash != compare.snapshot_hash,
        },
        "skills": _skills(base.skill_versions, compare.skill_versions),
        "usage": _usage(base, compare),
        "cost": {
            "baseCost": usd(base.cost),
            "compareCost": usd(compare.cost),
            "delta": usd(compare.cost - base.cost),
            "percentChange": _percent(base.cost, compare.cost),
        },
        "toolCalls": tool_calls(known[0].steps, known[1].steps),
        "steps": steps(*known),
        "output": _output(base, compare, include_text, comparable=mode != "minimal"),
        "errors": _errors(base, compare),
    }
    diff["summary"] = {
        "totalDifferences": sum(_differing(diff, *known).values()),
        "significantChanges": _significant(diff, *known),
    }
    return diff


def summary_sentence(diff: Mapping[str, Any]) -> str:
    """The comparison in one sentence that lists every significant change of a `diff_traces` result."""
    ids = diff["traceIds"]
    phrases = [_PHRASES[token](diff) for token in diff["summary"]["significantChanges"]]
    summary = ", ".join(phrases) or "no significant differences"
    summary = summary[0].upper() + summary[1:] if phrases else summary
    return f"Compared traces {ids['base']} vs {ids['compare']}: {summary}."


def _left(detail: TraceDetail, mode: str) -> TraceDetail:
    """The run with what a storage mode leaves of its texts."""
    if mode == "full":
        return detail
    bare = tuple(replace(step, arguments=None, output=None) for step in detail.steps)
    return replace(detail, steps=bare, error=None if mode == "minimal" else detail.error)


# --- Sections ---------------------------------------------------------------------------------------------------------


def _both(base: Any, compare: Any, **fields: str) -> dict[str, Any]:
    """Fields of both runs, by the names they are shown under: `Model="model"` is `baseModel` and `compareModel`."""
    sides = {"base": base, "compare": compare}
    return {f"{side}{name}": getattr(run, field) for name, field in fields.items() for side, run in sides.items()}


def _timing(base: TraceDetail, compare: TraceDetail) -> dict[str, Any]:
    old, new = base.duration_ms, compare.duration_ms
    known = old is not None and new is not None
    return {
        **_both(base, compare, DurationMs="duration_ms"),
        "deltaMs": new - old if old is not None and new is not None else None,
        "percentChange": _percent(old or 0, new or 0) if known else None,
    }


def _skills(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, Any]:
    both = [name for name in old if name in new]
    return {
        "added": {name: version for name, version in new.items() if name not in old},
        "removed": {name: version for name, version in old.items() if name not in new},
        "changed": {name: {"base": old[name], "compare": new[name]} for name in both if old[name] != new[name]},
        "unchanged": {name: old[name] for name in both if old[name] == new[name]},
    }


def _usage(base: TraceDetail, compare: TraceDetail) -> dict[str, int]:
    old, new = base.usage, compare.usage
    return {
        **_both(old, new, InputTokens="prompt_tokens", OutputTokens="completion_tokens"),
        "inputTokenDelta": new.prompt_tokens - old.prompt_tokens,
        "outputTokenDelta": new.completion_tokens - old.completion_tokens,
        "totalTokenDelta": new.total_tokens - old.total_tokens,
    }


def _output(base: TraceDetail, compare: TraceDetail, include_text: bool, *, comparable: bool) -> dict[str, Any]:
    old, new = _answer(base), _answer(compare)
    lengths = _utf16_units(old or ""), _utf16_units(new or "")
    shown: dict[str, Any] = {
        "baseHasOutput": old is not None,
        "compareHasOutput": new is not None,
        "messagesEqual": old == new if comparable else None,
        "baseMessageLength": lengths[0],
        "compareMessageLength": lengths[1],
        "messageLengthDelta": lengths[1] - lengths[0] if comparable else None,
    }
    if include_text:
        shown["textDiff"] = text_diff(old or "", new or "") if comparable else None
    return shown


def _answer(detail: TraceDetail) -> str | None:
    found = detail.output.get("response") if isinstance(detail.output, Mapping) else detail.output
    return found if found is None or isinstance(found, str) else json.dumps(found, sort_keys=True)


def _errors(base: TraceDetail, compare: TraceDetail) -> dict[str, Any]:
    return {
        **_both(base, compare, Error="error", Code="error_code", Status="status"),
        "baseHasError": bool(base.error or base.error_code),
        "compareHasError": bool(compare.error or compare.error_code),
    }


# --- What counts, and how it is worded -------------------------------------------------------------------------------


def _differing(diff: Mapping[str, Any], base: TraceDetail, compare: TraceDetail) -> dict[str, bool]:
    """Which sections differ at all. `context` says how comparable the runs are and is no difference by itself."""
    skills, tools, usage, timing = diff["skills"], diff["toolCalls"], diff["usage"], diff["timing"]
    model = diff["model"]["changed"]
    calls = any(tools[part] for part in ("removed", "added", "changed"))
    # Model and tool calls have sections of their own; `steps` counts for what these two do not explain.
    unexplained = outline(base) != outline(compare) or not (model or calls or diff["steps"]["identical"])
    return {
        "timing": timing["baseDurationMs"] != timing["compareDurationMs"],
        "model": model,
        "workspace": diff["workspace"]["changed"],
        "skills": any(skills[part] for part in ("added", "removed", "changed")),
        "usage": bool(usage["inputTokenDelta"] or usage["outputTokenDelta"]),
        "cost": base.cost != compare.cost,
        "toolCalls": calls,
        "steps": unexplained,
        "output": diff["output"]["messagesEqual"] is False,
        "errors": _failed_otherwise(base, compare) or base.status != compare.status,
    }


def _significant(diff: Mapping[str, Any], base: TraceDetail, compare: TraceDetail) -> list[str]:
    """What matters, in the order of the reference's sample."""
    tools = diff["toolCalls"]
    flipped = any(change["differences"]["successChanged"] for change in tools["changed"])
    found = {
        "model": base.model != compare.model,
        "provider": base.provider != compare.provider,
        "cost": _over_a_fifth(base.cost, compare.cost),
        "workspace": diff["workspace"]["changed"],
        "skills": bool(diff["skills"]["changed"]),
        "tool_calls": bool(tools["removedNames"] or tools["addedNames"] or flipped),
        "error": _failed_otherwise(base, compare),
        "output": diff["output"]["messagesEqual"] is False,
        "timing": compare.duration_ms is not None and _over_a_fifth(base.duration_ms or 0, compare.duration_ms),
    }
    return [token for token, matters in found.items() if matters]


def _failed_otherwise(base: TraceDetail, compare: TraceDetail) -> bool:
    return (base.error, base.error_code) != (compare.error, compare.error_code)


def _over_a_fifth(old: int, new: int) -> bool:
    return old > 0 and abs(new - old) * 5 > old


def _percent(old: int, new: int) -> float | int | None:
    """Change in per cent with two decimals; None when there is nothing to measure by."""
    if old <= 0:
        return None
    percent = round((new - old) * 100 / old, 2)
    return int(percent) if percent.is_integer() else percent


def _describe_change(section: str, name: str) -> Callable[[Mapping[str, Any]], str]:
    def describe(diff: Mapping[str, Any]) -> str:
        values = diff[section]
        return f"{name.lower()} changed ({values[f'base{name}'] or 'none'} → {values[f'compare{name}'] or 'none'})"

    return describe


def _describe_percent(section: str, name: str) -> Callable[[Mapping[str, Any]], str]:
    def describe(diff: Mapping[str, Any]) -> str:
        percent = diff[section]["percentChange"]
        return f"{name} {'decreased' if percent < 0 else 'increased'} by {abs(percent)}%"

    return describe


def _describe_skills(diff: Mapping[str, Any]) -> str:
    changed = [f"{name} {each['base']} → {each['compare']}" for name, each in diff["skills"]["changed"].items()]
    return f"skills changed ({_listed(changed)})"


def _describe_tool_calls(diff: Mapping[str, Any]) -> str:
    tools = diff["toolCalls"]
    flipped = {each["name"]: None for each in tools["changed"] if each["differences"]["successChanged"]}
    parts = {"added": tools["addedNames"], "removed": tools["removedNames"], "other success": list(flipped)}
    return f"tool calls changed ({'; '.join(f'{what} {_listed(names)}' for what, names in parts.items() if names)})"


def _describe_error(diff: Mapping[str, Any]) -> str:
    had, has = diff["errors"]["baseHasError"], diff["errors"]["compareHasError"]
    return "error changed" if had and has else "error appeared" if has else "error disappeared"


_PHRASES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "model": _describe_change("model", "Model"),
    "provider": _describe_change("model", "Provider"),
    "cost": _describe_percent("cost", "cost"),
    "workspace": lambda _: "workspace changed",
    "skills": _describe_skills,
    "tool_calls": _describe_tool_calls,
    "error": _describe_error,
    "output": lambda _: "output changed",
    "timing": _describe_percent("timing", "duration"),
}


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _utf16_units(text: str) -> int:
    return len(text) + sum(char > "\uffff" for char in text)
