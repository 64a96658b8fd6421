"""The asked initiator's own features of some samples, sent with a request instead of looked up."""

from __future__ import annotations

from dataclasses import dataclass

from fedpredict.model.arrays import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Features of samples that are not in the initiator's store yet.

    They only ever make the initiator's own share: a participant never scores features that a caller sends.

    Attributes:
        names: The features' names, as the view writes them, each once.
        values: Shape (n_samples, n_names), in the order of the sample ids; NaN is a missing value.
    """

    names: tuple[str, ...]
    values: Floats

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(f"inputs of shape {self.values.shape} for {len(self.names)} names")
        if len(set(self.names)) != len(self.names):
            raise ValueError("repeated names of inputs")
