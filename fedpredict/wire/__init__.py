"""Messages: generated code in v1, and the only translators between messages and model values."""
