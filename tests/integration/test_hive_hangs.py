"""A HiveServer2 that takes connections and says nothing."""

from __future__ import annotations

import logging
import socket
import threading

import pytest

from fedpredict.errors import WarehouseUnavailableError
from fedpredict.warehouse.hive import HiveWarehouse
from fedpredict.warehouse.hive_settings import HiveSettings

ENDS_IN_S = 30.0


def test_closing_does_not_wait_for_a_call_that_hangs_in_another_thread(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fedpredict.warehouse.hive")
    failed: list[WarehouseUnavailableError] = []

    def read() -> None:
        try:
            warehouse.read("fp_models", ["model_id"], {})
        except WarehouseUnavailableError as error:
            failed.append(error)

    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = HiveSettings(port=server.getsockname()[1], connect_timeout_s=ENDS_IN_S)
        warehouse = HiveWarehouse(settings)
        reader = threading.Thread(target=read)
        reader.start()
        connection, _ = server.accept()
        with connection:
            warehouse.close()
            assert reader.is_alive()
    reader.join(ENDS_IN_S)
    assert [record.message for record in caplog.records] == ["hive.close_abandoned"]
    assert len(failed) == 1
