"""Runs: the engine every request to a model passes, its doors, its outbox."""
