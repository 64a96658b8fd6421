"""What `doctor` looks at in this process's own house: certificates, warehouse, models, features, clock, port."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeAlias

from fedpredict.cli import wiring
from fedpredict.cli.unknown_views import unknown_freshness
from fedpredict.errors import ConfigError, FedPredictError, WarehouseUnavailableError
from fedpredict.features.base import CheckedStore
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.certificate import stamp
from fedpredict.security.check import Finding, Level, check_files, explain_handshake
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import TlsFiles, server_name
from fedpredict.tables.models import ModelVersion, list_versions, load_model
from fedpredict.tables.views import Snapshot, latest_snapshot, list_snapshots, read_snapshot_rows, snapshot_name
from fedpredict.warehouse.base import Warehouse

Checked: TypeAlias = tuple[str, Finding]
"""A topic, and what was found."""

TIMEOUT_S = 5.0


def check_tls(loaded: wiring.LoadedParty, now: datetime) -> Iterator[Checked]:
    """Yield what there is to say about this party's certificate, key and CA."""
    settings = loaded.settings
    if settings.tls is None or settings.insecure:
        what = f"insecure = true: plain text on {settings.listen}, and nobody's identity is proved"
        yield "certificates", Finding(Level.WARNING, what, "for more than a trial: make certificates, and take it out")
        return
    identity = Identity(IdentityKind.PARTY, settings.party)
    yield from (("certificates", each) for each in check_files(settings.tls.files(loaded.base), identity, now))


def check_warehouse(loaded: wiring.LoadedParty, models: list[str]) -> Iterator[Checked]:
    """Yield what there is to say about the warehouse, every model in it, and the features that each one needs.

    Args:
        loaded: The settings.
        models: Gets the ids of the models that are there.
    """
    if loaded.settings.warehouse is None:
        yield "warehouse", Finding(Level.OK, "none: this initiator holds no part of a model")
        return
    try:
        warehouse = wiring.open_loaded_warehouse(loaded)
        try:
            yield from _check_tables(warehouse, loaded, models)
        finally:
            warehouse.close()
    except WarehouseUnavailableError as error:
        yield _problem("warehouse", error, "start it, or correct [warehouse]; daemons serve on what they loaded")
    except ConfigError as error:
        yield _problem("warehouse", error, "correct [warehouse]")
    except FedPredictError as error:
        yield _problem("warehouse", error, "see the warehouse's own log, and the rights of this user")


def check_store(loaded: wiring.LoadedParty) -> Iterator[Checked]:
    """Yield whether the server that features are served from is there, where they are at one."""
    if loaded.settings.warehouse is None:
        return
    try:
        store = wiring.open_loaded_store(loaded)
        if isinstance(store, CheckedStore):
            yield "store", Finding(Level.OK, store.check())
    except FedPredictError as error:
        yield _problem("store", error, "start it, or correct [store]; until then nothing is scored")


def check_clock(now: datetime) -> Iterator[Checked]:
    """Yield what this machine's clock says.

    Nothing in the protocol carries a peer's time, so clocks are compared by people; a clock that is far off shows as
    certificates or features from the future, which the other checks tell.
    """
    yield "clock", Finding(Level.OK, f"this machine says {stamp(now)}; no peer's clock can be asked, compare by hand")


def check_listen(loaded: wiring.LoadedParty) -> Iterator[Checked]:
    """Yield whether the port is free, or taken by this party's own server."""
    listen = loaded.settings.listen
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if port == "0":
        yield "port", Finding(Level.OK, f"{listen}: any free port is taken at the start")
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        yield "port", _taken(loaded, host, port, error)
        return
    yield "port", Finding(Level.OK, f"{listen} is free")


def _check_tables(warehouse: Warehouse, loaded: wiring.LoadedParty, models: list[str]) -> Iterator[Checked]:
    snapshots, versions = list_snapshots(warehouse), list_versions(warehouse)
    current = {each.model_id: each for each in versions}
    models += current
    yield "warehouse", Finding(Level.OK, f"readable: {len(current)} models, {len(snapshots)} snapshots of features")
    newest = {(each.view.name, each.view.version): each for each in snapshots}
    for snapshot in newest.values():
        yield "features", _check_snapshot(warehouse, snapshot)
    if not snapshots:
        yield "features", Finding(Level.WARNING, "no features are loaded", "fedpredict features load FILE ...")
    if not current:
        yield "models", Finding(Level.WARNING, "no model is converted", "fedpredict model convert FILE ...")
    for version in current.values():
        yield "models", _check_model(warehouse, version, loaded.settings)
    for unknown in unknown_freshness(loaded.settings.freshness, warehouse):
        yield "freshness", Finding(Level.WARNING, unknown, "no limit of age holds by it: correct it, or take it out")


def _check_snapshot(warehouse: Warehouse, snapshot: Snapshot) -> Finding:
    name = f"view {snapshot.view.name} {snapshot.view.version}, snapshot {snapshot.snapshot}"
    try:
        rows = read_snapshot_rows(warehouse, snapshot, ["sample_id"])
    except FedPredictError as error:
        return Finding(Level.PROBLEM, str(error), "fedpredict features load FILE ... (a new snapshot)")
    if snapshot.snapshot > snapshot_name(datetime.now(UTC)):
        return Finding(Level.WARNING, f"{name} is from the future", "set this machine's clock (NTP)")
    return Finding(Level.OK, f"{name}: {rows.num_rows} rows")


def _check_model(
    warehouse: Warehouse, version: ModelVersion, settings: ParticipantSettings | InitiatorSettings
) -> Finding:
    name, party = f"model {version.model_id} version {version.version}", settings.party
    if version.party != party:
        what = f"{name} is the part of {version.party}, and this party is {party}"
        return Finding(Level.PROBLEM, what, f"fedpredict model delete {version.model_id}, and convert {party}'s part")
    try:
        load_model(warehouse, version)
        snapshot = latest_snapshot(warehouse, version.view, version.view_version)
    except FedPredictError as error:
        fix = f"convert the model again, or fedpredict model rollback {version.model_id}"
        return Finding(Level.PROBLEM, str(error), fix)
    if snapshot is None and version.view in settings.realtime:
        what = f"{name}: mode realtime alone, for view {version.view} version {version.view_version} has no snapshot"
        return Finding(Level.OK, what, f"for the other modes: fedpredict features refresh {version.view}")
    if snapshot is None:
        what = f"{name}: view {version.view} version {version.view_version} has no snapshot, so it cannot be scored"
        return Finding(Level.PROBLEM, what, f"fedpredict features load FILE --view {version.view} ...")
    return Finding(Level.OK, f"{name}: its parameters give the digest {version.params_sha256[:12]}")


def _taken(loaded: wiring.LoadedParty, host: str, port: str, error: OSError) -> Finding:
    listen, party, tls = loaded.settings.listen, loaded.settings.party, loaded.settings.tls
    fix = "stop what listens there, or choose another port; an address must be of this machine"
    if tls is None or loaded.settings.insecure:
        return Finding(Level.WARNING, f"{listen} cannot be bound ({error.strerror}); this party's own server?", fix)
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104  where a server listens is dialled
    files: TlsFiles = tls.files(loaded.base)
    if explain_handshake(f"{local}:{port}", files, server_name(party), TIMEOUT_S).level is Level.PROBLEM:
        return Finding(Level.PROBLEM, f"{listen} cannot be bound: {error.strerror}", fix)
    return Finding(Level.OK, f"{listen}: this party's own server is running")


def _problem(topic: str, error: Exception, fix: str) -> Checked:
    return topic, Finding(Level.PROBLEM, str(error), fix)
