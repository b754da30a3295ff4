"""GET and POST /audit/verify, GET /audit/checkpoint and /audit/export over a socket; the commands; the signing key."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.core.management import CommandError, call_command

from apps.audit.domain.checkpoint import read_checkpoint, signature_error
from apps.audit.models import AuditHead
from apps.audit.services.reading import audit_stats, list_audit, read_cursor
from apps.audit.services.recording import record_audit
from clasper.core.db import atomic_batch
from clasper.core.signing import is_signed, read_signing_key
from clasper.core.tenancy import ALL_TENANTS, OneTenant
from tests.audit.chain import SIGNING_KEY
from tests.world import ACME, GLOBEX, Server, tenant_key

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
EC_PEM = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC = read_signing_key(SIGNING_KEY).public_key
OTHER_PUBLIC = read_signing_key(base64.b64encode(bytes(32)).decode()).public_key


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- Checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_the_signed_end_of_the_chain(signing: None, server: Server, log: None) -> None:
    response = server.get("/audit/checkpoint", params={"tenant_id": ACME})
    assert response.status_code == 200, response.text
    body = response.json()
    last = server.audit(tenant_id=ACME, event_type="tool.call")[-1]
    assert list(body) == ["tenant_id", "seq", "hash", "created_at", "public_key", "signature"]
    assert (body["tenant_id"], body["seq"], body["hash"], body["public_key"]) == (ACME, 5, last["hash"], PUBLIC)
    assert signature_error(read_checkpoint(body), trusted=[PUBLIC]) == ""
    (entry,) = server.audit(tenant_id=ACME, event_type="audit.checkpoint")
    assert (entry["seq"], entry["details"]) == (6, {"hash": last["hash"], "seq": 5})


@pytest.mark.parametrize("field", ["tenant_id", "seq", "hash", "created_at"])
def test_the_signature_covers_every_field(signing: None, server: Server, log: None, field: str) -> None:
    body = server.get("/audit/checkpoint", params={"tenant_id": ACME}).json()
    other = {"tenant_id": GLOBEX, "seq": 4, "hash": "f" * 64, "created_at": "2026-01-01T00:00:00.000Z"}
    forged = read_checkpoint({**body, field: other[field]})
    assert "does not match its signature" in signature_error(forged, trusted=[])


def test_without_a_tenant_it_is_the_platforms_or_the_keys_own(signing: None, server: Server, log: None) -> None:
    server.get("/audit/export")
    assert server.get("/audit/checkpoint").json()["tenant_id"] == ""
    key = tenant_key(ACME, "governance:read")
    assert server.get("/audit/checkpoint", key=key).json()["tenant_id"] == ACME
    assert server.get("/audit/checkpoint", key=key, params={"tenant_id": GLOBEX}).status_code == 403


@pytest.mark.parametrize("path", ["/audit/checkpoint", "/audit/export"])
def test_a_tenant_without_entries_is_not_found_and_gets_none(signing: None, server: Server, path: str) -> None:
    answer = server.get(path, params={"tenant_id": "nobody"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert not AuditHead.objects.exists()


def test_the_platform_has_no_checkpoint_without_entries(signing: None, server: Server) -> None:
    assert server.get("/audit/checkpoint").status_code == 404
    assert not AuditHead.objects.exists()


@pytest.mark.parametrize("seq", [4, 5, 6])
def test_a_head_that_its_last_entry_does_not_match_is_not_signed(
    signing: None, server: Server, log: None, tmp_path: Path, seq: int
) -> None:
    AuditHead.objects.filter(tenant_id=ACME).update(seq=seq, hash="f" * 64)
    answer = server.get("/audit/checkpoint", params={"tenant_id": ACME})
    assert (answer.status_code, answer.json()["code"]) == (409, "audit_chain_broken")
    assert server.audit(tenant_id=ACME, event_type="audit.checkpoint") == []
    path = tmp_path / "kept.ndjson"
    with pytest.raises(CommandError, match=f"{ACME}: A broken chain gets no checkpoint"):
        call_command("audit_export", "--checkpoints", "--out", str(path))
    assert [each["checkpoint"]["tenant_id"] for each in lines(path.read_text())] == [GLOBEX]


def test_without_a_key_there_is_no_checkpoint(server: Server, log: None) -> None:
    response = server.get("/audit/checkpoint", params={"tenant_id": ACME})
    assert (response.status_code, response.json()["code"]) == (503, "signing_key_missing")
    assert "CLASPER_AUDIT_SIGNING_KEY" in response.json()["error"]
    assert server.audit(event_type="audit.checkpoint") == []


# --- Verifying against one ------------------------------------------------------------------------------------------


def post(server: Server, checkpoint: Any, **fields: Any) -> dict[str, Any]:
    response = server.post("/audit/verify", {"checkpoint": checkpoint, **fields})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_a_chain_is_verified_against_a_checkpoint(signing: None, server: Server, log: None) -> None:
    checkpoint = server.get("/audit/checkpoint", params={"tenant_id": ACME}).json()
    body = post(server, checkpoint)
    assert (body["valid"], body["tenant_id"], body["checked"], body["checkpoint_seq"]) == (True, ACME, 6, 5)
    first = list_audit(tenants=OneTenant(ACME)).entries[-1]
    AuditHead.objects.filter(tenant_id=ACME).update(seq=1, hash=first.hash)
    body = post(server, checkpoint)
    assert (body["valid"], body["first_bad_seq"]) == (False, 2)


def test_a_checkpoint_that_proves_nothing_is_distinguished_from_a_broken_chain(
    signing: None, server: Server, log: None
) -> None:
    checkpoint = server.get("/audit/checkpoint", params={"tenant_id": ACME}).json()
    body = post(server, {**checkpoint, "seq": 4})
    assert (body["valid"], body["first_bad_seq"]) == (False, None)
    assert body["reason"] == "the checkpoint of seq 4 does not match its signature"
    body = post(server, checkpoint, public_key=OTHER_PUBLIC)
    assert (body["valid"], body["first_bad_seq"], "not trusted" in body["reason"]) == (False, None, True)
    assert post(server, checkpoint, public_key=PUBLIC)["valid"] is True


def test_after_a_rotation_the_old_key_must_be_named(signing: None, server: Server, log: None, settings: Any) -> None:
    checkpoint = server.get("/audit/checkpoint", params={"tenant_id": ACME}).json()
    settings.CLASPER_AUDIT_SIGNING_KEY = base64.b64encode(bytes(32)).decode()
    assert "not trusted" in post(server, checkpoint)["reason"]
    assert post(server, checkpoint, public_key=PUBLIC)["valid"] is True
    settings.CLASPER_AUDIT_SIGNING_KEY = ""
    assert post(server, checkpoint)["valid"] is True


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        ({"tenant_id": 7}, 1),
        ({"seq": -1}, 1),
        ({"seq": True}, 1),
        ({"seq": 2**53, "hash": "F" * 64}, 2),
        ({"hash": "f" * 63, "created_at": "soon"}, 2),
        ({"seq": 0}, 1),
        ({"public_key": "x", "signature": None}, 2),
    ],
    ids=str,
)
def test_what_is_no_checkpoint_is_refused(
    signing: None, server: Server, log: None, change: dict[str, Any], faults: int
) -> None:
    checkpoint = server.get("/audit/checkpoint", params={"tenant_id": ACME}).json()
    response = server.post("/audit/verify", {"checkpoint": {**checkpoint, **change}})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert len(response.json()["details"]["fieldErrors"]["checkpoint"]) == faults


@pytest.mark.parametrize("checkpoint", [None, [], "x", 7], ids=repr)
def test_a_checkpoint_is_an_object(server: Server, checkpoint: Any) -> None:
    response = server.post("/audit/verify", {"checkpoint": checkpoint})
    assert (response.status_code, list(response.json()["details"]["fieldErrors"])) == (400, ["checkpoint"])


def test_another_tenants_checkpoint_is_refused(signing: None, server: Server, log: None) -> None:
    key = tenant_key(ACME, "governance:read")
    foreign = server.get("/audit/checkpoint", params={"tenant_id": GLOBEX}).json()
    assert server.post("/audit/verify", {"checkpoint": foreign}, key=key).status_code == 403
    server.get("/audit/export")
    platform = server.get("/audit/checkpoint").json()
    assert server.post("/audit/verify", {"checkpoint": platform}, key=key).status_code == 400
    own = server.get("/audit/checkpoint", key=key).json()
    assert server.post("/audit/verify", {"checkpoint": own}, key=key).json()["valid"] is True


# --- Reading by actor, and figures ----------------------------------------------------------------------------------


def test_entries_are_filtered_by_actor(server: Server, log: None) -> None:
    assert [entry["seq"] for entry in server.audit(tenant_id=ACME, actor="user:u3")] == [4]
    assert server.audit(actor="user:u0", event_type="agent.start") == []
    assert len(server.audit(actor="user:u0")) == 2


def test_actor_pages_are_stable_while_entries_arrive(server: Server, log: None, now: datetime) -> None:
    def add(count: int) -> None:
        with atomic_batch() as batch:
            for _ in range(count):
                record_audit(batch, tenant_id=ACME, event_type="tool.call", actor="user:u0", now=now)

    add(4)
    seen, cursor = [], None
    while True:
        page = list_audit(tenants=OneTenant(ACME), actor="user:u0", limit=2, before=cursor and read_cursor(cursor))
        seen += [entry.seq for entry in page.entries]
        cursor = page.next_cursor
        if cursor is None:
            break
        add(1)
    assert seen == [9, 8, 7, 6, 1]


def test_the_figures_are_those_of_the_entries(server: Server, log: None, now: datetime) -> None:
    for hours, since in ((30, 0), (26, 3), (4, 5)):
        stats = audit_stats(tenants=OneTenant(ACME), now=now + timedelta(hours=hours))
        assert (stats.total_entries, stats.entries_last_24h) == (5, since), hours
    stats = audit_stats(tenants=ALL_TENANTS, now=now + timedelta(hours=25, microseconds=1))
    assert (stats.entries_by_type, stats.entries_last_24h, stats.oldest_entry) == ({"tool.call": 6}, 3, now)


# --- Commands -------------------------------------------------------------------------------------------------------


def test_checkpoints_are_taken_and_verified_by_commands(
    signing: None, server: Server, log: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.ndjson"
    call_command("audit_export", "--checkpoints", "--out", str(path))
    assert [each["checkpoint"]["tenant_id"] for each in lines(path.read_text())] == [ACME, GLOBEX]
    call_command("audit_verify", "--checkpoint", str(path))
    assert capsys.readouterr().out == (
        "acme: valid, 6 entries, fits the checkpoint at 5\nglobex: valid, 2 entries, fits the checkpoint at 1\n"
    )
    call_command("audit_export", "--tenant", ACME, "--checkpoints", "--out", str(path))
    call_command("audit_verify", "--checkpoint", str(path))
    assert capsys.readouterr().out.splitlines()[1] == "globex: valid, 2 entries, no checkpoint compared"
    with pytest.raises(CommandError, match="none of these checkpoints is of the tenant 'globex'"):
        call_command("audit_verify", "--tenant", GLOBEX, "--checkpoint", str(path))
    with pytest.raises(SystemExit):
        call_command("audit_verify", "--tenant", ACME, "--checkpoint", str(path), "--checkpoint-key", OTHER_PUBLIC)
    assert capsys.readouterr().out.startswith("acme: NOT VERIFIED: the checkpoint of seq 6 is signed by a key")


def test_checkpoints_need_a_key(server: Server, log: None, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="CLASPER_AUDIT_SIGNING_KEY"):
        call_command("audit_export", "--checkpoints", "--out", str(tmp_path / "x"))
    assert list(tmp_path.glob("x*")) == []


@pytest.mark.parametrize("content", ["", "{", '{"checkpoint": {}}', "7"])
def test_a_file_without_checkpoints_is_unreadable(server: Server, tmp_path: Path, content: str) -> None:
    path = tmp_path / "kept"
    path.write_text(content)
    with pytest.raises(CommandError) as refused:
        call_command("audit_verify", "--checkpoint", str(path))
    assert refused.value.returncode == 2


# --- The signing key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["base64", "pem", "pem on one line", "file of base64", "file of pem"])
def test_the_key_may_be_written_in_several_ways(form: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(PEM if form.endswith("pem") else f"{SIGNING_KEY}\n")
    texts = {"base64": SIGNING_KEY, "pem": PEM, "pem on one line": PEM.replace("\n", "\\n")}
    key = read_signing_key(texts.get(form, f"@{path}"))
    assert key.public_key == PUBLIC
    assert is_signed(b"m", public_key=PUBLIC, signature=key.sign(b"m"))


FAULTY = {
    "words": "correct horse battery staple",
    "31 bytes": base64.b64encode(bytes(31)).decode(),
    "another curve": EC_PEM.decode(),
    "half a PEM": PEM[:60],
    "no file": "@/nothing/here",
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_malformed_key_stops_the_start_and_is_not_shown(fault: str, tmp_path: Path) -> None:
    environment = {**os.environ, "CLASPER_ENV": "test", "CLASPER_AUDIT_SIGNING_KEY": FAULTY[fault]}
    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "CLASPER_AUDIT_SIGNING_KEY" in done.stderr
    assert FAULTY[fault] not in done.stderr
