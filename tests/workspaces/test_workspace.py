"""The workspace as a value: hash, duplicate skills, memory, and the report on its sizes."""

from __future__ import annotations

import hashlib
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.skills.domain.gates import Platform
from apps.workspaces.domain.composition import memory_block
from apps.workspaces.domain.report import report_context
from apps.workspaces.domain.workspace import (
    Workspace,
    assemble_workspace,
    hash_snapshot,
    is_role,
    parse_file,
    regate,
)

BARE = Platform(os="linux", env=frozenset(), has_bin=lambda name: False, config=lambda name: False)
KEYED = Platform(os="linux", env=frozenset({"KEY"}), has_bin=lambda name: False, config=lambda name: False)


def workspace(files: dict[str, str | bytes], platform: Platform = BARE) -> Workspace:
    contents = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
    return assemble_workspace(
        root="/srv/w",
        files={
            path: (hashlib.sha256(content).hexdigest(), parse_file(path, content)) for path, content in contents.items()
        },
        platform=platform,
    )


def test_the_hash_is_stable_whatever_the_order() -> None:
    files: dict[str, str | bytes] = {
        "SOUL.md": "a",
        "souls/x.md": "b",
        "skills/é/SKILL.md": "c",
        "skills/z/SKILL.md": "d",
    }
    one = workspace(files).snapshot_hash
    assert one == workspace(dict(reversed(files.items()))).snapshot_hash
    assert (
        one
        == "sha256:"
        + hashlib.sha256(
            "".join(
                f"{path}\0{hashlib.sha256(content.encode()).hexdigest()}\n"
                for path, content in [
                    ("SOUL.md", "a"),
                    ("skills/z/SKILL.md", "d"),
                    ("skills/é/SKILL.md", "c"),
                    ("souls/x.md", "b"),
                ]
            ).encode()
        ).hexdigest()
    )


CONTENT = b"One\r\n\xff two\x00"


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_any_single_byte_changes_the_hash(position: int, difference: int) -> None:
    changed = bytearray(CONTENT)
    changed[position] ^= difference
    for path in ("SOUL.md", "memory/2026-02-10.md", "skills/a/SKILL.md"):
        assert workspace({path: CONTENT}).snapshot_hash != workspace({path: bytes(changed)}).snapshot_hash


def test_the_hash_sees_paths_and_empty_files() -> None:
    hashes = {hash_snapshot(digests) for digests in ({}, {"a": "1"}, {"b": "1"}, {"a": "1", "b": "1"}, {"a": "2"})}
    assert len(hashes) == 5


def test_texts_are_cut_and_counted() -> None:
    read = workspace(
        {"SOUL.md": "x" * 25_000, "AGENTS.md": "é" * 20_000, "TOOLS.md": "", "USER.md": b"\xef\xbb\xbfa\x00"}
    )
    shown = {path: (file.raw_chars, len(file.text), file.truncated) for path, file in read.files.items()}
    assert shown == {
        "AGENTS.md": (20_000, 20_000, False),
        "SOUL.md": (25_000, 20_000, True),
        "TOOLS.md": (0, 0, False),
        "USER.md": (2, 2, False),
    }
    assert read.files["SOUL.md"].text.endswith("[... content truncated at 20000 characters]")
    assert read.text("USER.md") == "a\ufffd"


def test_the_first_of_two_skills_keeps_the_name() -> None:
    read = workspace(
        {
            "skills/b/SKILL.md": "---\nname: twin\n---\nsecond",
            "skills/a/SKILL.md": "---\nname: twin\n---\nfirst",
            "skills/twin/SKILL.md": "third",
            "skills/c/SKILL.md": "other",
        }
    )
    assert [(skill.path, skill.enabled, skill.gate_reason) for skill in read.skills] == [
        ("skills/a", True, ""),
        ("skills/b", False, "Duplicate name: skills/a is called twin too"),
        ("skills/c", True, ""),
        ("skills/twin", False, "Duplicate name: skills/a is called twin too"),
    ]


def test_gates_open_and_close_without_reading_again() -> None:
    closed = workspace({"skills/a/SKILL.md": "---\nmetadata: {clasper: {requires: {env: KEY}}}\n---\n"})
    assert [skill.gate_reason for skill in closed.skills] == ["Missing env: KEY"]
    assert regate(closed, BARE) is closed
    opened = regate(closed, KEYED)
    assert [skill.enabled for skill in opened.skills] == [True]
    assert opened.snapshot_hash == closed.snapshot_hash
    assert opened.revision != closed.revision
    assert regate(opened, BARE).revision == closed.revision


def test_memory_is_of_two_days() -> None:
    read = workspace(
        {
            "MEMORY.md": " long \n",
            "memory/2026-02-28.md": "b",
            "memory/2026-03-01.md": "a",
            "memory/2026-02-27.md": "old",
        }
    )
    assert memory_block(read, date(2026, 3, 1)) == (
        "## Recent Memory\n\n### Long-term Memory\n\nlong\n\n"
        "### Yesterday (2026-02-28)\n\nb\n\n### Today (2026-03-01)\n\na"
    )
    assert memory_block(workspace({}), date(2026, 3, 1)) == ""


@pytest.mark.parametrize("role", ["agent", "a", "A-b_9", "x" * 64])
def test_roles(role: str) -> None:
    assert is_role(role)


@pytest.mark.parametrize(
    "role", ["", "..", "../AGENTS", "a/b", "a\\b", "a.md", "a b", "a\n", "a\x00", "é", "x" * 65, "%2e%2e", "~", "*"]
)
def test_no_path_fits_through_a_role(role: str) -> None:
    assert not is_role(role)


def test_the_report_counts_what_a_prompt_holds() -> None:
    read = workspace({"AGENTS.md": "a" * 1_500, "SOUL.md": "s" * 25_000, "HEARTBEAT.md": "h" * 3})
    report = report_context(read, role="", skills_max_chars=1_000)
    shown = [(file.name, file.exists, file.raw_chars, file.injected_chars, file.truncated) for file in report.files]
    assert shown == [
        ("AGENTS.md", True, 1_500, 1_500, False),
        ("SOUL.md", True, 25_000, 20_000, True),
        ("IDENTITY.md", False, 0, 0, False),
        ("TOOLS.md", False, 0, 0, False),
        ("HEARTBEAT.md", True, 3, 3, False),
        ("USER.md", False, 0, 0, False),
    ]
    assert [file.estimated_tokens for file in report.files] == [375, 5_000, 0, 0, 1, 0]
    assert report.total_bootstrap_chars == 21_503
    assert report.system_prompt_chars == 20_000 + 2 + len("## Operating Rules\n\n") + 1_500
    assert report.estimated_system_prompt_tokens == -(-report.system_prompt_chars // 4)


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("", ["AGENTS.md", "SOUL.md"]),
        ("support", ["AGENTS.md", "souls/support.md"]),
        ("stranger", ["AGENTS.md", "souls/stranger.md", "SOUL.md"]),
    ],
)
def test_the_report_shows_the_soul_that_is_used(role: str, names: list[str]) -> None:
    read = workspace({"souls/support.md": "mine", "SOUL.md": "common"})
    report = report_context(read, role=role, skills_max_chars=1_000)
    assert [file.name for file in report.files][: len(names)] == names
    assert report.total_bootstrap_chars == report.system_prompt_chars
