"""The entry points of runs, on the event loop."""

from apps.agents.consumers.compaction import CompactConsumer
from apps.agents.consumers.conversations import SendConsumer, StreamConsumer
from apps.agents.consumers.replay import ReplayConsumer
from apps.agents.consumers.structured import TaskConsumer

__all__ = ["CompactConsumer", "ReplayConsumer", "SendConsumer", "StreamConsumer", "TaskConsumer"]
