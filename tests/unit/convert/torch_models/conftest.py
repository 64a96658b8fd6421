"""The recipe here needs PyTorch, which the tests do without."""

collect_ignore = ["make.py"]
