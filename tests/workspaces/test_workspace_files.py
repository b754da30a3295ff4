"""The reader of a workspace directory: what counts, what is skipped, and that every change is seen."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from clasper.gateways import workspace_files
from clasper.gateways.workspace_files import MAX_FILE_BYTES, MAX_FILES, WorkspaceReader, write_boot_marker


def put(root: Path, path: str, content: str | bytes = "x") -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    return target


def test_only_what_belongs_to_a_workspace_is_read_byte_for_byte(tmp_path: Path) -> None:
    wanted = ["AGENTS.md", "SOUL.md", "IDENTITY.md", "TOOLS.md", "USER.md", "HEARTBEAT.md", "BOOT.md", "MEMORY.md"]
    wanted += [
        "souls/support.md",
        "memory/2026-02-10.md",
        "memory/notes.md",
        "skills/a/SKILL.md",
        "skills/ü 1/SKILL.md",
    ]
    for path in wanted:
        put(tmp_path, path, path.encode() + b"\r\n\xff\x00")
    for path in ["README.md", ".env", "agents.md", "souls/support.txt", "souls/.hidden.md", "skills/SKILL.md"]:
        put(tmp_path, path)
    put(tmp_path, "skills/a/run.py")
    put(tmp_path, "skills/empty/readme.md")
    put(tmp_path, "souls/deep/x.md")
    put(tmp_path, "skills/.git/SKILL.md")

    raw = WorkspaceReader(tmp_path).read()
    assert list(raw.files) == sorted(wanted)
    assert all(file.content == path.encode() + b"\r\n\xff\x00" for path, file in raw.files.items())
    assert (raw.missing, raw.boot_complete, raw.skipped) == (False, False, ())


def test_a_missing_directory_is_empty_and_is_noticed_when_it_appears(tmp_path: Path) -> None:
    root = tmp_path / "later"
    reader = WorkspaceReader(root)
    assert reader.read().missing
    assert not reader.read().files
    put(root, "SOUL.md", "hello")
    assert reader.read(fresh=True).files["SOUL.md"].content == b"hello"
    os.rename(root, tmp_path / "gone")
    assert reader.read(fresh=True).missing


def test_a_file_in_place_of_the_directory_is_missing(tmp_path: Path) -> None:
    assert WorkspaceReader(put(tmp_path, "workspace")).read().missing


def test_the_same_object_is_returned_until_something_changes(tmp_path: Path) -> None:
    put(tmp_path, "SOUL.md")
    put(tmp_path, "AGENTS.md")
    reader = WorkspaceReader(tmp_path)
    first = reader.read()
    assert reader.read() is reader.read(fresh=True) is first
    put(tmp_path, "unrelated.txt")
    os.utime(tmp_path / "SOUL.md")
    assert reader.read(fresh=True) is first
    put(tmp_path, "SOUL.md", "new")
    second = reader.read(fresh=True)
    assert second is not first
    assert second.files["AGENTS.md"] is first.files["AGENTS.md"]


def test_every_kind_of_change_is_seen(tmp_path: Path) -> None:
    reader = WorkspaceReader(tmp_path)

    def seen() -> dict[str, bytes]:
        return {path: file.content for path, file in reader.read(fresh=True).files.items()}

    assert seen() == {}
    put(tmp_path, "SOUL.md", "one")
    assert seen() == {"SOUL.md": b"one"}
    put(tmp_path, "SOUL.md", "two")
    assert seen() == {"SOUL.md": b"two"}
    stamp = (tmp_path / "SOUL.md").stat()
    put(tmp_path, "SOUL.md", "six")
    os.utime(tmp_path / "SOUL.md", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert seen() == {"SOUL.md": b"six"}
    put(tmp_path, "memory/2026-02-10.md", "log")
    assert seen() == {"SOUL.md": b"six", "memory/2026-02-10.md": b"log"}
    put(tmp_path, "memory/2026-02-11.md", "log")
    put(tmp_path, "skills/a/SKILL.md", "a")
    assert "memory/2026-02-11.md" in seen()
    assert "skills/a/SKILL.md" in seen()
    (tmp_path / "empty").mkdir()
    os.rename(tmp_path / "empty", tmp_path / "skills" / "b")
    assert "skills/b/SKILL.md" not in seen()
    put(tmp_path, "skills/b/SKILL.md", "b")
    assert "skills/b/SKILL.md" in seen()
    os.rename(tmp_path / "skills" / "a", tmp_path / "skills" / "c")
    assert {"skills/a/SKILL.md", "skills/c/SKILL.md"} & set(seen()) == {"skills/c/SKILL.md"}
    (tmp_path / "SOUL.md").unlink()
    assert "SOUL.md" not in seen()


def test_rapid_writes_of_equal_length_are_all_seen(tmp_path: Path) -> None:
    """The clock of a file system is coarse: a second write may leave size and time stamp as they were."""
    reader = WorkspaceReader(tmp_path)
    for number in range(100, 200):
        put(tmp_path, "SOUL.md", str(number))
        assert reader.read(fresh=True).files["SOUL.md"].content == str(number).encode()


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_files, "SETTLING_NS", 0)
    for number in range(20):
        put(tmp_path, f"skills/s{number}/SKILL.md", "0")
    reader = WorkspaceReader(tmp_path)
    reader.read()
    opened: list[str] = []
    real_open = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *args, **kw: (opened.append(str(path)), real_open(path, *args, **kw))[1]
    )
    reader.read(fresh=True)
    assert opened == []
    put(tmp_path, "skills/s7/SKILL.md", "new")
    assert reader.read(fresh=True).files["skills/s7/SKILL.md"].content == b"new"
    assert opened == [str(tmp_path), "skills", "s7", "SKILL.md"]


def test_changes_are_looked_for_only_for_a_share_of_the_time(tmp_path: Path) -> None:
    put(tmp_path, "SOUL.md", "one")
    rare = WorkspaceReader(tmp_path, max_check_share=1e-9)
    rare.read()
    rare.read(fresh=True)
    often = WorkspaceReader(tmp_path)
    often.read()
    put(tmp_path, "SOUL.md", "two")
    assert rare.read().files["SOUL.md"].content == b"one"
    assert rare.read(fresh=True).files["SOUL.md"].content == b"two"
    deadline = time.monotonic() + 10
    while often.read().files["SOUL.md"].content == b"one":
        assert time.monotonic() < deadline


def test_links_are_followed_inside_only(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    put(outside, "secret.md", "secret")
    put(outside, "SKILL.md", "secret")
    root = tmp_path / "workspace"
    put(root, ".data/v1/AGENTS.md", "rules")
    (root / "AGENTS.md").symlink_to(".data/v1/AGENTS.md")
    (root / "SOUL.md").symlink_to(outside / "secret.md")
    (root / "USER.md").symlink_to("../outside/secret.md")
    (root / "TOOLS.md").symlink_to("TOOLS.md")
    (root / "IDENTITY.md").symlink_to("nowhere")
    (root / "souls").symlink_to(outside)
    (root / "skills").mkdir()
    (root / "skills" / "evil").symlink_to(outside)

    raw = WorkspaceReader(root).read()
    assert {path: file.content for path, file in raw.files.items()} == {"AGENTS.md": b"rules"}
    assert {path for path, _ in raw.skipped} == {"SOUL.md", "USER.md", "souls", "skills/evil/SKILL.md"}
    assert {reason for _, reason in raw.skipped} == {"a link that leads out of the workspace"}


def test_a_link_that_is_switched_is_noticed(tmp_path: Path) -> None:
    put(tmp_path, "releases/1/SOUL.md", "one")
    put(tmp_path, "releases/2/SOUL.md", "two")
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    reader = WorkspaceReader(current)
    assert reader.read().files["SOUL.md"].content == b"one"
    (tmp_path / "next").symlink_to("releases/2")
    os.replace(tmp_path / "next", current)
    assert reader.read(fresh=True).files["SOUL.md"].content == b"two"


def test_a_neighbour_with_the_same_prefix_is_outside(tmp_path: Path) -> None:
    put(tmp_path, "work-secret/SOUL.md", "secret")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "SOUL.md").symlink_to(tmp_path / "work-secret" / "SOUL.md")
    assert not WorkspaceReader(tmp_path / "work").read().files


def test_odd_things_are_skipped_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").mkdir()
    os.mkfifo(tmp_path / "SOUL.md")
    (tmp_path / "souls").mkdir()
    with open(os.fsencode(tmp_path / "souls") + b"/bad\xff.md", "wb") as file:
        file.write(b"x")
    put(tmp_path, "souls/line\nbreak.md")
    put(tmp_path, "memory", "a file")
    raw = WorkspaceReader(tmp_path).read()
    assert not raw.files
    assert dict(raw.skipped) == {
        "AGENTS.md": "not a regular file",
        "SOUL.md": "not a regular file",
        "memory": "cannot be listed",
        "souls/'bad\\udcff.md'": "odd characters in the name",
        "souls/'line\\nbreak.md'": "odd characters in the name",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_skipped_until_it_is_readable(tmp_path: Path) -> None:
    put(tmp_path, "SOUL.md").chmod(0)
    reader = WorkspaceReader(tmp_path)
    assert reader.read().skipped == (("SOUL.md", "cannot be read"),)
    (tmp_path / "SOUL.md").chmod(0o600)
    assert "SOUL.md" in reader.read(fresh=True).files


def test_a_gigantic_file_is_read_in_part(tmp_path: Path) -> None:
    put(tmp_path, "MEMORY.md", b"m" * (MAX_FILE_BYTES + 5))
    put(tmp_path, "SOUL.md", b"s" * MAX_FILE_BYTES)
    raw = WorkspaceReader(tmp_path).read()
    assert (raw.files["MEMORY.md"].cut, len(raw.files["MEMORY.md"].content)) == (True, MAX_FILE_BYTES)
    assert (raw.files["SOUL.md"].cut, len(raw.files["SOUL.md"].content)) == (False, MAX_FILE_BYTES)


def test_the_number_of_files_is_bounded_and_the_newest_logs_win(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    for number in range(MAX_FILES + 10):
        (tmp_path / "memory" / f"{number:05}.md").touch()
    put(tmp_path, "SOUL.md")
    raw = WorkspaceReader(tmp_path).read()
    assert len(raw.files) <= MAX_FILES
    assert "SOUL.md" in raw.files
    assert f"memory/{MAX_FILES + 9:05}.md" in raw.files
    assert "memory/00000.md" not in raw.files
    assert "more than" in raw.skipped[0][1]


def test_the_boot_marker_is_state_not_content(tmp_path: Path) -> None:
    put(tmp_path, "BOOT.md")
    reader = WorkspaceReader(tmp_path)
    first = reader.read()
    write_boot_marker(tmp_path, "2026-02-10T12:00:00.000Z\n")
    second = reader.read(fresh=True)
    assert (first.boot_complete, second.boot_complete) == (False, True)
    assert list(second.files) == ["BOOT.md"]
    assert sorted(os.listdir(tmp_path)) == [".boot-complete", "BOOT.md"]


def test_threads_share_a_reader(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path, f"skills/s{number}/SKILL.md", "0")
    reader = WorkspaceReader(tmp_path)
    failures: list[object] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            files = reader.read().files
            if len(files) != 20 or any(len(file.content) != 1 for file in files.values()):
                failures.append(files)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(50):
        temporary = put(tmp_path, "next", str(number % 10))
        os.replace(temporary, tmp_path / "skills" / f"s{number % 20}" / "SKILL.md")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
