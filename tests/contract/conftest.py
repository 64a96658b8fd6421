"""Warehouses for the contract suite, the files and sockets around them, and a HiveServer2 with TLS and passwords."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop
from _pytest.mark.structures import ParameterSet

from fedpredict.warehouse.base import Warehouse
from fedpredict.warehouse.hive_settings import HiveSettings

T = TypeVar("T")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run these suites on the loop that the daemons run on; the others run on the standard one."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass(frozen=True)
class Place:
    """A warehouse under test and how to open another one on the same tables."""

    kind: str
    warehouse: Warehouse
    open: Callable[[], Warehouse]
    settings: HiveSettings | None = None
    written: dict[str, object] = field(default_factory=dict)

    def once(self, key: str, write: Callable[[], object]) -> object:
        """Return what `write` returned when it was first called for this key: a table for several tests."""
        if key not in self.written:
            self.written[key] = write()
        return self.written[key]


PLACES = [
    pytest.param("local", id="local"),
    pytest.param("spark", id="spark", marks=pytest.mark.spark),
    pytest.param("hive", id="hive", marks=pytest.mark.hive),
]
SERVER_PLACES = PLACES[1:]


@pytest.fixture(scope="session")
def places(
    tmp_path_factory: pytest.TempPathFactory, server_database: Callable[[str], HiveSettings]
) -> Iterator[Callable[[str], Place]]:
    """Give a function that opens a place once: the first statements of a server's session are slow."""
    from fedpredict.warehouse.hive import HiveWarehouse
    from fedpredict.warehouse.local import LocalWarehouse

    opened: dict[str, Place] = {}

    def make(kind: str) -> Place:
        if kind == "local":
            root = tmp_path_factory.mktemp("local")
            return Place(kind, LocalWarehouse(root), lambda: LocalWarehouse(root))
        settings = server_database(kind)
        return Place(kind, HiveWarehouse(settings), lambda: HiveWarehouse(settings), settings)

    def get(kind: str) -> Place:
        if kind not in opened:
            opened[kind] = make(kind)
        return opened[kind]

    yield get
    for place in opened.values():
        place.warehouse.close()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, places: Callable[[str], Place]) -> Place:
    """Every implementation of the contract."""
    return places(request.param)


@pytest.fixture(params=SERVER_PLACES)
def server_place(request: pytest.FixtureRequest, places: Callable[[str], Place]) -> Place:
    """Those behind a HiveServer2."""
    return places(request.param)


@pytest.fixture
def warehouse(place: Place) -> Warehouse:
    """The open warehouse of every implementation."""
    return place.warehouse


@pytest.fixture
def embedded(places: Callable[[str], Place]) -> Warehouse:
    """The one in process alone: for what does not depend on the engine."""
    return places("local").warehouse


def cases_by_place(cases: Sequence[T], on_servers: Collection[T]) -> list[ParameterSet]:
    """Return (place, case) for every case in process, and for some on each server, whose statements take seconds."""
    wanted = [(place, case) for place in PLACES for case in cases if place is PLACES[0] or case in on_servers]
    return [
        pytest.param(place.values[0], case, id=f"{place.id}-{case}", marks=place.marks) for place, case in wanted
    ]  # fmt: skip


@pytest.fixture
def staged(server_place: Place, tmp_path: Path) -> Iterator[Warehouse]:
    """A warehouse behind HiveServer2 that may write by way of a folder that the server sees as well."""
    from fedpredict.warehouse.hive import HiveWarehouse

    assert server_place.settings is not None
    warehouse = HiveWarehouse(replace(server_place.settings, staging=str(tmp_path)))
    yield warehouse
    warehouse.close()


class Wire:
    """A TCP connection to a server that can be cut and restored, as when the server goes away and comes back."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: list[socket.socket] = []
        self._listener = self._listen(0)
        self.port = int(self._listener.getsockname()[1])

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), near, far:
            while True:
                for source in select.select([near, far], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    (far if source is near else near).sendall(data)

    def cut(self) -> None:
        """Close the port and every connection through it."""
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._open.clear()

    def restore(self) -> None:
        """Take connections again, at the same port."""
        self._listener = self._listen(self.port)


@pytest.fixture
def wire(server_place: Place) -> Iterator[Wire]:
    """The way to the server under test, to be cut."""
    assert server_place.settings is not None
    wire = Wire(server_place.settings.host, server_place.settings.port)
    yield wire
    wire.cut()
