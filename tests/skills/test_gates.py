from __future__ import annotations

from typing import Any

import pytest

from apps.skills.domain.gates import Platform, check_gates
from apps.skills.domain.skill_file import SkillFile

PLATFORM = Platform(
    os="linux",
    env=frozenset({"SEARCH_API_KEY", "HOME"}),
    has_bin=frozenset({"git", "rg"}).__contains__,
    config=frozenset({"default.task"}).__contains__,
)


@pytest.mark.parametrize(
    ("gates", "reason"),
    [
        ({}, ""),
        ({"os": ("linux",)}, ""),
        ({"os": ("darwin", "LINUX")}, ""),
        ({"os": ("macos", "windows")}, "Unsupported OS: linux (needs macos, windows)"),
        ({"env": ("SEARCH_API_KEY",)}, ""),
        ({"env": ("SEARCH_API_KEY", "OTHER", "THIRD")}, "Missing env: OTHER"),
        ({"bins": ("git", "rg")}, ""),
        ({"bins": ("git", "ffmpeg")}, "Missing bin: ffmpeg"),
        ({"any_bins": ("ffmpeg", "rg")}, ""),
        ({"any_bins": ("ffmpeg", "sox")}, "Missing any bin of: ffmpeg, sox"),
        ({"config": ("default.task",)}, ""),
        ({"config": ("default.task", "other")}, "Missing config: other"),
        ({"os": ("darwin",), "env": ("OTHER",)}, "Unsupported OS: linux (needs darwin)"),
        ({"env": ("OTHER",), "bins": ("ffmpeg",)}, "Missing env: OTHER"),
        ({"bins": ("ffmpeg",), "config": ("other",)}, "Missing bin: ffmpeg"),
        ({"always": True, "os": ("darwin",), "env": ("OTHER",), "bins": ("x",), "config": ("y",)}, ""),
        ({"problem": "Unreadable metadata: broken"}, "Unreadable metadata: broken"),
        ({"problem": "Unreadable metadata: broken", "always": True}, "Unreadable metadata: broken"),
    ],
)
def test_the_first_closed_gate_is_named(gates: dict[str, Any], reason: str) -> None:
    assert check_gates(SkillFile(directory="d", name="d", version="1", **gates), PLATFORM) == reason
