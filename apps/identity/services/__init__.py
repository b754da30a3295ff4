"""Services of identity: one module per concern."""
