"""A model file becomes a partial model, without running anything that is in the file."""
