"""The domain of workspaces: pure functions over frozen values; no database, clock, settings or network."""
