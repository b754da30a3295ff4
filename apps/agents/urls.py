"""Routes of the runs. They are no Django views: `clasper.asgi` mounts them on the event loop."""

from __future__ import annotations

from typing import Any

from apps.agents.consumers import CompactConsumer, ReplayConsumer, SendConsumer, StreamConsumer, TaskConsumer

run_routes: list[tuple[str, Any]] = [
    ("api/agents/send", SendConsumer),
    ("api/agents/stream", StreamConsumer),
    ("llm-task", TaskConsumer),
    ("compact", CompactConsumer),
    ("traces/<str:trace_id>/replay", ReplayConsumer),
]
"""Every way to a model over HTTP."""
