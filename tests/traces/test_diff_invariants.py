"""What holds for any two runs that are compared."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apps.traces.domain.diff import diff_traces, step_digests, summary_sentence
from apps.traces.domain.views import TraceDetail
from tests.traces.compared import detail, step

_json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), st.lists, max_leaves=3)
_steps = st.builds(
    step,
    seq=st.integers(1, 9),
    kind=st.sampled_from(["llm_call", "tool_call", "error"]),
    name=st.sampled_from(["search", "find"]),
    status=st.sampled_from(["ok", "error", "denied"]),
    code=st.sampled_from(["", "stop"]),
    duration_ms=st.integers(0, 9),
    input=_json,
    output=_json,
)
_details = st.builds(
    detail,
    trace_id=st.sampled_from(["a", "b"]),
    steps=st.lists(_steps, max_size=5),
    status=st.sampled_from(["running", "success", "error"]),
    error=st.sampled_from(["", "Broken"]),
    error_code=st.sampled_from(["", "timeout"]),
    model=st.sampled_from(["gpt-4", "o3", ""]),
    provider=st.sampled_from(["openai", ""]),
    duration_ms=st.none() | st.integers(0, 5000),
    cost=st.integers(0, 2**53),
    prompt_tokens=st.integers(0, 99),
    snapshot_hash=st.sampled_from(["", "sha256:0"]),
    skill_versions=st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12")),
    input=st.none(),
    output=st.none() | st.text(max_size=9).map(lambda text: {"response": text}) | _json,
)
_SWAPPED = {"base": "compare", "added": "removed", "addedNames": "removedNames"}
_OTHER = {**_SWAPPED, **{other: one for one, other in _SWAPPED.items()}}
_ONE_SIDED = {"percentChange", "significantChanges"}
"""What is measured by the base alone."""


def mirrored(value: Any, name: str = "") -> Any:
    """A comparison as seen from the other side."""
    if isinstance(value, dict):
        return {_other_side(key): mirrored(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [mirrored(each) for each in value]
    return -value if name.lower().endswith(("delta", "deltams")) and value is not None else value


def _other_side(key: str) -> str:
    if key in _OTHER:
        return _OTHER[key]
    one = next((each for each in ("base", "compare") if key.startswith(each)), "")
    return _OTHER[one] + key.removeprefix(one) if one else key


def unordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: unordered(each) for key, each in sorted(value.items()) if key not in _ONE_SIDED}
    return sorted(map(unordered, value), key=repr) if isinstance(value, list) else value


@given(_details)
def test_a_run_equals_itself(run: TraceDetail) -> None:
    found = diff_traces(run, run, include_text=True)
    assert found["summary"] == {"totalDifferences": 0, "significantChanges": []}
    assert found["steps"]["firstDivergence"] is None
    assert found["steps"]["identical"] is True
    assert found["output"]["textDiff"] == {"lines": [], "truncated": False}
    assert summary_sentence(found).endswith(": no significant differences.")


@given(_details, _details)
def test_the_other_way_round_is_the_mirror(base: TraceDetail, compare: TraceDetail) -> None:
    there, back = diff_traces(base, compare), diff_traces(compare, base)
    assert unordered(mirrored(there)) == unordered(back)


@given(_details, _details)
def test_whatever_differs_is_counted(base: TraceDetail, compare: TraceDetail) -> None:
    found = diff_traces(base, compare)
    summary, steps = found["summary"], found["steps"]
    assert steps["identical"] == (step_digests(base) == step_digests(compare)) == (steps["firstDivergence"] is None)
    if summary["significantChanges"] or not steps["identical"]:
        assert summary["totalDifferences"] > 0
    assert summary_sentence(found).startswith("Compared traces ")
