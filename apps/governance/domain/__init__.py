"""The domain of governance: pure functions over frozen values; no database, clock, settings or network."""
