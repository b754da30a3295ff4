"""Traces: what happened in each run, step by step."""
