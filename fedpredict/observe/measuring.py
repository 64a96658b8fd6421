"""The metrics of a daemon's process, from its start to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

from fedpredict.observe.counting import Source
from fedpredict.observe.settings import MetricsSettings


@asynccontextmanager
async def measuring(
    settings: MetricsSettings,
    role: Literal["initiator", "participant"],
    party: str,
    *,
    worker: int,
    sources: Sequence[Source],
    healthy: Callable[[], bool],
) -> AsyncIterator[str]:
    """Show metrics inside an `async with` block; nothing is opened or measured where the settings name no address.

    Args:
        settings: The `[metrics]` table.
        role: Which daemon this is.
        party: Whose.
        worker: Its number among the workers, from 0.
        sources: What it counts, beside what every process does.
        healthy: Whether this process is ready.

    Yields:
        host:port of the metrics; empty where there are none.

    Raises:
        ConfigError: The port is taken, or the address is not of this machine.
    """
    if settings.listen is None:
        yield ""
        return
    # Prometheus' client takes a tenth of a second to import
    from fedpredict.observe.page import Page  # noqa: PLC0415
    from fedpredict.observe.port import MetricsPort  # noqa: PLC0415
    from fedpredict.observe.process import ProcessMetrics  # noqa: PLC0415

    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(ProcessMetrics(role, party, worker))
        page = Page((*sources, process))
        port = await stack.enter_async_context(MetricsPort(settings.listen, worker, page, healthy))
        yield port.address
