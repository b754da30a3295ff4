"""The embedded control plane: contract v1 over HTTP on rows of its own. It imports nothing of Clasper."""
