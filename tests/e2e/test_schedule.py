"""Two daemons with one schedule, as processes: every due instant is done once, by children that leave nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from fedpredict.features.registration import register_view
from fedpredict.tables.schedule_runs import list_runs
from fedpredict.tables.views import list_snapshots
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import example, random_events, random_merchants, store

if TYPE_CHECKING:
    from tests.e2e.conftest import Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SETTINGS = """
party = "lab"
listen = "127.0.0.1:0"
insecure = true
[warehouse]
path = "warehouse"
[schedule]
timezone = "Europe/Berlin"
transactions = "* * * * *"
"""


def test_two_daemons_do_no_work_twice(workshop: Workshop) -> None:
    (workshop.folder / "participant.toml").write_text(SETTINGS)
    warehouse = LocalWarehouse(workshop.folder / "warehouse")
    store(warehouse, random_events(5, 20, 300), random_merchants(40))
    register_view(warehouse, *example("transactions"))

    daemons = [workshop.start(name, "participant", "serve") for name in ("one", "two")]
    for daemon in daemons:
        daemon.until(lambda: list_runs(warehouse), "records its first run")
    codes = [daemon.stop() for daemon in daemons]

    found = [each.snapshot for each in list_snapshots(warehouse)]
    run = list_runs(warehouse)["refresh.transactions"]
    events = [json.loads(line) for each in daemons for line in each.log.read_text().splitlines() if line[:1] == "{"]
    assert codes == [0, 0]
    assert found
    # a second one for the same minute would be named by its first microsecond
    assert {each[13:] for each in found} == {"00.000000Z"}
    assert (run.outcome, run.problem, run.done_due) == ("done", "", run.due)
    assert len([each for each in events if each["event"] == "schedule.planned"]) == 2
    assert len([each for each in events if each["event"] == "features.refreshed"]) == len(found)
    assert [each for each in events if each["event"] == "schedule.failed"] == []
    assert list((workshop.folder / "warehouse" / ".leases").glob("*.json")) == []
