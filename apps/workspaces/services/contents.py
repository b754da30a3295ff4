"""The content that runs used, kept by its hash: written before a run first names it, read when one is repeated."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial

import msgspec

from apps.workspaces.domain.workspace import Workspace, assemble_workspace, parse_file
from apps.workspaces.models import WorkspaceContent, WorkspaceFile
from apps.workspaces.services import current_platform, load_workspace, raw_content
from clasper.core.db import Batch, writer
from clasper.core.errors import NotFound

KNOWN_SECONDS = 60.0
"""How long this process believes that a content is stored, before it makes sure again."""

_ADD_FILE = "INSERT INTO workspace_files (digest, content) VALUES (%s, %s) ON CONFLICT (digest) DO NOTHING"
_ADD_CONTENT = (
    "INSERT INTO workspace_contents (hash, created_at, files) VALUES (%s, %s, %s) ON CONFLICT (hash) DO NOTHING"
)

_HAS_CONTENT = "SELECT 1 FROM workspace_contents WHERE hash = %s"

_known: dict[str, float] = {}


async def keep_content(content_hash: str, *, now: datetime) -> None:
    """Stores the content of a workspace that was just loaded, unless it is stored already.

    Returns when it is committed, so that a trace may name it. Raises Unavailable when the database is.
    """
    if _known.get(content_hash, 0.0) > time.monotonic():
        return
    raw = raw_content(content_hash)
    if raw is None:
        return
    index = msgspec.json.encode({path: file.digest for path, file in raw.files.items()}).decode()

    def job(batch: Batch) -> None:
        batch.after_commit(partial(_note_known, content_hash))
        if batch.fetch_one(_HAS_CONTENT, (content_hash,)):
            return
        # In one order: other processes may be storing the same files.
        for digest, content in sorted({file.digest: file.content for file in raw.files.values()}.items()):
            batch.queue(_ADD_FILE, (digest, content))
        batch.queue(_ADD_CONTENT, (content_hash, now, index))

    # Alone: it may be large, and who waits for another process to store the same must hold no tenant's rows meanwhile.
    await writer.submit(job, alone=True)


def _note_known(content_hash: str) -> None:
    _known[content_hash] = time.monotonic() + KNOWN_SECONDS


def forget_known() -> None:
    """Makes sure of every content again, as after the database was put back."""
    _known.clear()


def load_files(content_hash: str) -> dict[str, bytes]:
    """The files of a content, by path. Raises NotFound for a content that no run used."""
    found = WorkspaceContent.objects.filter(hash=content_hash).first()
    if found is None:
        forget_known()
        raise NotFound("No run used this workspace content.", details={"workspace_version": content_hash})
    digests: dict[str, str] = msgspec.json.decode(found.files)
    rows = WorkspaceFile.objects.filter(digest__in=set(digests.values())).values_list("digest", "content")
    contents = {digest: bytes(content) for digest, content in rows}
    return {path: contents[digest] for path, digest in digests.items()}


def load_content(content_hash: str) -> Workspace:
    """The workspace of a content, byte for byte as a run used it; its skills' gates are those of this machine, now.

    Raises NotFound for a content that no run used.
    """
    current = load_workspace()
    if current.hash == content_hash:
        return current
    files = load_files(content_hash)
    digests: dict[str, str] = msgspec.json.decode(WorkspaceContent.objects.get(hash=content_hash).files)
    return assemble_workspace(
        root=current.root,
        files={path: parse_file(path, content) for path, content in files.items()},
        digests=digests,
        platform=current_platform(),
    )
