"""GET /audit/export and the audit_export command: what they hold, and that nothing is signed that does not verify."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from apps.audit.domain.checkpoint import read_checkpoint, signature_error
from apps.audit.models import AuditEntry
from apps.audit.services import export as audit_export
from apps.audit.services.recording import record_audit
from clasper.core.clock import iso
from clasper.core.db import atomic_batch
from clasper.core.signing import read_signing_key
from clasper.core.tables import AppendOnlyTrigger
from clasper.core.tenancy import ALL_TENANTS
from tests.audit.chain import SIGNING_KEY, entry_hash
from tests.world import ACME, GLOBEX, Server, tenant_key

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "verify_audit.py"
PUBLIC = read_signing_key(SIGNING_KEY).public_key


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_export_holds_the_entries_as_shown_and_a_checkpoint(
    signing: None, server: Server, log: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_export, "CHUNK_ENTRIES", 2)
    shown = server.audit(tenant_id=ACME)
    response = server.get("/audit/export", params={"tenant_id": ACME, "format": "ndjson"})
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["content-disposition"] == 'attachment; filename="audit.ndjson"'
    *found, last = lines(response.text)
    assert found == shown
    checkpoint = read_checkpoint(last)
    assert (checkpoint.tenant_id, checkpoint.seq, checkpoint.hash) == (ACME, 5, shown[-1]["hash"])
    assert signature_error(checkpoint, trusted=[PUBLIC]) == ""
    (entry,) = server.audit(tenant_id=ACME, event_type="audit.export")
    assert entry["details"] == {"end": None, "format": "ndjson", "start": None}
    assert entry["actor"] == "system:daemon"


def test_without_a_key_the_export_has_no_checkpoint(server: Server, log: None) -> None:
    found = lines(server.get("/audit/export", params={"tenant_id": ACME}).text)
    assert [entry["seq"] for entry in found] == [1, 2, 3, 4, 5]


def test_without_a_tenant_every_chain_is_exported(signing: None, server: Server, log: None) -> None:
    found = lines(server.get("/audit/export").text)
    assert [each.get("seq", "checkpoint") for each in found] == [1, 2, 3, 4, 5, "checkpoint", 1, "checkpoint"]
    assert len(server.audit(event_type="audit.export")) == 1
    assert server.audit(event_type="audit.export")[0]["tenant_id"] == ""
    own = lines(server.get("/audit/export", key=tenant_key(GLOBEX, "governance:read")).text)
    assert {each["tenant_id"] for each in own[:-1]} == {GLOBEX}


@pytest.mark.parametrize(
    ("query", "seqs"),
    [
        ({"start_time": "2026-02-10T13:00:00Z"}, [2, 3, 4, 5]),
        ({"end_date": "2026-02-10T14:00:00Z"}, [1, 2, 3]),
        ({"start_time": "2026-02-10T13:00:00Z", "end_time": "2026-02-10T14:30:00Z"}, [2, 3]),
    ],
    ids=str,
)
def test_a_part_is_unbroken_and_verifies(
    signing: None, server: Server, log: None, tmp_path: Path, query: dict[str, str], seqs: list[int]
) -> None:
    response = server.get("/audit/export", params={"tenant_id": ACME, **query})
    *found, last = lines(response.text)
    assert [entry["seq"] for entry in found] == seqs
    assert last["checkpoint"]["seq"] == seqs[-1]
    assert verified(tmp_path, response.text) == (0, f"checkpoint at {seqs[-1]}")


def verified(tmp_path: Path, export: str) -> tuple[int, str]:
    """The stand-alone verifier's exit code, and the last words of its verdict on a part."""
    path = tmp_path / "part.ndjson"
    path.write_text(export)
    command = [sys.executable, "-I", "-S", str(SCRIPT), str(path), "--part", "--public-key", PUBLIC]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip().rpartition(", ")[2]


def test_a_time_without_entries_gets_no_checkpoint(signing: None, server: Server, log: None) -> None:
    assert server.get("/audit/export", params={"tenant_id": ACME, "start_time": "2027-01-01"}).text == ""


def test_entries_of_unruly_clocks_between_two_of_the_range_are_exported_too(
    server: Server, log: None, now: datetime
) -> None:
    with atomic_batch() as batch:
        for hours in (-9, 5):
            record_audit(batch, tenant_id=ACME, event_type="tool.call", actor="a:b", now=now + timedelta(hours=hours))
    found = lines(server.get("/audit/export", params={"tenant_id": ACME, "start_time": "2026-02-10T15:30:00Z"}).text)
    assert [entry["seq"] for entry in found] == [5, 6, 7]


def test_csv_is_for_spreadsheets(signing: None, server: Server, log: None) -> None:
    with atomic_batch() as batch:
        record_audit(batch, tenant_id="=1+1", event_type="tool.call", actor="@a:b", now=datetime.now().astimezone())
    response = server.get("/audit/export", params={"format": "csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    header, *rows = csv.reader(io.StringIO(response.text))
    assert header == list(audit_export.COLUMNS)
    assert len(rows) == 7
    first = dict(zip(header, rows[0], strict=True))
    assert (first["tenant_id"], first["actor"]) == ("'=1+1", "'@a:b")
    second = dict(zip(header, rows[1], strict=True))
    assert (second["timestamp"], second["trace_id"]) == ("2026-02-10T12:00:00.000Z", "")
    assert json.loads(second["details"]) == {"n": 0, "tool": "-1+1"}


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ({"format": "xml", "start_time": "x"}, {"format", "start_time"}),
        ({"format": "xml", "start_time": "2026-02-02", "end_time": "2026-02-01"}, {"format", "end_time"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_an_invalid_export_is_refused_before_it_begins(server: Server, query: dict[str, str], fields: set[str]) -> None:
    response = server.get("/audit/export", params=query)
    assert (response.status_code, set(response.json()["details"]["fieldErrors"])) == (400, fields)
    assert server.audit(event_type="audit.export") == []


# --- What does not verify -------------------------------------------------------------------------------------------


def change(statement: str, *params: Any) -> None:
    """A statement of somebody who owns the database and can lift the trigger."""
    trigger = AppendOnlyTrigger("audit_log")
    with connection.cursor() as cursor:
        for lift in trigger.drop(connection.vendor):
            cursor.execute(lift)
        cursor.execute(statement, params)
        for guard in trigger.create(connection.vendor):
            cursor.execute(guard)


def forge(seq: int) -> None:
    """Another actor, and the hash made right: the entry alone cannot be told from a real one."""
    row = AuditEntry.objects.get(tenant_id=ACME, seq=seq)
    digest = entry_hash(
        tenant_id=ACME,
        seq=seq,
        timestamp=iso(row.timestamp),
        event_type=row.event_type,
        trace_id=row.trace_id,
        actor="user:framed",
        details=json.loads(row.details),
        prev_hash=row.prev_hash,
    )
    change("UPDATE audit_log SET actor = 'user:framed', hash = %s WHERE tenant_id = %s AND seq = %s", digest, ACME, seq)


@pytest.mark.parametrize(
    "query",
    [{"end_time": "2026-02-10T14:00:00Z"}, {"start_time": "2026-02-10T15:00:00Z"}, {}],
    ids=["it is the last", "it is the one before", "it is in the middle"],
)
def test_an_export_with_a_forged_entry_is_not_signed(
    signing: None, server: Server, log: None, tmp_path: Path, query: dict[str, str]
) -> None:
    forge(3)
    response = server.get("/audit/export", params={"tenant_id": ACME, **query})
    last = lines(response.text)[-1]
    reason = "entry 4 does not follow entry 3"
    assert last == {"broken": {"tenant_id": ACME, "first_bad_seq": 4, "reason": reason}}
    assert verified(tmp_path, response.text)[0] == 1


@pytest.mark.parametrize("seq", [1, 3, 5])
def test_an_export_of_a_chain_with_a_gap_is_not_signed(signing: None, server: Server, log: None, seq: int) -> None:
    change("DELETE FROM audit_log WHERE tenant_id = %s AND seq = %s", ACME, seq)
    *found, last = lines(server.get("/audit/export", params={"tenant_id": ACME}).text)
    assert [entry["seq"] for entry in found] == [each for each in (1, 2, 3, 4, 5) if each != seq]
    assert last["broken"]["first_bad_seq"] == seq


@pytest.mark.parametrize("query", [{"end_time": "2026-02-10T14:00:00Z"}, {"start_time": "2026-02-10T16:00:00Z"}])
def test_a_part_beside_a_gap_is_not_signed(signing: None, server: Server, log: None, query: dict[str, str]) -> None:
    change("DELETE FROM audit_log WHERE tenant_id = %s AND seq = 4", ACME)
    last = lines(server.get("/audit/export", params={"tenant_id": ACME, **query}).text)[-1]
    assert list(last) == ["broken"]


@pytest.mark.parametrize(("instant", "seqs"), [("noon", [1, 2, 3, 4, 5]), ("2026-99-99 00:00:00", [1, 2])])
def test_an_entry_that_cannot_be_read_is_reported(
    signing: None, server: Server, log: None, instant: str, seqs: list[int]
) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL stores no text in a column of instants")
    change("UPDATE audit_log SET timestamp = %s WHERE tenant_id = %s AND seq = 3", instant, ACME)
    *found, last = lines(server.get("/audit/export", params={"tenant_id": ACME}).text)
    assert [entry["seq"] for entry in found] == seqs
    assert last["broken"] == {"tenant_id": ACME, "first_bad_seq": 3, "reason": "entry 3 is unreadable"}


def test_a_broken_chain_is_reported_without_a_key_too(server: Server, log: None) -> None:
    forge(5)
    assert list(lines(server.get("/audit/export", params={"tenant_id": ACME}).text)[-1]) == ["broken"]


def test_the_first_bytes_of_an_export_wait_for_no_other_chain(
    server: Server, log: None, now: datetime, django_assert_max_num_queries: Any
) -> None:
    with atomic_batch() as batch:
        for number in range(50):
            record_audit(batch, tenant_id=f"t{number}", event_type="tool.call", actor="a:b", now=now)
    with django_assert_max_num_queries(25):
        export = audit_export.plan_export(tenants=ALL_TENANTS, format_name="ndjson", actor="a:b", now=now)
        chunks = audit_export.export_chunks(export, now=now)
        assert json.loads(next(chunks).splitlines()[0])["tenant_id"] == ACME


# --- The command ----------------------------------------------------------------------------------------------------


def test_the_command_exports_what_the_route_does(signing: None, server: Server, log: None, tmp_path: Path) -> None:
    path = tmp_path / "acme.ndjson"
    call_command("audit_export", "--tenant", ACME, "--out", str(path))
    assert [each.get("seq", "checkpoint") for each in lines(path.read_text())] == [1, 2, 3, 4, 5, "checkpoint"]
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["acme.ndjson"]
    (entry,) = server.audit(tenant_id=ACME, event_type="audit.export")
    assert entry["actor"] == "system:command"


def test_the_command_writes_to_the_standard_output(
    server: Server, log: None, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("audit_export", "--tenant", ACME, "--end", "2026-02-10T13:00:00Z")
    assert [each["seq"] for each in lines(capsys.readouterr().out)] == [1, 2]


def test_the_commands_range_is_checked(server: Server, log: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError, match="--end is before --start") as refused:
        call_command("audit_export", "--start", "2026-02-11", "--end", "2026-02-10")
    assert refused.value.returncode == 2
    call_command("audit_export", "--tenant", ACME, "--start", "2026-02-10", "--end", "2026-02-10")
    assert len(lines(capsys.readouterr().out)) == 5
    with pytest.raises(CommandError, match="no audit entries"):
        call_command("audit_export", "--tenant", "nobody")
