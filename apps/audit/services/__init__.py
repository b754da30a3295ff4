"""What governance does. One module a concern; callers import the verb they need."""
