"""Settings -> objects: the only module that reads the environment and picks implementations.

What is slow to import (servers, databases, engines) is imported by the function that builds it, so that `predict` and
`certs` do not wait for it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from typing_extensions import override

from fedpredict.cli.client_settings import ClientFileSettings
from fedpredict.cli.config_file import Loaded, load_settings, read_toml
from fedpredict.errors import CertificateError, ConfigError
from fedpredict.features.settings import FeatureSettings
from fedpredict.initiator.settings import ClientsFile, InitiatorSettings
from fedpredict.observe.heap import share_heap
from fedpredict.participant.settings import CallersFile, ParticipantSettings
from fedpredict.scoring.realtime_settings import WAREHOUSE
from fedpredict.scoring.settings import TaskSettings
from fedpredict.security.passwords import read_password
from fedpredict.security.tls import TlsFiles
from fedpredict.state.base import PinStore
from fedpredict.warehouse.settings import WarehouseSettings

if TYPE_CHECKING:
    from fedpredict.features.base import OnlineStore
    from fedpredict.features.raw import RawSource
    from fedpredict.initiator.admission import Access
    from fedpredict.initiator.callers import Callers
    from fedpredict.initiator.offline.open import TaskParts
    from fedpredict.scoring.realtime_settings import RealtimeViewSettings
    from fedpredict.scoring.realtime_views import HoldPruning, RealtimeViews
    from fedpredict.security.audit_log import AuditLog
    from fedpredict.state.distinct_ids import DistinctIds
    from fedpredict.state.event_base import EventStore
    from fedpredict.state.task_base import TaskStore
    from fedpredict.tables.script_store import RegisteredView
    from fedpredict.warehouse.base import Warehouse

logger = logging.getLogger(__name__)

PARTICIPANT, INITIATOR, CLIENT = "FEDPREDICT_PARTICIPANT_", "FEDPREDICT_INITIATOR_", "FEDPREDICT_CLIENT_"
PASSWORD = "FEDPREDICT_HIVE_PASSWORD"  # noqa: S105  the name of a variable
STATE_PASSWORD = "FEDPREDICT_STATE_PASSWORD"  # noqa: S105
EVENTS_PASSWORD = "FEDPREDICT_EVENTS_PASSWORD"  # noqa: S105
TOKEN = "FEDPREDICT_TOKEN"  # noqa: S105
REDIS_PASSWORD = "FEDPREDICT_REDIS_PASSWORD"  # noqa: S105
DEFAULT_FILES = (Path("participant.toml"), Path("initiator.toml"))

Rules = TypeVar("Rules", CallersFile, ClientsFile)
LoadedParty: TypeAlias = Loaded[ParticipantSettings] | Loaded[InitiatorSettings]

_LEFT_OUT = frozenset({"pandas", "pyarrow._azurefs", "pyarrow._gcsfs", "pyarrow._s3fs"})
_INITIATORS_KEYS = frozenset(InitiatorSettings.model_fields) - frozenset(ParticipantSettings.model_fields)


def environment() -> Mapping[str, str]:
    """Return the environment of this process."""
    return os.environ  # noqa: TID251  here and nowhere else


def load_participant(path: Path) -> Loaded[ParticipantSettings]:
    """Return a participant's settings; raise `ConfigError` where something in them is wrong."""
    loaded = load_settings(path, ParticipantSettings, prefix=PARTICIPANT, environment=environment())
    if loaded.settings.policy is None:
        return loaded
    rules = load_rules(loaded.base / loaded.settings.policy, CallersFile)
    return replace(loaded, settings=loaded.settings.model_copy(update={"callers": rules.callers}))


def load_initiator(path: Path) -> Loaded[InitiatorSettings]:
    """Return an initiator's settings; raise `ConfigError` where something in them is wrong."""
    loaded = load_settings(path, InitiatorSettings, prefix=INITIATOR, environment=environment())
    if loaded.settings.policy is None:
        return loaded
    rules = load_rules(loaded.base / loaded.settings.policy, ClientsFile)
    return replace(loaded, settings=loaded.settings.model_copy(update={"clients": rules.clients}))


def load_rules(path: Path, rules_type: type[Rules]) -> Rules:
    """Return what a file of rules holds; raise `ConfigError` where something in it is wrong."""
    return load_settings(path, rules_type, prefix="", environment={}).settings


def load_client(path: Path | None) -> Loaded[ClientFileSettings]:
    """Return what a client's file says; without a file, the defaults and the environment alone."""
    return load_settings(path, ClientFileSettings, prefix=CLIENT, environment=environment())


def load_party(path: Path | None) -> LoadedParty:
    """Return the settings of a participant or an initiator, whichever the file is.

    Args:
        path: The file; None: `participant.toml`, else `initiator.toml`, in the current folder.

    Raises:
        ConfigError: No such file, or something in it is wrong.
    """
    if path is None:
        path = next((each for each in DEFAULT_FILES if each.exists()), None)
    if path is None:
        names = " or ".join(map(str, DEFAULT_FILES))
        raise ConfigError(f"no {names} in this folder; name one with --config, or make one with `fedpredict init`")
    content = read_toml(path)
    is_initiator = "callers" not in content and (path.stem == "initiator" or bool(_INITIATORS_KEYS & content.keys()))
    return load_initiator(path) if is_initiator else load_participant(path)


@dataclass(frozen=True, slots=True)
class PartyWarehouse:
    """A party and its open warehouse, and how its shares and snapshots are kept there."""

    party: str
    warehouse: Warehouse
    tasks: TaskSettings = field(default_factory=TaskSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    n_served: int = 1
    """Versions of a model that its daemons serve: `keep_versions`."""
    outside: frozenset[str] = frozenset()
    """Views whose events mode realtime finds somewhere else than in the warehouse."""


@contextmanager
def opened_warehouse(path: Path | None) -> Iterator[PartyWarehouse]:
    """Open the warehouse that a settings file names, and close it at the end of the block.

    Raises:
        ConfigError: The file is wrong, or names no warehouse.
    """
    loaded = load_party(path)
    warehouse = open_loaded_warehouse(loaded)
    try:
        settings = loaded.settings
        outside = frozenset(name for name, each in settings.realtime.items() if each.source != WAREHOUSE)
        served = settings.keep_versions
        yield PartyWarehouse(settings.party, warehouse, settings.tasks, settings.features, served, outside)
    finally:
        warehouse.close()


def open_loaded_warehouse(loaded: LoadedParty) -> Warehouse:
    """Return the warehouse of some settings; the caller closes it."""
    from fedpredict.warehouse.open import open_warehouse  # noqa: PLC0415

    return open_warehouse(warehouse_settings(loaded), loaded.base, password())


def open_loaded_store(loaded: LoadedParty) -> OnlineStore:
    """Return the store that serves a party's features."""
    from fedpredict.features.open import open_store  # noqa: PLC0415

    return open_store(loaded.settings.store, loaded.base, loaded.settings.party, environment().get(REDIS_PASSWORD))


def open_loaded_realtime(loaded: LoadedParty, warehouse: Warehouse, alone: HoldPruning | None) -> RealtimeViews | None:
    """Return what computes a party's views in mode realtime, or None where its settings name no view for it."""
    settings = loaded.settings
    if not settings.realtime:
        return None
    from fedpredict.scoring.open_realtime import open_realtime  # noqa: PLC0415

    known = environment().get(EVENTS_PASSWORD)
    return open_realtime(warehouse, settings.realtime, settings.events, loaded.base, known, alone=alone)


@contextmanager
def opened_source(
    loaded: LoadedParty, warehouse: Warehouse, registered: RegisteredView, own: RealtimeViewSettings
) -> Iterator[RawSource]:
    """Open the source of a view's raw rows, which is not the event store, and close it at the end of the block."""
    from fedpredict.scoring.open_realtime import open_source_of  # noqa: PLC0415
    from fedpredict.warehouse.local_engine import MemoryEngine  # noqa: PLC0415

    with closing(MemoryEngine()) as engine:
        source = open_source_of(registered, own, warehouse, loaded.base, engine)
        with closing(source):
            yield source


def audit_folder(loaded: LoadedParty) -> Path:
    """Return the folder of a party's audit log."""
    return loaded.base / loaded.settings.audit.path / loaded.settings.party


@contextmanager
def opened_audit(loaded: LoadedParty, worker: int) -> Iterator[AuditLog | None]:
    """Open the audit log of a worker, and close it at the end of the block; None where the settings want none."""
    from fedpredict.security.audit_keys import open_keys  # noqa: PLC0415
    from fedpredict.security.audit_log import AuditLog  # noqa: PLC0415

    settings, folder = loaded.settings.audit, audit_folder(loaded)
    if not settings.enabled:
        logger.warning("audit.off", extra={"meaning": "nobody can say later who asked for what; see [audit] enabled"})
        yield None
        return
    anchor = None if settings.anchor is None else loaded.base / settings.anchor
    settings = settings.model_copy(update={"anchor": anchor})
    with AuditLog(settings, folder, loaded.settings.party, worker, open_keys(folder)) as log:
        yield log


def tokens_file(loaded: Loaded[InitiatorSettings]) -> Path | None:
    """Return the file of the users' tokens; None where none are taken."""
    return None if loaded.settings.tokens is None else loaded.base / loaded.settings.tokens


def open_callers(loaded: Loaded[InitiatorSettings], access: Access, log: AuditLog | None) -> Callers:
    """Return what tells an initiator who calls and what they may ask for, and writes the calls to `log`."""
    from fedpredict.initiator.callers import Callers  # noqa: PLC0415
    from fedpredict.security.tokens import Tokens  # noqa: PLC0415

    file = tokens_file(loaded)
    return Callers(access, tokens=None if file is None else Tokens(file), log=log)


def distinct_ids_folder(loaded: Loaded[ParticipantSettings]) -> Path:
    """Return the folder where the sample ids of a participant's callers are counted."""
    return loaded.base / loaded.settings.distinct_ids.path / loaded.settings.party


def open_distinct_ids(loaded: Loaded[ParticipantSettings]) -> DistinctIds:
    """Return where the sample ids of a participant's callers are counted; nothing is made, and the caller closes it."""
    from fedpredict.state.distinct_ids import DistinctIds  # noqa: PLC0415

    return DistinctIds(distinct_ids_folder(loaded))


def open_loaded_events(loaded: LoadedParty) -> EventStore:
    """Return a party's raw events; the caller closes it."""
    from fedpredict.scoring.open_realtime import open_events  # noqa: PLC0415

    return open_events(loaded.settings.events, loaded.base, environment().get(EVENTS_PASSWORD))


def open_existing_events(loaded: LoadedParty) -> EventStore | None:
    """Return a party's raw events where it has any; the caller closes it."""
    file = loaded.settings.events.url.removeprefix("sqlite:///")
    is_missing = file != loaded.settings.events.url and not (loaded.base / file).exists()
    return None if is_missing else open_loaded_events(loaded)


def create_database(path: Path | None) -> str:
    """Create the database of the Hive warehouse that a settings file names, unless it exists; return its name."""
    from fedpredict.warehouse.open import create_database as create  # noqa: PLC0415

    loaded = load_party(path)
    settings = warehouse_settings(loaded)
    create(settings, loaded.base, password())
    return settings.database


def warehouse_settings(loaded: LoadedParty) -> WarehouseSettings:
    """Return the `[warehouse]` table, which an initiator may lack; raise `ConfigError` where it does."""
    settings = loaded.settings.warehouse
    if settings is None:
        raise ConfigError(f"{loaded.path} has no [warehouse]; add one, or name the settings of a party that has")
    return settings


def password() -> str | None:
    """Return the password of the warehouse that the environment holds, if it does."""
    return environment().get(PASSWORD)


def open_pins(loaded: Loaded[InitiatorSettings]) -> PinStore:
    """Return the store of an initiator's pins; the caller closes it."""
    from fedpredict.state.sql import open_pin_store  # noqa: PLC0415

    return open_pin_store(loaded.settings.state, loaded.base, state_password(loaded.settings, loaded.base))


def open_tasks(loaded: Loaded[InitiatorSettings]) -> TaskStore:
    """Return the store of an initiator's offline tasks; the caller closes it."""
    from fedpredict.state.tasks import open_task_store  # noqa: PLC0415

    return open_task_store(loaded.settings.state, loaded.base, state_password(loaded.settings, loaded.base))


def state_password(settings: InitiatorSettings, base: Path) -> str | None:
    """Return the password of an initiator's `state`, where there is one."""
    known, file = environment().get(STATE_PASSWORD), settings.state_password_file
    if known is None and file is not None:
        known = read_password(base / file, "state_password_file")
    return known


@contextmanager
def opened_tasks(loaded: Loaded[InitiatorSettings], warehouse: Warehouse | None) -> Iterator[TaskParts]:
    """Open what an initiator's offline tasks are kept in, and close it at the end of the block.

    Args:
        loaded: Its settings.
        warehouse: Its warehouse, where that is open already; the caller closes it.
    """
    from fedpredict.initiator.offline.open import TaskParts  # noqa: PLC0415

    with ExitStack() as stack:
        store = open_tasks(loaded)
        stack.callback(store.close)
        if warehouse is None:
            warehouse = open_task_warehouse(loaded)
            stack.callback(warehouse.close)
        statements = None
        if loaded.settings.task_warehouse.kind != "local":  # nothing is connected before the first statement
            statements = open_task_warehouse(loaded)
            stack.callback(statements.close)
        yield TaskParts(store, warehouse, statements=statements)


def open_task_warehouse(loaded: Loaded[InitiatorSettings]) -> Warehouse:
    """Return where the ids and results of an initiator's offline tasks are; the caller closes it."""
    from fedpredict.warehouse.open import open_warehouse  # noqa: PLC0415

    settings = loaded.settings.task_warehouse
    if loaded.settings.warehouse is None and settings.path is not None:
        with suppress(OSError):  # who has a warehouse mounts it; this folder is ours to make
            (loaded.base / settings.path).mkdir(exist_ok=True)
    return open_warehouse(settings, loaded.base, password())


def tls_files(loaded: LoadedParty | Loaded[ClientFileSettings]) -> TlsFiles | None:
    """Return the TLS files that some settings name, None where they say `insecure = true`.

    Raises:
        CertificateError: A file is not there; it says how to make one.
    """
    tls = loaded.settings.tls
    if tls is None or loaded.settings.insecure:
        return None
    files = tls.files(loaded.base)
    check_existing(files)
    return files


def check_existing(files: TlsFiles) -> None:
    """Raise `CertificateError`, with what makes them, unless all files are there."""
    missing = [path for path in (files.ca, files.certificate, files.key) if not path.exists()]
    if missing:
        raise CertificateError(
            f"no such file: {', '.join(map(str, missing))}; make a request with `fedpredict certs request` and have "
            "the federation's CA sign it, or, for trials, `fedpredict certs ca` and `fedpredict certs issue`"
        )


class _LeavingOut(MetaPathFinder):
    """Says that there is no such module."""

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return nothing, so that the next finder is asked, for all else."""
        if fullname in _LEFT_OUT:
            raise ModuleNotFoundError(f"the daemons do not use {fullname}", name=fullname)
        return None


def spare_memory() -> None:
    """Keep small what a daemon needs beside its work; to be called before it imports Arrow or starts a thread.

    Arrow would import for itself pandas, where it is installed, at 45 MB a process, and its drivers of cloud storage;
    and its own allocator keeps 10 MB of what reading a snapshot took.
    """
    sys.meta_path.insert(0, _LeavingOut())
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # noqa: TID251  here and nowhere else
    share_heap()
