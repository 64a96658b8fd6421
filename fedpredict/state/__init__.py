"""Small durable state."""
