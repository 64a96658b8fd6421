"""Which of a daemon's processes this one is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Worker:
    """Process `index` (from 0) of `count` that serve the same ports."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"worker {self.index} of {self.count}")

    @property
    def shares_ports(self) -> bool:
        """Whether other processes listen at the same ports."""
        return self.count > 1


ALONE = Worker()
"""The only process of its daemon."""
