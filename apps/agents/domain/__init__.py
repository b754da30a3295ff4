"""The domain of runs: pure functions over frozen values; no database, clock, settings or network."""
