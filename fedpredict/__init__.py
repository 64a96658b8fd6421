"""Federated prediction that runs in production: convert, score, combine."""

__version__ = "0.1.0"
