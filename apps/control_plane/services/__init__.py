"""Verbs of the embedded control plane. Each is one transaction and safe to repeat under its idempotency key."""
