"""Every parser of what comes from outside, by name; a target's module is imported when it is made."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from tests.fuzz.engine import Target


def _made(module: str, name: str) -> Callable[[], Target]:
    def make() -> Target:
        target: Target = getattr(importlib.import_module(f"tests.fuzz.{module}"), name)()
        return target

    return make


TARGETS: dict[str, Callable[[], Target]] = {
    name: _made(module, name)
    for module, names in {
        "files": ("pickles", "boosters"),
        "texts": ("settings", "trust", "views", "audit_logs", "http_bodies"),
        "messages": ("rpcs", "frames", "answers"),
        "links": ("replies",),
    }.items()
    for name in names
}
