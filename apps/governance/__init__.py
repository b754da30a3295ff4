"""Governance: who may do what, what it costs, what is kept, and the proof of it."""
