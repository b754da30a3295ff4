"""Services of identity: one module for each concern."""
