"""What an administrator of the database could do to the audit log, and that each of it is found: by the command, and by
the stand-alone verifier on an export."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from msgspec.structs import asdict

from apps.audit.domain.chain import ChainPoint
from apps.audit.models import AuditEntry, AuditHead
from apps.audit.queries import chain_point
from apps.audit.services.checkpoints import checkpoint_at, signing_key
from apps.audit.services.reading import verify_chain
from apps.audit.services.recording import record_audit
from clasper.core.clock import iso
from clasper.core.db import atomic_batch
from clasper.core.tables import AppendOnlyTrigger
from tests.audit.chain import entry_hash

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "verify_audit.py"
LENGTH = 8
KEPT = (4, 8)
"""The seqs that checkpoints were made at before anybody tampered."""


def sql(statement: str, *params: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)


def update(at: int, /, **columns: Any) -> None:
    given = ", ".join(f"{name} = %s" for name in columns)
    sql(f"UPDATE audit_log SET {given} WHERE tenant_id = 'acme' AND seq = %s", *columns.values(), at)


def delete(from_seq: int, to_seq: int = 1_000) -> None:
    sql("DELETE FROM audit_log WHERE tenant_id = 'acme' AND seq BETWEEN %s AND %s", from_seq, to_seq)


def head(seq: int) -> None:
    """The head moved to what is stored at `seq`, as a forger who knows the system would."""
    row = AuditEntry.objects.get(tenant_id="acme", seq=seq)
    AuditHead.objects.filter(tenant_id="acme").update(seq=seq, hash=row.hash)


def recompute(from_seq: int, to_seq: int = LENGTH) -> None:
    """Hashes made right again, from an entry up to another."""
    for row in AuditEntry.objects.filter(tenant_id="acme", seq__range=(from_seq, to_seq)).order_by("seq"):
        previous = chain_point("acme", row.seq - 1).hash
        digest = entry_hash(
            tenant_id="acme",
            seq=row.seq,
            timestamp=iso(row.timestamp),
            event_type=row.event_type,
            trace_id=row.trace_id,
            actor=row.actor,
            details=json.loads(row.details),
            prev_hash=previous,
        )
        update(row.seq, prev_hash=previous, hash=digest)
    head(LENGTH)


def append(count: int, now: datetime) -> None:
    with atomic_batch() as batch:
        for number in range(count):
            at = now + timedelta(seconds=number)
            details = {"n": number, "share": 1.5e-7}
            record_audit(batch, tenant_id="acme", event_type="tool.call", actor="agent:jarvis", now=at, details=details)


def edit(now: datetime) -> None:
    update(3, actor="agent:other")


def edit_and_hash(now: datetime) -> None:
    update(3, actor="agent:other")
    recompute(3, 3)


def remove(now: datetime) -> None:
    delete(5, 5)


def insert(now: datetime) -> None:
    for seq in range(LENGTH, 4, -1):
        update(seq, seq=seq + 1)
    names = "timestamp, event_type, trace_id, details, prev_hash, hash"
    sql(
        f"INSERT INTO audit_log (tenant_id, seq, actor, {names}) SELECT tenant_id, 5, 'agent:forger', {names}"
        " FROM audit_log WHERE tenant_id = 'acme' AND seq = 4"
    )
    head(LENGTH + 1)


def reorder(now: datetime) -> None:
    for old, new in ((2, -1), (6, 2), (-1, 6)):
        update(old, seq=new)


def cut_tail(now: datetime) -> None:
    delete(7)
    head(6)


def rewrite(now: datetime) -> None:
    update(2, actor="agent:other")
    recompute(2)


def rewrite_end(now: datetime) -> None:
    update(6, actor="agent:other")
    recompute(6)


def drop_tenant(now: datetime) -> None:
    delete(1)
    AuditHead.objects.filter(tenant_id="acme").delete()


def restore_backup(now: datetime) -> None:
    cut_tail(now)
    append(3, now + timedelta(days=1))


FOUND_ALONE: dict[str, tuple[Callable[[datetime], None], int]] = {
    "edit": (edit, 3),
    "edit with its hash recomputed": (edit_and_hash, 4),
    "delete": (remove, 5),
    "insert": (insert, 5),
    "reorder": (reorder, 2),
}
FOUND_AGAINST_A_CHECKPOINT: dict[str, tuple[Callable[[datetime], None], int]] = {
    "cut tail": (cut_tail, 7),
    "rewrite chain": (rewrite, 4),
    "rewrite the end": (rewrite_end, 8),
    "drop tenant": (drop_tenant, 1),
    "restore old backup": (restore_backup, 8),
}
TAMPERING = FOUND_ALONE | FOUND_AGAINST_A_CHECKPOINT


@pytest.fixture
def kept(store: None, now: datetime, settings: Any, tmp_path: Path) -> Iterator[Path]:
    """Eight entries, checkpoints of two of them in a file, and a door that is open to the forger until the end."""
    settings.CLASPER_AUDIT_SIGNING_KEY = base64.b64encode(bytes(range(32))).decode()
    append(LENGTH, now)
    with atomic_batch() as batch:
        record_audit(batch, tenant_id="globex", event_type="tool.call", actor="agent:jarvis", now=now)
    key = signing_key()
    assert key is not None
    points = [chain_point("acme", seq) for seq in KEPT]
    lines = [json.dumps(asdict(checkpoint_at("acme", point, key=key, now=now))) for point in points]
    path = tmp_path / "kept.ndjson"
    path.write_text("\n".join(lines))
    with transaction.atomic():
        for statement in AppendOnlyTrigger("audit_log").drop(connection.vendor):
            sql(statement)
        yield path
        transaction.set_rollback(True)


def by_command(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    try:
        call_command("audit_verify", "--tenant", "acme", "--json", *options)
        code = 0
    except SystemExit as ended:
        code = int(str(ended.code))
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == (0 if body["valid"] else 1)
    return body


def by_script(directory: Path, *options: str) -> tuple[int, str]:
    """Verified without a single library: `-I -S` lets the interpreter find none."""
    export = directory / "export.ndjson"
    call_command("audit_export", "--out", str(export))
    command = [sys.executable, "-I", "-S", str(SCRIPT), str(export), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_what_nobody_touched_is_valid(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = by_command(capsys, "--checkpoint", str(kept))
    assert (body["valid"], body["tenants"][0]["checked"]) == (True, LENGTH)
    code, text = by_script(tmp_path, "--checkpoint", str(kept))
    assert (code, text.startswith(f"acme: valid, {LENGTH} entries")) == (0, True)


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_found_where_it_begins(
    how: str, kept: Path, now: datetime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper, first_bad_seq = TAMPERING[how]
    tamper(now)
    body = by_command(capsys, "--checkpoint", str(kept))
    assert (body["valid"], body["first_bad_seq"]) == (False, first_bad_seq), body
    code, text = by_script(tmp_path, "--checkpoint", str(kept))
    assert (code, f"first bad seq {first_bad_seq}:" in text) == (1, True), text


@pytest.mark.parametrize("how", FOUND_ALONE)
def test_these_need_no_checkpoint(
    how: str, kept: Path, now: datetime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper, first_bad_seq = FOUND_ALONE[how]
    tamper(now)
    assert by_command(capsys)["first_bad_seq"] == first_bad_seq
    assert f"first bad seq {first_bad_seq}:" in by_script(tmp_path)[1]


@pytest.mark.parametrize("how", FOUND_AGAINST_A_CHECKPOINT)
def test_these_are_found_by_a_checkpoint_only(
    how: str, kept: Path, now: datetime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever can do this leaves a chain that is whole in itself: the proof must come from outside."""
    FOUND_AGAINST_A_CHECKPOINT[how][0](now)
    assert by_command(capsys)["valid"] is True
    assert by_script(tmp_path)[0] == 0


def test_a_dropped_tenant_is_found_without_being_named(
    kept: Path, now: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    drop_tenant(now)
    with pytest.raises(SystemExit):
        call_command("audit_verify", "--checkpoint", str(kept))
    assert "acme: BROKEN, first bad seq 1: entry 1 is missing" in capsys.readouterr().out


def test_a_checkpoint_is_of_its_own_tenant(kept: Path, now: datetime) -> None:
    assert verify_chain(tenant_id="globex", anchors={1: {chain_point("acme", 1).hash}}).first_bad_seq == 1
    assert verify_chain(tenant_id="globex", anchors={1: {chain_point("globex", 1).hash}}).valid
    assert chain_point("globex", 0) == ChainPoint(0, "0" * 64)
    assert chain_point("globex", 2) == ChainPoint(2, "")
