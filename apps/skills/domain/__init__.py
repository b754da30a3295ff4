"""The domain of skills: pure functions over frozen values; no database, clock, settings or network."""
