"""The chain's rules on plain values: what a hash covers, and that every kind of tampering is found where it begins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.audit.domain.chain import (
    EVENT_ALIASES,
    EVENT_TYPES,
    GENESIS,
    START,
    ChainPoint,
    ChainReport,
    ChainRow,
    appended_hash,
    check_end,
    entry_template,
    summarize_all,
    verify,
)
from clasper.core.canonical import canonical_json
from clasper.core.clock import iso
from tests.audit.chain import entry_hash

NOON = datetime(2026, 2, 10, 12, tzinfo=UTC)
LENGTH = 8
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip

GOLDEN: dict[str, Any] = {
    "timestamp": "2026-02-01T19:30:00.000Z",
    "event_type": "tool.denied",
    "tenant_id": "acme",
    "trace_id": "0194c8f0-7e1a-7000-8000-000000000001",
    "actor": "agent:jarvis",
    "details": {"tool": "delete_user", "reason": "Not in skill permissions"},
    "seq": 1,
    "prev_hash": GENESIS,
}


def appended(*, seq: int, prev_hash: str, details: dict[str, Any], **shown: Any) -> str:
    """The hash that an entry gets when it is appended."""
    return appended_hash(entry_template(details=canonical_json(details), **shown), ChainPoint(seq - 1, prev_hash))


def chain(length: int = LENGTH) -> list[ChainRow]:
    rows: list[ChainRow] = []
    for seq in range(length):
        rows.append(_row(ChainPoint(seq, rows[-1].hash) if rows else START, {"n": seq + 1}))
    return rows


def _row(last: ChainPoint, details: dict[str, Any]) -> ChainRow:
    at = NOON + timedelta(milliseconds=last.seq)
    digest = entry_hash(
        tenant_id="acme",
        seq=last.seq + 1,
        timestamp=iso(at),
        event_type="tool.call",
        trace_id=None,
        actor="agent:jarvis",
        details=details,
        prev_hash=last.hash,
    )
    text = canonical_json(details).decode()
    return ChainRow(last.seq + 1, at, "tool.call", "acme", None, "agent:jarvis", text, last.hash, digest)


def closed(rows: list[ChainRow], head: ChainRow) -> ChainReport:
    """The verification as the verb does it: entries up to the head, then the head, then what lies beyond."""
    report = verify(row for row in rows if row.seq <= head.seq)
    return check_end(report, head=ChainPoint(head.seq, head.hash), last_stored_seq=max(row.seq for row in rows))


def test_golden_hash() -> None:
    first = appended(**GOLDEN)
    assert first == "174592e9b08e77e62e08db7cef801a89b16fb346f04036d220d8c4cae5e5dca1"
    odd = {"actor": "user:1", "tenant_id": 'acmé "x"\n', "trace_id": None, "event_type": "budget.set"}
    details = {"limit": 1.5, "b": [1, None, True], "a": {"é": "ü"}}
    assert (
        appended(**{**GOLDEN, **odd, "details": details, "seq": 2, "prev_hash": first})
        == "b711ddab425dc412c812135b94abb3bfc5f57a13205579646309c3b7a7abee77"
    )


@given(texts, texts, st.none() | texts, st.integers(1, 2**53 - 1), st.dictionaries(texts, values, max_size=4))
def test_hash_is_that_of_the_reference_canonical_json(
    tenant_id: str, actor: str, trace_id: str | None, seq: int, details: dict[str, Any]
) -> None:
    shown = {**GOLDEN, "tenant_id": tenant_id, "actor": actor, "trace_id": trace_id, "seq": seq, "details": details}
    assert appended(**shown) == entry_hash(**shown)


@pytest.mark.parametrize("bad", [float("nan"), 2**60, "\ud800"], ids=["nan", "big integer", "lone surrogate"])
def test_what_json_cannot_carry_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        appended(**{**GOLDEN, "details": {"value": bad}})


def test_empty_and_whole_chains_are_valid() -> None:
    assert verify([]) == ChainReport(
        valid=True, checked=0, first_bad_seq=None, reason="", last_seq=0, last_hash=GENESIS
    )
    rows = chain()
    report = closed(rows, rows[-1])
    assert (report.valid, report.checked, report.last_seq, report.last_hash) == (True, LENGTH, LENGTH, rows[-1].hash)


def test_verification_can_start_at_a_known_point() -> None:
    rows = chain()
    report = verify(rows[3:], ChainPoint(3, rows[2].hash))
    assert (report.valid, report.checked, report.last_seq) == (True, LENGTH - 3, LENGTH)
    assert verify(rows[3:], ChainPoint(3, GENESIS)).first_bad_seq == 4


EDITS: dict[str, Any] = {
    "timestamp": NOON - timedelta(days=1),
    "event_type": "tool.denied",
    "tenant_id": "globex",
    "trace_id": "0194c8f0-7e1a-7000-8000-000000000001",
    "actor": "agent:other",
    "details": '{"n":0}',
    "prev_hash": "f" * 64,
    "hash": "f" * 64,
}


@given(st.integers(1, LENGTH), st.sampled_from(sorted(EDITS)))
def test_an_edit_is_found(seq: int, field: str) -> None:
    rows = chain()
    head = rows[-1]
    rows[seq - 1] = rows[seq - 1]._replace(**{field: EDITS[field]})
    assert closed(rows, head).first_bad_seq == seq


@given(st.integers(1, LENGTH - 1))
def test_an_edit_with_its_hash_recomputed_is_betrayed_by_the_next(seq: int) -> None:
    rows = chain()
    rows[seq - 1] = _row(ChainPoint(seq - 1, rows[seq - 1].prev_hash), {"n": "forged"})
    assert closed(rows, rows[-1]).first_bad_seq == seq + 1


def test_the_last_entry_recomputed_is_betrayed_by_the_head() -> None:
    rows = chain()
    head = rows[-1]
    rows[-1] = _row(ChainPoint(LENGTH - 1, head.prev_hash), {"n": "forged"})
    assert closed(rows, head).first_bad_seq == LENGTH


@given(st.data())
def test_deleted_entries_are_found(data: st.DataObject) -> None:
    rows = chain()
    gone = data.draw(st.sets(st.integers(1, LENGTH), min_size=1, max_size=LENGTH - 1))
    assert closed([row for row in rows if row.seq not in gone], rows[-1]).first_bad_seq == min(gone)


@given(st.integers(0, LENGTH))
def test_an_inserted_entry_is_found(after: int) -> None:
    """The forger shifts what follows, as the unique seq demands, and computes the new entry's hash rightly."""
    rows = chain()
    last = ChainPoint(after, rows[after - 1].hash if after else GENESIS)
    forged = _row(last, {"n": "forged"})
    shifted = [row._replace(seq=row.seq + 1) for row in rows[after:]]
    head = rows[-1]._replace(seq=LENGTH + 1) if shifted else rows[-1]
    bad = after + 2 if shifted else after + 1
    assert closed([*rows[:after], forged, *shifted], head).first_bad_seq == bad


@given(st.data())
def test_reordered_entries_are_found(data: st.DataObject) -> None:
    rows = chain()
    first, second = sorted(data.draw(st.sets(st.integers(1, LENGTH), min_size=2, max_size=2)))
    moved, other = rows[first - 1], rows[second - 1]
    rows[first - 1], rows[second - 1] = other._replace(seq=first), moved._replace(seq=second)
    head = rows[-1]
    assert closed(rows, head).first_bad_seq == first


def test_an_entry_before_the_first_is_out_of_place() -> None:
    rows = chain(2)
    assert verify([rows[0]._replace(seq=0), *rows]).first_bad_seq == 0


@pytest.mark.parametrize("field", ["timestamp", "details"])
def test_a_column_that_cannot_be_read_is_bad(field: str) -> None:
    rows = chain()
    unreadable: dict[str, Any] = {field: None}
    rows[4] = rows[4]._replace(**unreadable)
    report = closed(rows, rows[-1])
    assert (report.first_bad_seq, report.checked, report.reason) == (5, 4, "entry 5 is unreadable")


def test_several_chains_are_summed_up() -> None:
    good, bad = verify(chain()), verify(chain()[2:])
    assert summarize_all({"": good, "acme": good}).valid
    summary = summarize_all({"acme": good, "globex": bad})
    assert (summary.valid, summary.first_bad_seq) == (False, 1)
    assert [each.tenant_id for each in summary.tenants] == ["acme", "globex"]


def test_events_are_explained_and_aliases_lead_to_them() -> None:
    assert all(name and meaning.endswith(".") for name, meaning in EVENT_TYPES.items())
    assert set(EVENT_ALIASES.values()) <= set(EVENT_TYPES)
    assert max(map(len, EVENT_TYPES)) <= 64
