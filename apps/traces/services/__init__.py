"""What traces do: `recording` writes a run as it happens, `reading` answers questions about runs."""
