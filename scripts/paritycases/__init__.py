"""Models of real libraries on real data, for `scripts/parity`: one module per family of sources."""
