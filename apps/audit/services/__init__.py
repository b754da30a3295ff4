"""Services of the audit log: one module for each concern."""
