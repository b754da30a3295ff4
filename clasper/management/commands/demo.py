"""`manage.py demo`: starts a server of its own and runs the demo against it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console

from clasper.demo import TENANT, USER, DemoFailed, Story

START_SECONDS = 30.0
SCOPES = "agents:run,traces:read,governance:read"


class Command(BaseCommand):
    """The demo: exit code 0 only if everything it shows really happened."""

    help = (
        "Starts Clasper on a free port with a fresh SQLite file, the embedded control plane and the offline model, "
        "sends governed requests and shows replies, steps, cost, budget and audit. To use a real model instead, set "
        "the key of a provider, such as OPENAI_API_KEY or ANTHROPIC_API_KEY (LLM_MODEL_DEFAULT names the model). "
        "Example: manage.py demo"
    )

    def handle(self, *args: Any, **options: Any) -> None:
        console = Console()
        with tempfile.TemporaryDirectory(prefix="clasper-demo-") as folder:
            environment = _environment(Path(folder))
            scripted = environment["LLM_PROVIDER"] == "offline"
            console.print(f"[bold]Clasper demo[/] on a fresh database, model: {environment['LLM_PROVIDER']}")
            _manage(environment, "migrate", "--verbosity", "0")
            key = json.loads(
                _manage(
                    environment, "api_key", "create", "--tenant", TENANT, "--name", "demo", "--scopes", SCOPES, "--json"
                )
            )["key"]
            with _server(environment, Path(folder) / "server.log") as url:
                headers = {"X-Agent-Daemon-Key": environment["AGENT_DAEMON_API_KEY"]}
                body = {"tenant_id": TENANT, "limit": 1.0, "period": "monthly"}
                httpx.post(f"{url}/budget", json=body, headers=headers, timeout=30).raise_for_status()
                story = Story(
                    url=url,
                    key=key,
                    daemon_key=environment["AGENT_DAEMON_API_KEY"],
                    agent_token=_agent_token(environment),
                    scripted=scripted,
                    console=console,
                )
                try:
                    story.tell()
                except (DemoFailed, httpx.HTTPError) as error:
                    log = (Path(folder) / "server.log").read_text()[-3000:]
                    raise CommandError(f"The demo failed: {error}\n\nThe end of the server's log:\n{log}") from error
        console.print("\n[bold green]All of this really happened.[/] Next: make serve, and docs/quickstart.md.")


def _environment(folder: Path) -> dict[str, str]:
    """The demo's own settings, with the model and provider settings of the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    others = ("CLASPER_", "AGENT_", "BACKEND_", "DATABASE_", "REDIS_", "CELERY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return kept | {
        "LLM_PROVIDER": settings.LLM_PROVIDER,
        "CLASPER_ENV": "development",
        "DATABASE_URL": f"sqlite:///{folder / 'clasper.db'}",
        "CLASPER_WORKSPACE": str(settings.BASE_DIR / "fixtures" / "workspaces" / "demo"),
        "CLASPER_PORT": str(free_port),
        "AGENT_DAEMON_API_KEY": secrets.token_urlsafe(24),
        "AGENT_JWT_SECRET": secrets.token_urlsafe(32),
        "DJANGO_SETTINGS_MODULE": "clasper.settings",
    }


def _agent_token(environment: dict[str, str]) -> str:
    """The token with which the demo, like any agent, reads the control plane (contract v1)."""
    claims = {
        "type": "agent",
        "user_id": USER,
        "agent_role": "support",
        "tenant_id": TENANT,
        "aud": "control-plane",
        "exp": int(time.time()) + 600,
    }
    return jwt.encode(claims, environment["AGENT_JWT_SECRET"], algorithm="HS256")


def _manage(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  our own command
    if done.returncode != 0:
        raise CommandError(f"manage.py {arguments[0]} failed:\n{done.stderr[-3000:]}")
    return done.stdout


@contextmanager
def _server(environment: dict[str, str], log: Path) -> Iterator[str]:
    """A server process that is ready to serve; it is stopped at the end."""
    url = f"http://127.0.0.1:{environment['CLASPER_PORT']}"
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "serve", "--port", environment["CLASPER_PORT"]]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603  our own command
        try:
            _wait_until_ready(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        try:
            if httpx.get(f"{url}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise CommandError(f"The server did not start:\n{log.read_text()[-3000:]}")
