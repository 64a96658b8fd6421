"""What tests say about parts of which they know that they are linear."""

from __future__ import annotations

from fedpredict.model.linear import LinearPart
from fedpredict.model.part import Part


def linear(part: Part) -> LinearPart:
    """Return the part, which must be linear."""
    assert isinstance(part, LinearPart)
    return part
