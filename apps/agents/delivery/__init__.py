"""What runs leave to be delivered, stored answers of repeated requests, and what a crash left behind."""
