"""What `doctor` looks at of the limits of distinct sample ids: whether ids can be counted, and how many were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from fedpredict.cli import wiring
from fedpredict.cli.checks_audit import try_write
from fedpredict.cli.checks_local import Checked
from fedpredict.cli.config_file import Loaded
from fedpredict.errors import DistinctIdsUnavailableError
from fedpredict.participant.policy import CallerPolicy
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.check import Finding, Level
from fedpredict.state.distinct_digests import CallerDay

_TOPIC = "distinct ids"
_FIX = "name a folder that the daemon can write: [distinct_ids] path; until then callers with a limit are refused"


def check_distinct(loaded: Loaded[ParticipantSettings]) -> Iterator[Checked]:
    """Yield whether the ids of callers with a limit can be counted, and how much of it each has used today.

    Nothing is made or counted: a folder that the doctor makes may belong to another user than the daemon.
    """
    limits = CallerPolicy(loaded.settings.callers).distinct_ids
    if not limits:
        return
    folder = wiring.distinct_ids_folder(loaded)
    try:
        try_write(folder)
    except OSError as error:
        yield _TOPIC, Finding(Level.PROBLEM, f"{folder} cannot be written: {error.strerror or error}", _FIX)
        return
    with closing(wiring.open_distinct_ids(loaded)) as counts:
        today = counts.today()
        for caller, limit in limits.items():
            try:
                used = counts.used(CallerDay(caller, today))
            except DistinctIdsUnavailableError as error:
                yield _TOPIC, Finding(Level.PROBLEM, str(error), "see docs/distinct-ids.md")
                continue
            level = Level.OK if used < limit else Level.WARNING
            fix = "" if used < limit else "nothing, or a higher distinct_ids_per_day; the count begins anew at 0:00 UTC"
            yield _TOPIC, Finding(level, f"{caller} asked about {used} of {limit} sample ids on {today} (UTC)", fix)
