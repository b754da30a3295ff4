"""Workspaces: the files an agent is made of, and what they turn into."""
