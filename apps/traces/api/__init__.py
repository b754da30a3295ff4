"""The endpoints of traces, one module per kind of request."""
