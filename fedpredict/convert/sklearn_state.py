"""A scikit-learn estimator of a file: its class, the version that wrote it, and its state."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedpredict.convert.arrays import ArrayReader
from fedpredict.convert.nodes import Node
from fedpredict.convert.values import clipped, described, mapping
from fedpredict.errors import FeatureNamesError, ModelFileError, UnsupportedModelError

OLDEST = (0, 22)
"""The first version whose linear models are read: before it `multi_class` and `solver` meant something else."""

NEWEST_MAJOR = 1

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\b[\w.+]{0,40}")


@dataclass(frozen=True, slots=True, eq=False)
class Estimator:
    """One estimator.

    Attributes:
        package: The module's first two parts, such as `sklearn.linear_model`.
        name: The class.
        version: (major, minor) of the scikit-learn that wrote it.
        version_text: The same as it stands in the file.
        state: Its attributes, still inert.
        arrays: Rebuilds its arrays.
    """

    package: str
    name: str
    version: tuple[int, int]
    version_text: str
    state: dict[str, object]
    arrays: ArrayReader

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return an attribute that is true or false.

        Raises:
            ModelFileError: It is neither, or missing without a default.
        """
        value = self.state.get(key, default)
        if not isinstance(value, bool):
            raise ModelFileError(f"{self.name}.{key} is {described(value)}, not true or false")
        return value

    def text(self, key: str, default: str = "") -> str:
        """Return an attribute that is a text.

        Raises:
            ModelFileError: It is something else.
        """
        value = self.state.get(key, default)
        if not isinstance(value, str):
            raise ModelFileError(f"{self.name}.{key} is {described(value)}, not a text")
        return value

    def feature_names(self) -> tuple[str, ...] | None:
        """Return the names that it was fitted with, or None.

        Raises:
            FeatureNamesError: A name is no text.
        """
        value = self.state.get("feature_names_in_")
        if value is None:
            return None
        names = self.arrays.labels(value, f"{self.name}.feature_names_in_")
        texts = tuple(name for name in names if isinstance(name, str))
        if len(texts) != len(names):
            raise FeatureNamesError(f"{self.name}.feature_names_in_ holds names that are no texts")
        return texts

    def check_n_features(self, count: int) -> None:
        """Check the number of features that the estimator says it has (since scikit-learn 0.24).

        Raises:
            ModelFileError: It is another than `count`.
        """
        said = self.state.get("n_features_in_", count)
        if said != count or isinstance(said, bool):
            raise ModelFileError(f"{self.name}.n_features_in_ does not fit its {count} coefficients")


def read_estimator(value: object, arrays: ArrayReader, what: str) -> Estimator:
    """Return the estimator that a node stands for.

    Args:
        value: An inert value of the file.
        arrays: Rebuilds its arrays.
        what: Names the value in the message.

    Raises:
        UnsupportedModelError: It is no scikit-learn object, or of a version that is not read.
        ModelFileError: Its state is damaged.
    """
    if not isinstance(value, Node) or not value.path.startswith("sklearn."):
        raise UnsupportedModelError(f"{what} is {described(value)}, which is not a class of scikit-learn")
    parts = value.path.split(".")
    state = mapping(value.state, f"the state of {clipped(parts[-1])}") if value.built else {}
    version_text = state.get("_sklearn_version")
    found = _VERSION.fullmatch(version_text) if isinstance(version_text, str) else None
    if found is None:
        raise UnsupportedModelError(f"{clipped(value.path)} does not say which version of scikit-learn wrote it")
    version = int(found[1]), int(found[2])
    if not OLDEST <= version < (NEWEST_MAJOR + 1, 0):
        raise UnsupportedModelError(
            f"{clipped(parts[-1])} was written by scikit-learn {found[0]}; versions from 0.22 and before 2.0 are read: "
            "write it again with one of them"
        )
    return Estimator(".".join(parts[:2]), parts[-1], version, found[0], state, arrays)
