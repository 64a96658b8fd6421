from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedpredict.warehouse.local import LocalWarehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[LocalWarehouse]:
    warehouse = LocalWarehouse(tmp_path / "warehouse")
    yield warehouse
    warehouse.close()
