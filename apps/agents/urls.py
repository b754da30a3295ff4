"""Routes of the runs. They are no Django views: `clasper.asgi` mounts them on the event loop."""

from __future__ import annotations

from typing import Any

from apps.agents.consumers import SendConsumer, StreamConsumer

run_routes: list[tuple[str, Any]] = [
    ("api/agents/send", SendConsumer),
    ("api/agents/stream", StreamConsumer),
]
