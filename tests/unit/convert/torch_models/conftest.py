"""The recipes here need PyTorch, which the tests do without."""

collect_ignore = ["make.py", "make_split.py"]
"""Make the files beside them."""
