"""Services of the audit log: one module per concern."""
