"""What scripts/bench serve is made of."""
