"""Predictions begun without a task of their own: for edges that answer thousands of requests a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from fedpredict.model.prediction import Prediction

Done: TypeAlias = Callable[[Prediction | BaseException], None]
"""Called once with the answer, or with the error that there is instead."""
GiveUp: TypeAlias = Callable[[], None]
"""Ends what was begun; its `Done` is not called any more. Harmless when it was called already."""


def submit_coroutine(work: Coroutine[Any, Any, Prediction], done: Done) -> GiveUp:
    """Run `work` as a task and tell `done` how it ended; return what cancels it."""
    task = asyncio.ensure_future(work)

    def tell(ended: asyncio.Task[Prediction]) -> None:
        if not ended.cancelled():
            done(ended.exception() or ended.result())

    task.add_done_callback(tell)

    def give_up() -> None:
        task.cancel()

    return give_up
