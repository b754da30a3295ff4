"""Snapshots of what workspaces contained: stored before a run first names one, read when a run is repeated."""

from __future__ import annotations

import time
from datetime import datetime

import msgspec

from apps.workspaces.domain.workspace import Workspace, assemble_workspace, parse_file
from apps.workspaces.models import Snapshot, WorkspaceFile
from apps.workspaces.services import current_platform, load_workspace, raw_workspace
from clasper.core.db import Batch, writer
from clasper.core.errors import NotFound

SHARED = ""
"""The owner of what every tenant may use."""

KNOWN_SECONDS = 60.0
"""How long this process assumes that a snapshot is stored, before it checks again."""

_ADD_FILE = "INSERT INTO workspace_files (digest, content) VALUES (%s, %s) ON CONFLICT (digest) DO NOTHING"
_ADD_SNAPSHOT = (
    "INSERT INTO workspace_snapshots (tenant_id, hash, created_at, files) VALUES (%s, %s, %s, %s)"
    " ON CONFLICT (tenant_id, hash) DO NOTHING"
)
_HAS_SNAPSHOT = "SELECT 1 FROM workspace_snapshots WHERE tenant_id = %s AND hash = %s"

_known: dict[tuple[str, str], float] = {}


async def store_snapshot(snapshot_hash: str, *, tenant_id: str, now: datetime) -> None:
    """Stores what a workspace that was just loaded contained, for its owner, unless that is stored already.

    Returns when it is committed, so that a trace may name it. Raises Unavailable when the database is.
    """
    key = (tenant_id, snapshot_hash)
    if _known.get(key, 0.0) > time.monotonic():
        return
    raw = raw_workspace(snapshot_hash)
    if raw is None:
        return
    index = msgspec.json.encode({path: file.digest for path, file in raw.files.items()}).decode()

    def write(batch: Batch) -> None:
        batch.after_commit(lambda: _known.update({key: time.monotonic() + KNOWN_SECONDS}))
        if batch.fetch_one(_HAS_SNAPSHOT, key):
            return
        # In one order: other processes may be storing the same files.
        for digest, content in sorted({file.digest: file.content for file in raw.files.values()}.items()):
            batch.queue(_ADD_FILE, (digest, content))
        batch.queue(_ADD_SNAPSHOT, (*key, now, index))

    # Alone: it may be large, and a write that waits for another process to store the same must not lock tenants' rows.
    await writer.submit(write, alone=True)


def forget_known() -> None:
    """Checks every snapshot again, as after the database was restored."""
    _known.clear()


def load_files(snapshot_hash: str, *, tenant_id: str) -> dict[str, bytes]:
    """The files of a snapshot that the tenant owns or that is shared, by path. Raises NotFound."""
    return {path: content for path, (_, content) in _read_files(snapshot_hash, tenant_id).items()}


def load_snapshot(snapshot_hash: str, *, tenant_id: str) -> Workspace:
    """The workspace as a run used it, byte for byte, but with the gates of this machine as they are now.

    Raises NotFound for a snapshot that is neither the tenant's nor shared.
    """
    current = load_workspace()
    if current.snapshot_hash == snapshot_hash:
        return current
    files = _read_files(snapshot_hash, tenant_id)
    parsed = {path: (digest, parse_file(path, content)) for path, (digest, content) in files.items()}
    return assemble_workspace(root=current.root, files=parsed, platform=current_platform())


def _read_files(snapshot_hash: str, tenant_id: str) -> dict[str, tuple[str, bytes]]:
    """The digest and the bytes of every file of a snapshot, by path."""
    found = Snapshot.objects.filter(tenant_id__in=(tenant_id, SHARED), hash=snapshot_hash).first()
    if found is None:
        forget_known()
        raise NotFound("No run used this workspace snapshot.", details={"workspace_version": snapshot_hash})
    digests: dict[str, str] = msgspec.json.decode(found.files)
    rows = WorkspaceFile.objects.filter(digest__in=set(digests.values())).values_list("digest", "content")
    contents = {digest: bytes(content) for digest, content in rows}
    return {path: (digest, contents[digest]) for path, digest in digests.items()}
