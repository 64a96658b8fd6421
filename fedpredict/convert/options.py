"""What an operator says about a model file, and how much a file may cost."""

from __future__ import annotations

from dataclasses import dataclass

from fedpredict.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What the operator adds to a file that does not say it. What both say must be the same.

    Attributes:
        model_id: The training task's id. A scikit-learn file does not hold one.
        training_run: The run that made all parts. A scikit-learn file does not hold one.
        party: Whose part the file is. A scikit-learn file does not hold one.
        features: The feature names in the order of the file's weights, for a file without names.
        holds_intercept: Whether the joint model's intercept is in this file. None: as the file says; a scikit-learn
            estimator with `fit_intercept=True` holds it.
        fit_intercept: Whether the joint model has an intercept, at whichever party. None: as the file says.
        layers: What the tensors of a PyTorch or safetensors file do, as JSON text (docs/portable-model.md).
        offset: A feature beside the file's that is added to every score as it is. Linear models only.
        exposure: A feature beside the file's whose logarithm is added to every score. Linear models only.
    """

    model_id: str | None = None
    training_run: str | None = None
    party: str | None = None
    features: tuple[str, ...] | None = None
    holds_intercept: bool | None = None
    fit_intercept: bool | None = None
    layers: str | None = None
    offset: str | None = None
    exposure: str | None = None


SMALLER = "make the model smaller: fewer or shallower trees, fewer units"
"""What to do about a model that takes more than the limits; the end of such messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What reading one file may cost. The defaults leave room for models of millions of weights.

    Attributes:
        file_bytes: Size of the file.
        unpacked_bytes: Size of what a compressed file unpacks to.
        array_bytes: All arrays together; one that is referred to twice counts twice.
        operations: Pickle opcodes, also the number of values in a portable model.
        memory_bytes: Address space of the reading process.
        cpu_s: Seconds of processor time of the reading process.
        wall_s: Seconds until the reading process is killed.
    """

    file_bytes: int = 512 * 2**20
    unpacked_bytes: int = 512 * 2**20
    array_bytes: int = 256 * 2**20
    operations: int = 5_000_000
    memory_bytes: int = 3 * 2**30
    cpu_s: int = 60
    wall_s: int = 120

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"the limit {name} of reading model files is {value}; it must be at least 1")
