"""The root of the tree of errors."""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import override


class FedPredictError(Exception):
    """The root of the tree: catch it to catch everything that fedpredict raises on purpose."""

    public_fields: ClassVar[tuple[str, ...]] = ()

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        """Return how it is made in another process: without `__init__`, whose fields have no place in `args`."""
        return type(self).__new__, (type(self), *self.args), vars(self)
