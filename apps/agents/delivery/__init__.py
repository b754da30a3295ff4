"""What happens around a run: the outbox, answers stored for repeated requests, and the sweeper."""
