"""Services of traces: `recording` writes runs as they happen, `reading` lists and shows them."""
