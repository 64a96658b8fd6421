"""What scripts/bench kernels is made of."""
