"""Rules of the embedded control plane: who is calling, what a request must look like, what the demo shop allows."""
