"""The domain of traces: pure functions over frozen values; no database, clock, settings or network."""
