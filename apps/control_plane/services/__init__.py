"""Services of the embedded control plane: single transactions, safe to repeat under an idempotency key."""
