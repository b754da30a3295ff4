"""Services of governance: one module per concern."""
