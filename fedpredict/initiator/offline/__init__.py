"""Offline tasks: from what is submitted to results in the warehouse, bucket by bucket (ADR 0031)."""
