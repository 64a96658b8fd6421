"""The root of the tree of errors."""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import override

MAX_RETRY_AFTER_MS = 24 * 60 * 60 * 1000
"""The longest pause that an error tells: peers send theirs as digits, as many as they like."""


class FedPredictError(Exception):
    """The root of the tree: catch it to catch everything that fedpredict raises on purpose."""

    public_fields: ClassVar[tuple[str, ...]] = ()

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        """Return how it is made in another process: without `__init__`, whose fields have no place in `args`."""
        return type(self).__new__, (type(self), *self.args), vars(self)


def retry_after(ms: float | str) -> int:
    """Return a pause in whole milliseconds, not below 0 and not above a day; raise `ValueError` for what is none."""
    return min(MAX_RETRY_AFTER_MS, max(0, int(ms)))
