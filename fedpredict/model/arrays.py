"""The array types of the package."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Statuses: TypeAlias = NDArray[np.uint8]
Bools: TypeAlias = NDArray[np.bool_]
Micros: TypeAlias = NDArray[np.int64]
"""Instants as microseconds since 1970-01-01T00:00:00 UTC."""
