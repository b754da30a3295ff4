"""Skills: what a skill is, when it may run, which tools it grants."""
