"""Runs: the engine every request to a model passes, the entry points, the outbox."""
