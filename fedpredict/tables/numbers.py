"""Numbers as the digest reads them."""

from __future__ import annotations

import numpy as np

from fedpredict.model.arrays import Floats


def canonical_numbers(values: Floats) -> bytes:
    """Return big-endian float64, in C order.

    >>> canonical_numbers(np.array([-0.0])).hex()
    '8000000000000000'
    """
    return np.ascontiguousarray(values, dtype=">f8").tobytes()
