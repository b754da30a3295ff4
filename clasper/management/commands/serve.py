"""`manage.py serve`: the production server."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import Any

import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from apps.agents.engine.observe import check_export
from apps.governance.services.prices import price_book
from clasper.core.redaction import default_redactor

WARNING = "No AGENT_DAEMON_API_KEY is set: anyone who can reach this port can run agents. For development only."


class Command(BaseCommand):
    """Serves HTTP with uvicorn (uvloop, httptools)."""

    help = (
        "Serves Clasper over HTTP. Example: manage.py serve --host 0.0.0.0 --port 8081 --workers 2. "
        "Run `manage.py migrate` once before the first start and after each upgrade."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, default=settings.CLASPER_PORT, help="default: CLASPER_PORT")
        parser.add_argument("--workers", type=int, default=1, help="server processes (default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.PRODUCTION and not settings.AGENT_DAEMON_API_KEY:
            self.stderr.write(self.style.WARNING(WARNING))
        # Invalid settings must fail the start, not the first run.
        price_book()
        default_redactor()
        check_export()
        # Worker processes read the settings themselves; the embedded control plane is found by this port.
        os.environ["CLASPER_PORT"] = str(options["port"])
        settings.CLASPER_PORT = options["port"]
        if not settings.PRODUCTION:
            address = f"http://{options['host']}:{options['port']}"
            self.stdout.write(f"Clasper is serving {address} (API: {address}/api/docs). Press Ctrl+C to stop.")
            self.stdout.flush()
        with ExitStack() as running:
            if options["workers"] > 1 and not settings.PROMETHEUS_MULTIPROC_DIR:
                # Each worker process counts its own runs into this directory; /metrics adds them up.
                directory = running.enter_context(tempfile.TemporaryDirectory(prefix="clasper-metrics-"))
                os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
            uvicorn.run(
                "clasper.asgi:application",
                host=options["host"],
                port=options["port"],
                workers=options["workers"],
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=True,
                timeout_graceful_shutdown=int(settings.CLASPER_RUN_TIMEOUT_MS / 1000) + 5,
            )
