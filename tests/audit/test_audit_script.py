"""The stand-alone verifier: its canonical JSON and its Ed25519 against the reference libraries, and what it says."""

from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from apps.audit.domain.chain import GENESIS, ChainPoint
from apps.audit.domain.checkpoint import Checkpoint, sign_checkpoint
from clasper.core.clock import iso
from clasper.core.signing import read_signing_key
from tests.audit.chain import entry_hash

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "verify_audit.py"
KEY = read_signing_key(base64.b64encode(bytes(range(32))).decode())
OTHER_KEY = read_signing_key(base64.b64encode(bytes(32)).decode())
NOON = iso(datetime(2026, 2, 10, 12, tzinfo=UTC))


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load()


def entries(length: int = 4, tenant_id: str = "acme") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for seq in range(1, length + 1):
        covered = {
            "tenant_id": tenant_id,
            "seq": seq,
            "timestamp": NOON,
            "event_type": "tool.call",
            "trace_id": None,
            "actor": "agent:jarvis",
            "details": {"n": seq, "share": 0.1, "é": "\n"},
            "prev_hash": rows[-1]["hash"] if rows else GENESIS,
        }
        rows.append({"id": seq, **covered, "hash": entry_hash(**covered)})
    return rows


def checkpoint(seq: int, digest: str, key: Any = KEY, tenant_id: str = "acme") -> Checkpoint:
    return sign_checkpoint(tenant_id=tenant_id, point=ChainPoint(seq, digest), created_at=NOON, key=key)


def write(path: Path, *values: Any) -> str:
    path.write_text("".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values))
    return str(path)


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


# --- Canonical JSON -------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_canonical_json_is_the_reference_librarys(value: Any) -> None:
    assert script.canonical(value).encode() == rfc8785.dumps(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.0, "0"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (123.456, "123.456"),
        (-1.5e300, "-1.5e+300"),
        (5e-324, "5e-324"),
        (9007199254740993.0, "9007199254740992"),
    ],
)
def test_numbers_are_written_as_ecmascript_does(value: float, text: str) -> None:
    assert script.canonical(value) == text


# --- Ed25519 --------------------------------------------------------------------------------------------------------


def test_the_first_vector_of_rfc_8032() -> None:
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595b"
        "be24655141438e7a100b"
    )
    assert script.is_signed(b"", public, signature)
    assert not script.is_signed(b"x", public, signature)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.integers(0, 63), st.integers(0, 31))
def test_signatures_are_checked_as_the_reference_library_makes_them(
    secret: bytes, message: bytes, byte: int, key_byte: int
) -> None:
    key = Ed25519PrivateKey.from_private_bytes(secret)
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    assert script.is_signed(message, public, signature)
    assert not script.is_signed(message + b"x", public, signature)
    assert not script.is_signed(message, public, flipped(signature, byte))
    assert not script.is_signed(message, flipped(public, key_byte), signature)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_scalar_beyond_the_order_is_refused() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    signature = key.sign(b"m")
    scalar = int.from_bytes(signature[32:], "little") + script.ORDER
    forged = signature[:32] + scalar.to_bytes(32, "little")
    assert not script.is_signed(b"m", key.public_key().public_bytes_raw(), forged)


@pytest.mark.parametrize(("key", "signature"), [(b"", bytes(64)), (bytes(32), b""), (b"\xff" * 32, bytes(64))])
def test_what_is_no_key_or_signature_signs_nothing(key: bytes, signature: bytes) -> None:
    assert not script.is_signed(b"m", key, signature)


# --- Files ----------------------------------------------------------------------------------------------------------


def test_a_whole_export_is_valid(tmp_path: Path) -> None:
    rows = entries()
    last = {"checkpoint": asdict(checkpoint(4, rows[-1]["hash"]))}
    code, text, _ = run(write(tmp_path / "a", *rows, last), "--public-key", KEY.public_key)
    assert (code, text) == (0, f"acme: valid, 4 entries, head {rows[-1]['hash']}, checkpoint at 4\n")


def test_without_a_checkpoint_it_says_what_would_not_show(tmp_path: Path) -> None:
    code, text, _ = run(write(tmp_path / "a", *entries()))
    assert (code, text.endswith("no checkpoint compared: a cut end is not seen\n")) == (0, True)


def test_each_tenant_has_a_result(tmp_path: Path) -> None:
    rows, others = entries(), entries(2, tenant_id="globex")
    del others[0]
    code, text, _ = run(write(tmp_path / "a", *rows, *others))
    assert code == 1
    assert text.splitlines()[0].startswith("acme: valid, 4 entries")
    assert text.splitlines()[1] == "globex: BROKEN, first bad seq 1: entry 1 is missing"


def test_a_part_of_a_chain_begins_where_it_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "a", *entries()[2:])
    assert "first bad seq 1: entry 1 is missing" in run(path)[1]
    code, text, _ = run(path, "--part")
    assert (code, text.endswith("no checkpoint compared: a cut end is not seen\n")) == (0, True)


def test_a_part_must_follow_the_checkpoint_before_it(tmp_path: Path) -> None:
    rows = entries(7)
    kept = write(tmp_path / "kept", asdict(checkpoint(5, rows[4]["hash"])))
    options = ("--part", "--checkpoint", kept, "--public-key", KEY.public_key)
    code, text, _ = run(write(tmp_path / "a", *rows[5:]), *options)
    assert (code, text.endswith("checkpoint at 5\n")) == (0, True)
    code, text, _ = run(write(tmp_path / "b", *invented(6, 7)), *options)
    assert code == 1
    assert text == "acme: BROKEN, first bad seq 6: entry 6 does not follow the entry 5 that its checkpoint names\n"


def test_only_checkpoints_that_were_compared_count(tmp_path: Path) -> None:
    rows = entries(7)
    before, after = (write(tmp_path / str(n), asdict(checkpoint(n, rows[n - 1]["hash"]))) for n in (2, 7))
    part = write(tmp_path / "a", *rows[3:6])
    for kept in (before, after):
        code, text, _ = run(part, "--part", "--checkpoint", kept)
        assert (code, "no checkpoint compared" in text) == (0, True)
        code, text, _ = run(part, "--part", "--checkpoint", kept, "--public-key", KEY.public_key)
        assert (code, text) == (1, "acme: NOT VERIFIED: there is no checkpoint to compare them with\n")
    own = write(tmp_path / "b", *rows[3:6], {"checkpoint": asdict(checkpoint(7, rows[6]["hash"]))})
    assert "first bad seq 7: entry 7 is missing" in run(own, "--part")[1]


def test_a_part_from_the_first_entry_begins_a_chain(tmp_path: Path) -> None:
    code, text, _ = run(write(tmp_path / "a", *invented(1, 2)), "--part")
    assert (code, "first bad seq 1: entry 1 does not follow entry 0" in text) == (1, True)


@pytest.mark.parametrize("options", [(), ("--tenant", "acme"), ("--public-key", KEY.public_key), ("--part",)], ids=str)
def test_nothing_is_not_verified(tmp_path: Path, options: tuple[str, ...]) -> None:
    code, text, _ = run(write(tmp_path / "a"), *options)
    assert (code, "there are no entries" in text or "there is no chain" in text) == (1, True)


def test_with_a_key_every_chain_needs_a_checkpoint(tmp_path: Path) -> None:
    rows, others = entries(), entries(2, tenant_id="globex")
    last = {"checkpoint": asdict(checkpoint(4, rows[3]["hash"]))}
    code, text, _ = run(write(tmp_path / "a", *rows, last, *others), "--public-key", KEY.public_key)
    assert code == 1
    assert text.splitlines()[0].startswith("acme: valid, 4 entries")
    assert text.splitlines()[1] == "globex: NOT VERIFIED: there is no checkpoint to compare them with"


def test_what_the_export_says_is_wrong_is_believed(tmp_path: Path) -> None:
    broken = {"broken": {"tenant_id": "acme", "first_bad_seq": 5, "reason": "entry 5 does not follow entry 4"}}
    code, text, _ = run(write(tmp_path / "a", *entries(), broken))
    assert (code, text) == (
        1,
        "acme: BROKEN, first bad seq 5: entry 5 does not follow entry 4, as the export says\n",
    )


def invented(first: int, last: int) -> list[dict[str, Any]]:
    """A chain from nowhere whose hashes are right."""
    rows: list[dict[str, Any]] = []
    previous = "f" * 64
    for row in entries(last)[first - 1 :]:
        covered = {name: value for name, value in row.items() if name not in ("id", "hash")} | {"prev_hash": previous}
        previous = entry_hash(**covered)
        rows.append({"id": row["seq"], **covered, "hash": previous})
    return rows


def edited(rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    return [*rows[:2], {**rows[2], **changes}, *rows[3:]]


@pytest.mark.parametrize(
    "changes",
    [
        {"actor": "x"},
        {"details": "not JSON"},
        {"details": {"n": 3.5}},
        {"details": {"\ud800": "\ud800"}},
        {"details": 10**400},
        {"timestamp": None},
        {"trace_id": 7},
        {"hash": "0" * 64},
        {"prev_hash": GENESIS},
        {"tenant_id": "globex"},
    ],
    ids=str,
)
def test_an_edited_entry_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    code, text, error = run(write(tmp_path / "a", *edited(entries(), **changes)), "--tenant", "acme")
    assert (code, error) == (1, "")
    assert text.startswith("acme: BROKEN, first bad seq 3: ")


def test_entries_out_of_order_are_found(tmp_path: Path) -> None:
    rows = entries()
    rows[1], rows[2] = rows[2], rows[1]
    assert "first bad seq 2:" in run(write(tmp_path / "a", *rows))[1]
    assert "first bad seq 2: entries are out of place" in run(write(tmp_path / "b", *entries()[:2], entries()[1]))[1]


def test_kept_checkpoints_are_held_against_the_file(tmp_path: Path) -> None:
    rows = entries()
    path = write(tmp_path / "a", *rows)
    good = write(tmp_path / "good", json.dumps(asdict(checkpoint(2, rows[1]["hash"])), indent=2))
    assert run(path, "--checkpoint", good)[0] == 0
    wrong = write(tmp_path / "wrong", asdict(checkpoint(2, "f" * 64)))
    assert (
        "first bad seq 2: entry 2 is not the one its checkpoint names"
        in run(path, "--checkpoint", good, "--checkpoint", wrong)[1]
    )
    later = write(tmp_path / "later", asdict(checkpoint(9, "f" * 64)))
    assert "first bad seq 5: entry 5 is missing: a checkpoint was made at 9" in run(path, "--checkpoint", later)[1]
    gone = write(tmp_path / "gone", asdict(checkpoint(9, "f" * 64, tenant_id="globex")))
    assert "globex: BROKEN, first bad seq 1:" in run(path, "--checkpoint", gone)[1]


def test_a_checkpoint_must_be_signed_by_the_right_key(tmp_path: Path) -> None:
    rows = entries()
    forged = {**asdict(checkpoint(3, rows[2]["hash"])), "seq": 4, "hash": rows[3]["hash"]}
    code, text, _ = run(write(tmp_path / "a", *rows, {"checkpoint": forged}))
    assert (code, text) == (1, "acme: NOT VERIFIED: the checkpoint of seq 4 does not match its signature\n")
    foreign = asdict(checkpoint(4, rows[3]["hash"], OTHER_KEY))
    path = write(tmp_path / "b", *rows, {"checkpoint": foreign})
    assert run(path)[0] == 0
    code, text, _ = run(path, "--public-key", KEY.public_key)
    assert (code, "signed by another key" in text) == (1, True)
    garbled = {**foreign, "signature": "?"}
    assert "does not match its signature" in run(write(tmp_path / "c", *rows, {"checkpoint": garbled}))[1]


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"a": 1}',
        b"\xff\xfe",
        b'{"checkpoint": {"signature": 1}}',
        b"[" * 100_000,
        b'"signature"',
        b"{\n",
        json.dumps(entries(1)[0]).replace("{", '{"actor": "user:ceo", ', 1).encode(),
        json.dumps(entries(1)[0]).replace('{"n"', '{"n": 999, "n"').encode(),
        b'{"broken": {"tenant_id": "acme"}}',
    ],
    ids=[
        *("half", "a list", "an object", "no UTF-8", "half a checkpoint", "too deep", "a word", "an open brace"),
        *("a name twice", "a name twice in details", "half a fault"),
    ],
)
def test_unreadable_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    code, text, error = run(str(path))
    assert (code, text) == (2, "")
    assert error.startswith(str(path))
    assert "Traceback" not in error


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    code, _, error = run(str(tmp_path / "nothing"))
    assert (code, "nothing" in error) == (2, True)


def test_help_teaches() -> None:
    code, text, _ = run("--help")
    assert code == 0
    assert "examples:" in text
    assert "exit codes:" in text
