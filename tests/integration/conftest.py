"""What most tests of real servers begin with; a module that needs another one of a name has its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fedpredict.security import live
from tests.integration.daemons import World
from tests.integration.federation import Certificates, Federation


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of one authority, each issued when it is asked for."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def federation(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Federation]:
    """An initiator, and parties that do as they are told."""
    async with Federation(tmp_path, certificates) as federation:
        yield federation


@pytest.fixture
async def world(tmp_path: Path, certificates: Certificates) -> AsyncIterator[World]:
    """Daemons with tables of their own."""
    world = World(tmp_path, certificates)
    async with world.stack:
        yield world


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons look for changed certificates and lists without much of a wait."""
    monkeypatch.setattr(live, "LOOK_S", 0.05)
