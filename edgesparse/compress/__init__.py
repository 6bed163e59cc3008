"""Making models smaller: pruning."""
