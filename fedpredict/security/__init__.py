"""Certificates, party identity, and who may call what."""
