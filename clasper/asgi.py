"""The ASGI application: runs on the event loop, everything else through Django, and start and stop of the process."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import ExitStack
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "clasper.settings")

from django.core.asgi import get_asgi_application

_django = get_asgi_application()

from channels.routing import URLRouter
from django.conf import settings
from django.urls import path, re_path

from apps.agents import urls as agents
from apps.agents.engine.observe import start_export, stop_export
from clasper import worker
from clasper.core.consumers import Receive, Send, limited
from clasper.core.db import writer
from clasper.gateways.http import close_session
from clasper.ops.live import end_on_signals, serving
from clasper.ops.urls import live_routes

# Channels ships no types, and its routes point to ASGI applications where Django's point to views.
_route: Any = path
_rest: Any = re_path
_router: Any = URLRouter
_loop_routes = [*agents.run_routes, *live_routes]
_http = _router([*(_route(where, to.as_asgi()) for where, to in _loop_routes), _rest("", limited(_django))])


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Serves one connection of any kind."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    else:
        await _http(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Starts the in-process worker; when the server stops, finishes what was begun."""
    background: asyncio.Task[None] | None = None
    running = ExitStack()
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            start_export()
            # A full collection of what start-up built pauses every run for 80 ms and finds nothing. What runs leave is
            # still collected, in larger portions.
            gc.collect()
            gc.freeze()
            gc.set_threshold(10_000, 50, 1_000)
            running.enter_context(serving())
            end_on_signals()
            if not settings.CELERY_BROKER_URL:
                background = asyncio.ensure_future(worker.work())
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            if background is not None:
                background.cancel()
                await asyncio.gather(background, return_exceptions=True)
            await close_session()
            await asyncio.to_thread(writer.close)
            running.close()
            await asyncio.to_thread(stop_export)
            await send({"type": "lifespan.shutdown.complete"})
            return
