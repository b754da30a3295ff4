"""Use cases that start or repeat runs. Entry points call these, never the engine."""
