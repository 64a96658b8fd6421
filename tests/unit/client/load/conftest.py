"""A server of the test's own, and load on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.stub_http import StubServer, serving

Serve = Callable[[StubServer], StubServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers; all are stopped at the end of the test."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(serving(server))
