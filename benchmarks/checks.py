"""What the load generator and the upstream must agree on, or a run does not count."""

from __future__ import annotations

from typing import Any

from benchmarks.servers import HOSTS, Variant


def answers_in(*findings: dict[str, Any]) -> int:
    """How many requests were answered with 200, as the load generator found."""
    return sum(int(found["statuses"].get("200", 0)) for found in findings)


def refused_in(*findings: dict[str, Any]) -> list[str]:
    """Every answer that was not 200, and every request without one."""
    faults = []
    for found in findings:
        faults += [
            f"{count} answers with status {status}" for status, count in found["statuses"].items() if status != "200"
        ]
        if found["errors"]:
            faults.append(f"{found['errors']} requests without an answer")
    return faults


def served_faults(counts: dict[str, int], variant: Variant, answered: int, *, streams: bool = False) -> list[str]:
    """Whether provider and backend were asked exactly once a run, the provider in the variant's wire format."""
    kind = "completions_streamed" if streams else "completions"
    names = (kind, f"asked_{HOSTS[variant.provider].wire_format}", "messages", "tasks_list")
    asked = {name: counts.get(name, 0) for name in names}
    return [f"upstream {name}: {count} instead of {answered}" for name, count in asked.items() if count != answered]
