"""Snapshots of features and the online stores that serve them."""
