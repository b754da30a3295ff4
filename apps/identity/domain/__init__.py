"""The domain of identity: pure functions over frozen values; no database, clock, settings or network."""
