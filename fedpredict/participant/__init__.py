"""The participant's daemon."""
