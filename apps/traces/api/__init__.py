"""Doors of traces, one module for each kind of question, in the shapes of the API reference."""
