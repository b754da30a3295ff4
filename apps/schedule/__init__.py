"""Periodic background work: what a task is, and the leases by which one process at a time runs it."""
