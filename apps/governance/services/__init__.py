"""Services of governance: one module for each concern."""
