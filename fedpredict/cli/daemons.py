"""The two daemons as processes: settings read, workers started, what each needs opened and closed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedpredict.cli.config_file import Loaded, Settings
from fedpredict.cli.reload import PolicyReload, heeding, ignore_hangups
from fedpredict.cli.unknown_models import unknown_at_initiator, unknown_at_participant
from fedpredict.cli.unknown_views import warn_of_unknown_freshness
from fedpredict.cli.wiring import (
    LoadedParty,
    load_initiator,
    load_participant,
    open_callers,
    open_distinct_ids,
    open_loaded_realtime,
    open_loaded_store,
    open_loaded_warehouse,
    open_pins,
    opened_audit,
    opened_tasks,
    spare_memory,
    tls_files,
)
from fedpredict.cli.workers import free_port, run_workers
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.observe.counting import Together
from fedpredict.observe.logs import add_log_context
from fedpredict.observe.policy import PolicyMetrics
from fedpredict.observe.queued import install_logging
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.policy import Changes
from fedpredict.security.rates import Rates, shared_rates
from fedpredict.state.event_base import PRUNE_LEASE
from fedpredict.wire.link import Instance

if TYPE_CHECKING:
    from fedpredict.initiator.admission import Access
    from fedpredict.observe.scoring import ScheduleMetrics
    from fedpredict.scoring.realtime_views import HoldPruning, RealtimeViews
    from fedpredict.warehouse.base import Warehouse


def serve_participant(path: Path, ready: Callable[[str], None], ready_http: Callable[[str], None]) -> None:
    """Serve as a participant until SIGTERM or Ctrl-C.

    Args:
        path: Its settings.
        ready: Told the address once it listens and has looked at its warehouse.
        ready_http: Told the address that raw events are taken at, where they are.
    """
    ignore_hangups()
    settings = load_participant(path).settings
    if settings.workers == 1:
        _participant_worker(path, {}, None, Instance(), ready, ready_http=ready_http)
        return
    ports = _fixed_ports(settings, ("listen", "link_listen", "http_listen"))
    all_ready = _all_ready(ports, ready, ready_http)
    _log_to_standard_error(settings)
    with shared_rates() as rates:
        serve = partial(_participant_worker, path, ports, rates)
        run_workers(serve, settings.workers, tuple(ports.values()), all_ready, drain_s=settings.drain_s)


def _participant_worker(
    path: Path,
    ports: Mapping[str, str],
    rates: Path | None,
    me: Instance,
    ready: Callable[[str], None],
    *,
    ready_http: Callable[[str], None] | None = None,
) -> None:
    spare_memory()
    import uvloop  # noqa: PLC0415

    from fedpredict.participant import server  # noqa: PLC0415
    from fedpredict.participant.policy import ParticipantPolicy  # noqa: PLC0415

    loaded = load_participant(path)
    _install_logging(loaded, me)
    settings, tls = loaded.settings.model_copy(update=dict(ports)), tls_files(loaded)
    warehouse = open_loaded_warehouse(loaded)
    try:
        warn_of_unknown_names(loaded, warehouse, me)
        with (
            closing(Rates(rates)) as counts,
            closing(open_distinct_ids(loaded)) as distinct,
            opened_audit(loaded, me.worker) as audit,
            _realtime(loaded, warehouse, me) as realtime,
            scheduled(loaded, warehouse, me) as counted,
        ):
            store, metrics = open_loaded_store(loaded), PolicyMetrics()
            policy = ParticipantPolicy(settings, counts)
            serving = server.serve(
                settings,
                warehouse,
                tls,
                store=store,
                realtime=realtime,
                me=me,
                ready=ready,
                ready_http=ready_http,
                counted=Together(counted, metrics),
                audit=audit,
                distinct=distinct,
                policy=policy,
            )
            read = partial(_settings_of, load_participant, path)
            unknown = partial(unknown_at_participant, warehouse=warehouse)
            reload = partial(PolicyReload, loaded.settings, read, policy.replace, metrics, unknown)
            uvloop.run(heeding(serving, reload))
    finally:
        warehouse.close()


def serve_initiator(
    path: Path, ready: Callable[[str], None], ready_http: Callable[[str], None], *, simulate: bool
) -> None:
    """Serve as an initiator until SIGTERM or Ctrl-C.

    Args:
        path: Its settings.
        ready: Told the address once it listens.
        ready_http: Told the address that HTTP is spoken at, where it is.
        simulate: Answer without partners, marked as such.
    """
    ignore_hangups()
    settings = load_initiator(path).settings
    if settings.workers == 1:
        _initiator_worker(path, {}, None, Instance(), ready, simulate=simulate, ready_http=ready_http)
        return
    ports = _fixed_ports(settings, ("listen", "link_listen", "http_listen", "token_listen"))
    all_ready = _all_ready(ports, ready, ready_http)
    _log_to_standard_error(settings)
    with shared_rates() as rates:
        serve = partial(_initiator_worker, path, ports, rates, simulate=simulate)
        run_workers(serve, settings.workers, tuple(ports.values()), all_ready, drain_s=settings.drain_s)


def _initiator_worker(
    path: Path,
    ports: Mapping[str, str],
    rates: Path | None,
    me: Instance,
    ready: Callable[[str], None],
    *,
    simulate: bool,
    ready_http: Callable[[str], None] | None = None,
) -> None:
    spare_memory()
    import uvloop  # noqa: PLC0415

    from fedpredict.initiator import server  # noqa: PLC0415
    from fedpredict.initiator.admission import Access  # noqa: PLC0415

    loaded = load_initiator(path)
    _install_logging(loaded, me)
    settings, tls = loaded.settings.model_copy(update=dict(ports)), tls_files(loaded)
    with ExitStack() as stack:
        pins = open_pins(loaded)
        stack.callback(pins.close)
        warehouse = open_loaded_warehouse(loaded) if settings.holds_a_part and not simulate else None
        if warehouse is not None:
            stack.callback(warehouse.close)
            warn_of_unknown_names(loaded, warehouse, me)
        features = open_loaded_store(loaded) if warehouse is not None else None
        counts, metrics = stack.enter_context(closing(Rates(rates))), PolicyMetrics()
        access = Access(settings.clients, max_rows=settings.max_samples, rates=counts)
        # what is made up is nobody's data
        audit = None if simulate else stack.enter_context(opened_audit(loaded, me.worker))
        serving = server.serve(
            settings,
            pins,
            tls,
            warehouse=warehouse,
            features=features,
            realtime=stack.enter_context(_realtime(loaded, warehouse, me)),
            tasks=None if simulate else stack.enter_context(opened_tasks(loaded, warehouse)),
            simulate=simulate,
            me=me,
            ready=ready,
            ready_http=ready_http,
            counted=Together(stack.enter_context(scheduled(loaded, warehouse, me)), metrics),
            callers=open_callers(loaded, access, audit),
        )
        read = partial(_settings_of, load_initiator, path)
        replace = partial(_replace_clients, access)
        reload = partial(PolicyReload, loaded.settings, read, replace, metrics, unknown_at_initiator)
        uvloop.run(heeding(serving, reload))


def warn_of_unknown_names(loaded: LoadedParty, warehouse: Warehouse, me: Instance) -> None:
    """Log what the settings name and the warehouse does not have, once for all workers."""
    if me.worker == 0:
        warn_of_unknown_freshness(loaded.settings.freshness, warehouse)


def _settings_of(load: Callable[[Path], Loaded[Settings]], path: Path) -> Settings:
    return load(path).settings


def _replace_clients(access: Access, settings: InitiatorSettings) -> Changes:
    return access.replace(settings.clients)


@contextmanager
def _realtime(loaded: LoadedParty, warehouse: Warehouse | None, me: Instance) -> Iterator[RealtimeViews | None]:
    """Open what computes views, where there is a warehouse, and close it at the end of the block.

    Of several workers the first removes old events, and of several machines whoever holds the lease at that moment.
    """
    realtime = None if warehouse is None else open_loaded_realtime(loaded, warehouse, _pruning_alone(loaded, me))
    try:
        yield realtime
    finally:
        if realtime is not None:
            realtime.close()


def _pruning_alone(loaded: LoadedParty, me: Instance) -> HoldPruning | None:
    if me.worker or not loaded.settings.realtime:
        return None
    # what computes views is large, and not every party does
    from fedpredict.cli.leases import held_now  # noqa: PLC0415

    return partial(held_now, loaded, PRUNE_LEASE)


def _all_ready(
    ports: Mapping[str, str], ready: Callable[[str], None], ready_http: Callable[[str], None]
) -> Callable[[str], None]:
    """Return what tells both addresses once all workers listen."""

    def tell(address: str) -> None:
        ready(address)
        if "http_listen" in ports:
            ready_http(ports["http_listen"])

    return tell


@contextmanager
def scheduled(loaded: LoadedParty, warehouse: Warehouse | None, me: Instance) -> Iterator[ScheduleMetrics | None]:
    """Keep a daemon's schedule while the block runs, in one of its workers; yields what counts it, if anything does.

    Raises:
        ConfigError: Something in `[schedule]` cannot be.
    """
    schedule = loaded.settings.schedule
    if not schedule.jobs or warehouse is None or me.worker != 0:
        yield None
        return
    from fedpredict.cli.scheduled import schedule_running  # noqa: PLC0415
    from fedpredict.observe.scoring import ScheduleMetrics  # noqa: PLC0415

    metrics = ScheduleMetrics()
    with schedule_running(loaded.path, schedule, warehouse, metrics):
        yield metrics


def _fixed_ports(settings: ParticipantSettings | InitiatorSettings, keys: Sequence[str]) -> dict[str, str]:
    """Return the addresses that all workers bind, by setting; port 0 means one free port for all of them."""
    return {key: free_port(address) for key in keys if (address := getattr(settings, key, None)) is not None}


def _log_to_standard_error(settings: ParticipantSettings | InitiatorSettings) -> None:
    """Begin the log of a worker, or of the process that starts workers again."""
    install_logging(settings.log.level, json=not sys.stderr.isatty())


def _install_logging(loaded: LoadedParty, me: Instance) -> None:
    _log_to_standard_error(loaded.settings)
    if me.shares_ports:
        add_log_context(worker=me.worker)
