"""Routes of operators that are no Django views: `clasper.asgi` mounts them on the event loop."""

from __future__ import annotations

from typing import Any

from clasper.ops.consumers import EventsConsumer

live_routes: list[tuple[str, Any]] = [("ops/api/events", EventsConsumer)]
