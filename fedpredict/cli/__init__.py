"""The fedpredict command: one module per noun, and the wiring of settings to objects."""
