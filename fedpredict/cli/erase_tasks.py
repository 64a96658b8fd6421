"""`fedpredict erase` of offline tasks: what an initiator keeps of its own, and what one named to a participant."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from functools import partial

from fedpredict.cli import wiring
from fedpredict.cli.config_file import Loaded
from fedpredict.initiator.offline.erasing import erase_from_tasks
from fedpredict.initiator.settings import InitiatorSettings
from fedpredict.participant.erasing import erase_from_named
from fedpredict.scoring.erase import told
from fedpredict.scoring.erased import Erased
from fedpredict.state.leases import Alone
from fedpredict.tables.erasure import work_table
from fedpredict.tables.results import RESULTS, UNRANKED
from fedpredict.tables.task_shares import TASK_SHARES
from fedpredict.warehouse.base import Warehouse

_NOT_OURS = "of an initiator's tasks: run this with the settings of that initiator, too"


def erase_of_tasks(
    loaded: wiring.LoadedParty, alone: Alone, warehouse: Warehouse, sample_id: str, *, keep: bool
) -> list[Erased]:
    """Remove a person from populations and results, as far as no task needs them, and say what was where."""
    now, settings = datetime.now(UTC), loaded.settings
    if not isinstance(settings, InitiatorSettings):
        named = erase_from_named(alone, warehouse, sample_id, now=now, keep=keep)
        return named + told(warehouse, sample_id, (RESULTS, work_table(RESULTS), UNRANKED, TASK_SHARES), _NOT_OURS)
    open_store = partial(wiring.open_tasks, Loaded(loaded.path, settings))
    owner, by = settings.party, getpass.getuser()
    found = erase_from_tasks(alone, open_store, warehouse, owner, sample_id, by=by, now=now, keep=keep)
    return found + erase_from_named(alone, warehouse, sample_id, now=now, keep=keep, own=owner)


def task_tables(loaded: wiring.LoadedParty) -> list[tuple[str, str]]:
    """Return the tables whose ids an initiator's tasks may be about, each with the column that holds them."""
    settings = loaded.settings
    if not isinstance(settings, InitiatorSettings):
        return []
    return [(each.table, each.column) for _, each in sorted(settings.tasks.tables.items())]
