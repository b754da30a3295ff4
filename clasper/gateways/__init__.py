"""The outside world: each part is a Protocol, a real client, and a fake that ships with it."""
