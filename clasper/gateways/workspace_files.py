"""A workspace directory on disk: which of its files are used, and their exact bytes.

What the bytes mean (frontmatter, truncation, prompts) is not decided here. Symbolic links are followed only inside the
directory; whatever cannot be read is skipped with a reason and never ends a request.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT_FILES = ("AGENTS.md", "SOUL.md", "IDENTITY.md", "TOOLS.md", "USER.md", "HEARTBEAT.md", "BOOT.md", "MEMORY.md")
BOOT_MARKER = ".boot-complete"
SKILL_FILE = "SKILL.md"

MAX_FILE_BYTES = 2 * 1024 * 1024
"""No more of a file is read: a model sees at most 20,000 characters of it."""
MAX_FILES = 5_000
MAX_TOTAL_BYTES = 64 * 1024 * 1024
"""How much of a worker's memory one workspace may take."""

MAX_CHECK_SHARE = 0.02
"""The largest share of a worker's time that looking for changes takes, however large the workspace is."""
SETTLING_NS = 2_000_000_000
"""A file modified less than this before it was read may change again without a new time stamp (FAT: 2 s)."""

Signature = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RawFile:
    """A file as it was read. `path` is relative to the root, with `/`; `digest` is the hex SHA-256 of `content`."""

    path: str
    content: bytes
    digest: str
    cut: bool = False
    """The file is larger than MAX_FILE_BYTES and `content` is its beginning."""


@dataclass(frozen=True, slots=True, eq=False)
class RawWorkspace:
    """One consistent reading of a workspace. The same object is returned as long as nothing has changed."""

    root: str
    missing: bool
    files: Mapping[str, RawFile]
    """By path, in code-point order."""
    boot_complete: bool
    skipped: tuple[tuple[str, str], ...]
    """Path and reason of what was left out."""


class _SkipFile(Exception):
    """The file is left out; the message says why."""


class WorkspaceReader:
    """Reads one workspace repeatedly; only what has changed is read again. Threads may share it."""

    def __init__(self, root: Path, *, max_check_share: float = MAX_CHECK_SHARE) -> None:
        self._root = os.path.abspath(root)
        self._share = max_check_share
        self._lock = threading.Lock()
        self._next_check = 0.0
        self._snapshot: RawWorkspace | None = None
        self._scan: _Scan | None = None

    def read(self, *, fresh: bool = False) -> RawWorkspace:
        """The workspace as it is now, or as it was at the last check when that is very recent.

        `fresh` checks in any case. A missing directory is an empty workspace with `missing` set, never an error.
        """
        snapshot = self._snapshot
        if snapshot is not None and not fresh:
            if time.monotonic() < self._next_check or not self._lock.acquire(blocking=False):
                return snapshot
        else:
            self._lock.acquire()
        try:
            return self._check()
        finally:
            self._lock.release()

    def _check(self) -> RawWorkspace:
        started = time.monotonic()
        before = snapshot = self._snapshot
        if self._scan is None or snapshot is None or self._scan.is_outdated():
            self._scan = _Scan(self._root, self._scan)
            self._snapshot = snapshot = self._scan.snapshot(before)
        ended = time.monotonic()
        # The time to read what changed does not delay the next check: it is spent once a change, not once a request.
        self._next_check = ended + (ended - started) / self._share if snapshot is before else ended
        return snapshot


class _Scan:
    """One walk through the directory: the files found, and what to look at to notice a change."""

    def __init__(self, root: str, previous: _Scan | None) -> None:
        self._started_ns = time.time_ns()
        self._root = root
        self._real_root = os.path.realpath(root)
        self._known = previous._files if previous else {}
        self._files: dict[str, tuple[Signature, int, RawFile]] = {}
        self._probes: list[tuple[str, Signature | None]] = []
        self._skipped: list[tuple[str, str]] = []
        self._newest_ns = 0
        self._root_id = _identity(root)
        self._boot_complete = False
        if self._root_id is not None:
            self._walk()

    def is_outdated(self) -> bool:
        """Whether the directory may differ from what this scan saw."""
        return (
            self._started_ns - self._newest_ns < SETTLING_NS
            or _identity(self._root) != self._root_id
            or any(_signature(path) != seen for path, seen in self._probes)
        )

    def snapshot(self, previous: RawWorkspace | None) -> RawWorkspace:
        """What was read; `previous` itself when nothing differs from it."""
        files = {path: self._files[path][2] for path in sorted(self._files)}
        missing, skipped = self._root_id is None, tuple(self._skipped)
        if (
            previous is not None
            and previous.files == files
            and previous.missing == missing
            and previous.boot_complete == self._boot_complete
            and previous.skipped == skipped
        ):
            return previous
        return RawWorkspace(self._root, missing, MappingProxyType(files), self._boot_complete, skipped)

    def _walk(self) -> None:
        self._boot_complete = self._probe(BOOT_MARKER) is not None
        total = 0
        for count, path in enumerate(self._candidates()):
            if count >= MAX_FILES:
                self._skipped.append((path, f"the workspace has more than {MAX_FILES} files"))
                break
            signature = self._probe(path)
            if signature is None:
                continue
            try:
                if total >= MAX_TOTAL_BYTES:
                    raise _SkipFile(f"the workspace is larger than {MAX_TOTAL_BYTES // 2**20} MiB")
                file = self._file(path, signature)
            except _SkipFile as reason:
                self._skipped.append((path, str(reason)))
                continue
            total += len(file.content)
            self._files[path] = (signature, self._started_ns, file)

    def _candidates(self) -> Iterator[str]:
        """Paths that are used if they exist; the most important first, because the number of files is limited."""
        yield from ROOT_FILES
        for name in self._names("souls"):
            if name.endswith(".md"):
                yield f"souls/{name}"
        for name in self._names("skills"):
            yield f"skills/{name}/{SKILL_FILE}"
        for name in reversed(self._names("memory")):
            if name.endswith(".md"):
                yield f"memory/{name}"

    def _names(self, directory: str) -> list[str]:
        if self._probe(directory) is None:
            return []
        try:
            self._inside(directory)
            names = os.listdir(os.path.join(self._root, directory))
        except (_SkipFile, OSError) as reason:
            self._skipped.append((directory, str(reason) if isinstance(reason, _SkipFile) else "cannot be listed"))
            return []
        odd = [name for name in names if not name.isprintable()]
        self._skipped += [(f"{directory}/{name!a}", "odd characters in the name") for name in sorted(odd)[:10]]
        return sorted(name for name in names if name.isprintable() and not name.startswith("."))

    def _probe(self, relative: str) -> Signature | None:
        path = os.path.join(self._root, relative)
        signature = _signature(path)
        self._probes.append((path, signature))
        if signature is not None:
            self._newest_ns = max(self._newest_ns, signature[-1])
        return signature

    def _file(self, path: str, signature: Signature) -> RawFile:
        known = self._known.get(path)
        if known is not None and known[0] == signature and known[1] - signature[-1] >= SETTLING_NS:
            return known[2]
        if not stat.S_ISREG(signature[0]):
            raise _SkipFile("not a regular file")
        content = self._content(path)
        cut = len(content) > MAX_FILE_BYTES
        content = content[:MAX_FILE_BYTES]
        digest = hashlib.sha256(content).hexdigest()
        if known is not None and known[2].digest == digest and known[2].cut == cut:
            return known[2]
        return RawFile(path, content, digest, cut)

    def _inside(self, relative: str) -> str:
        """The path with every link resolved, relative to the real root."""
        real = os.path.realpath(os.path.join(self._root, relative))
        if not real.startswith(self._real_root.rstrip("/") + "/"):
            raise _SkipFile("a link that leads out of the workspace")
        return os.path.relpath(real, self._real_root)

    def _content(self, path: str) -> bytes:
        try:
            descriptor = _open_beneath(self._real_root, self._inside(path))
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise _SkipFile("not a regular file")
                return file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise _SkipFile("cannot be read") from error


def _open_beneath(root: str, relative: str) -> int:
    """Opens a link-free path step by step, so that a link placed there in the meantime cannot lead out of `root`."""
    *parents, name = relative.split("/")
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for parent in parents:
            child = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = child
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    finally:
        os.close(directory)


def _signature(path: str) -> Signature | None:
    """Changes whenever a file or a directory's list of names does; the last item is when it did."""
    try:
        seen = os.stat(path)
    except (OSError, ValueError):
        return None
    return (seen.st_mode, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def _identity(path: str) -> Signature | None:
    """Which directory it is; None when it is not a directory or may not be entered."""
    signature = _signature(path)
    if signature is None or not stat.S_ISDIR(signature[0]) or not os.access(path, os.R_OK | os.X_OK):
        return None
    return signature[1:3]


def write_boot_marker(root: Path, text: str) -> None:
    """Creates the marker of a completed boot; a reader sees all of it or nothing. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=root, prefix=f"{BOOT_MARKER}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, root / BOOT_MARKER)
    except BaseException:
        os.unlink(temporary)
        raise
