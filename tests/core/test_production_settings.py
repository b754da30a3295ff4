"""Production refuses to start with insecure settings and names every problem at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clasper import settings as settings_module

ROOT = Path(__file__).resolve().parents[2]

SOUND: dict[str, Any] = {
    "DEBUG": False,
    "SECRET_KEY": "s" * 50,
    "AGENT_DAEMON_API_KEY": "d" * 40,
    "AGENT_JWT_SECRET": "j" * 40,
    "ALLOWED_HOSTS": ["clasper.example.com"],
    "LLM_PROVIDER": "openai",
    "BACKEND_URL": "https://backend.example.com",
}
FAULTS: list[tuple[str, Any, str]] = [
    ("DEBUG", True, "DEBUG is on"),
    ("SECRET_KEY", "short", "SECRET_KEY"),
    ("SECRET_KEY", settings_module._DEVELOPMENT_SECRET, "SECRET_KEY"),
    ("AGENT_DAEMON_API_KEY", "", "AGENT_DAEMON_API_KEY"),
    ("AGENT_JWT_SECRET", "", "AGENT_JWT_SECRET"),
    ("AGENT_JWT_SECRET", "j" * 31, "AGENT_JWT_SECRET"),
    ("ALLOWED_HOSTS", [], "ALLOWED_HOSTS"),
    ("ALLOWED_HOSTS", ["a.example.com", "*"], "ALLOWED_HOSTS"),
    ("LLM_PROVIDER", "offline", "LLM_PROVIDER"),
    ("BACKEND_URL", "", "BACKEND_URL"),
]


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in SOUND.items():
        monkeypatch.setattr(settings_module, name, value)
    return monkeypatch


def test_sound_settings_have_no_problem(sound: pytest.MonkeyPatch) -> None:
    assert settings_module.production_problems() == []


@pytest.mark.parametrize(("name", "value", "text"), FAULTS, ids=lambda each: str(each)[:20])
def test_each_problem_is_named(name: str, value: Any, text: str, sound: pytest.MonkeyPatch) -> None:
    sound.setattr(settings_module, name, value)
    (problem,) = settings_module.production_problems()
    assert problem.startswith(text)


def check(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`manage.py check` in a process with this environment and no other."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    database = {"CLASPER_DB_PATH": str(tmp_path / "clasper.db")}
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", "check"],
        cwd=tmp_path,
        env={**inherited, **database, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture
def no_dotenv() -> None:
    if (ROOT / ".env").exists():
        pytest.skip("a .env file beside manage.py decides")


def test_the_server_refuses_and_names_all_problems_at_once(tmp_path: Path, no_dotenv: None) -> None:
    refused = check(tmp_path, CLASPER_ENV="production", DEBUG="true", LLM_PROVIDER="offline")
    assert refused.returncode != 0
    said = refused.stdout + refused.stderr
    assert said.count("\n  - ") == len(SOUND)
    assert [name for name in SOUND if f"\n  - {name} " not in said] == []


def test_the_server_starts_with_sound_settings(tmp_path: Path, no_dotenv: None) -> None:
    environment = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in SOUND.items()}
    started = check(tmp_path, CLASPER_ENV="production", **environment)
    assert started.returncode == 0, started.stderr


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"CLASPER_ENV": "prod"}, "CLASPER_ENV must be development, production or test"),
        ({"AGENT_JWT_ALGORITHM": "none"}, "AGENT_JWT_ALGORITHM must be HS256"),
    ],
    ids=["CLASPER_ENV", "AGENT_JWT_ALGORITHM"],
)
def test_values_that_mean_nothing_are_refused_everywhere(
    environment: dict[str, str], text: str, tmp_path: Path, no_dotenv: None
) -> None:
    refused = check(tmp_path, **environment)
    assert refused.returncode != 0
    assert text in refused.stderr
