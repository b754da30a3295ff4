"""The domain of the audit log: pure functions over frozen values; no database, clock, settings or network."""
