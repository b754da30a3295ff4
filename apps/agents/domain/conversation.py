"""Sizes and wording of the conversation: what is reserved for it, when to warn, what a kickoff adds."""

from __future__ import annotations

from collections.abc import Iterable

from apps.agents.domain.requests import Turn

DEFAULT_KICKOFF = "Draft a short, concrete plan for the request below before anything else."

MESSAGE_OVERHEAD_TOKENS = 16
"""Tokens a provider adds around one message; the published counting recipes say 3 to 8."""

MIN_OUTPUT_TOKENS = 64
"""Less output than this is not worth a call: the budget refuses instead (rulings §4.2)."""


def prompt_ceiling(*, workspace_bytes: int, foreign_bytes: int, schema_bytes: int, messages: int) -> int:
    """Tokens the prompt can cost at most, which is what a reservation must cover.

    A byte-level tokenizer never makes more tokens than bytes, so whatever callers and tools wrote counts a token a
    byte. The workspace is prose of the operator and real tokenizers need less than a third of its bytes; JSON schemas
    need less than half.
    """
    return -(-workspace_bytes // 3) + foreign_bytes + -(-schema_bytes // 2) + messages * MESSAGE_OVERHEAD_TOKENS


def context_warning(*, tokens: int, window: int, threshold: float) -> str:
    """The warning of the API reference when usage is strictly over `threshold` percent of the window, else empty."""
    percent = 100 * tokens / window
    if percent <= threshold:
        return ""
    return f"Context usage is {percent:.1f}% of {window} tokens. Consider compacting history."


def kickoff_message(*, note: str, message: str) -> str:
    """The user turn of a kickoff: the note steers, the request follows."""
    return f"{note or DEFAULT_KICKOFF}\n\nUser request: {message}"


def one_system(system: str, turns: Iterable[Turn]) -> tuple[str, tuple[Turn, ...]]:
    """The system prompt with all system turns under it, in order and blank lines between, and the other turns.

    Some providers read one system prompt only, and only at the start.
    """
    others: list[Turn] = []
    parts = [system]
    for turn in turns:
        if turn.role == "system":
            parts.append(turn.text)
        else:
            others.append(turn)
    return "\n\n".join(part for part in parts if part.strip()), tuple(others)


def plan_document(*, note: str, reply: str) -> str:
    """The plan document: headed by the note when there is one."""
    return f"{note}\n\n{reply}" if note else reply
