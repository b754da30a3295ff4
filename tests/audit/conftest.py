"""What the tests of the audit log's proofs share: a signing key, and a small log."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from apps.audit.services.recording import record_audit
from clasper.core.db import atomic_batch
from tests.audit.chain import SIGNING_KEY
from tests.world import ACME, GLOBEX, Server


@pytest.fixture
def signing(settings: Any) -> None:
    settings.CLASPER_AUDIT_SIGNING_KEY = SIGNING_KEY


@pytest.fixture
def log(server: Server, now: datetime) -> None:
    """Five entries of acme an hour apart and one of globex."""
    with atomic_batch() as batch:
        for tenant_id, hours in [(ACME, 0), (ACME, 1), (ACME, 2), (ACME, 3), (ACME, 4), (GLOBEX, 0)]:
            record_audit(
                batch,
                tenant_id=tenant_id,
                event_type="tool.call",
                actor=f"user:u{hours}",
                now=now + timedelta(hours=hours),
                details={"tool": "-1+1", "n": hours},
            )
