"""Which runs a list, link, label or export is about, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from clasper.core.money import NanoUSD
from clasper.core.tenancy import TenantScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """All given filters narrow; `""` and None mean not given.

    `model` is a name, or `provider/name`; `provider` and `model_name` are the two halves when they are certain.
    `label_value` None asks for the label with any value. Costs are nano-USD; ranges include both ends. `text` is an
    exact id of the run, its task, message, document or user, or is contained in the stored texts.
    """

    tenants: TenantScope
    status: str = ""
    agent_id: str = ""
    model: str = ""
    provider: str = ""
    model_name: str = ""
    workspace_id: str = ""
    environment: str = ""
    user_id: str = ""
    kind: str = ""
    risk_level: str = ""
    task_id: str = ""
    document_id: str = ""
    message_id: str = ""
    replay_of: str = ""
    label: str = ""
    label_value: str | None = None
    min_cost: NanoUSD | None = None
    max_cost: NanoUSD | None = None
    start: datetime | None = None
    end: datetime | None = None
    text: str = ""
