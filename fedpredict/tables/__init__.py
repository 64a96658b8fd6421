"""Table layouts, written once: rows to partial models and back, feature views, statements as sqlglot trees."""
