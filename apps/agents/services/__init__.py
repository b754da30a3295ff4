"""What runs do besides running: `idempotency`, the `outbox`, and the `upkeep` of what a crash left behind."""
