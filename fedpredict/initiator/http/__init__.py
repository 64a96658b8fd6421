"""The HTTP face of an initiator: JSON, the Open Inference Protocol, and their description."""
