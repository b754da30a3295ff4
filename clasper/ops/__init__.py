"""What operators watch Clasper with: the live events and the metrics."""
