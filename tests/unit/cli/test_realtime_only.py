"""A view whose events are only in the event store, and a model over a version without a snapshot."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedpredict.cli import wiring
from fedpredict.cli.main import run
from fedpredict.errors import ModelNotReadyError
from fedpredict.features.memory import MemoryStore
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.warehouse.local import LocalWarehouse
from tests.raw_transactions import EXAMPLES, random_events, random_merchants, store
from tests.unit.cli.test_commands import Shell, write_model

REGISTER = ("view", "register", "views/transactions.toml", "--without-dry-run", "spark,hive")
CONVERT = ("model", "convert", "lab.json", "--view", "transactions")


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A party with the example view's files, its dimension, no table of its events, and a model of two features."""
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path, capsys)
    shell.run("init", "participant", "lab", "--no-certs")
    shutil.copytree(EXAMPLES, tmp_path / "views", ignore=shutil.ignore_patterns("*.py"))
    with closing(LocalWarehouse(tmp_path / "lab" / "warehouse")) as warehouse:
        store(warehouse, [], random_merchants(4))
    shutil.rmtree(tmp_path / "lab" / "warehouse" / "raw_transactions")
    write_model(tmp_path / "lab.json", "lab", {"n_30d": 1.0, "spent_30d": 0.5})
    return shell


def score(shell: Shell, mode: Mode) -> list[float]:
    """Return the shares of alice, as a daemon of this party computes them."""
    loaded = wiring.load_party(Path(shell.config))
    with wiring.opened_warehouse(Path(shell.config)) as ours:
        online = MemoryStore()
        realtime = wiring.open_loaded_realtime(loaded, ours.warehouse, None)
        assert realtime is not None
        with closing(realtime):
            state = ModelLoader(ours.warehouse, ours.party, online, computed=realtime.names).refresh()
            assert state.problems == {}
            realtime.refresh(state.views)
            party = LocalParty(ours.party, lambda: state, online, realtime=realtime)
            description = state.current["credit"].description
            query = ScoreQuery(
                request_id="r",
                model_id="credit",
                manifest_sha256="cd" * 32,
                params_sha256=description.params_sha256,
                mode=mode,
                sample_ids=SampleIds.of([b"alice"]),
            )
            reply = asyncio.run(party.score(query, deadline_s=30))
            return [float(each) for each in reply.share.values.ravel()]


def test_a_model_for_real_time_alone_needs_no_table_and_no_snapshot(shell: Shell) -> None:
    refused = shell.fails(4, *REGISTER, "--config", shell.config)
    assert "the raw table raw_transactions of [sources.tx] cannot be read" in refused
    settings = Path(shell.config)
    settings.write_text(settings.read_text() + '\n[realtime]\ntransactions = "events"\n')

    shell.run(*REGISTER, "--config", shell.config)
    converted = shell.json(*CONVERT, "--config", shell.config)
    at = datetime.now(UTC) - timedelta(minutes=5)
    event = {"id": "1", "at": at.isoformat(), "account": "alice", "merchant": "m1", "amount": "3.00", "channel": "web"}
    Path("today.jsonl").write_text(json.dumps(event))
    shell.run("events", "load", "today.jsonl", "--view", "transactions", "--config", shell.config)

    assert converted["view_version"] == 1
    assert score(shell, Mode.REALTIME) == [1.0 * 1 + 0.5 * 3.0 + 0.125]
    with pytest.raises(ModelNotReadyError):
        score(shell, Mode.NEARLINE)


def test_a_conversion_says_which_version_it_is_bound_to(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        assert run([*CONVERT, *words, "--json", "--config", shell.config]) == 0
        captured = capsys.readouterr()
        return json.loads(captured.out)["view_version"], " ".join(captured.err.split())

    with closing(LocalWarehouse(shell.folder / "lab" / "warehouse")) as warehouse:
        store(warehouse, random_events(5, 20, 300), random_merchants(40))
    shell.run(*REGISTER, "--config", shell.config)

    first = told()
    shell.run("features", "refresh", "transactions", "--as-of", "2024-03-01T00:00:00Z", "--config", shell.config)
    filled = told()
    script = Path("views/transactions.sql")
    script.write_text(script.read_text().replace("tx.amount > 0", "tx.amount > 1"))
    shell.run(*REGISTER, "--config", shell.config)
    older, chosen = told(), told("--view-version", "2")

    assert (first[0], filled[0], older[0], chosen[0]) == (1, 1, 1, 2)
    assert "version 1 of view transactions has no snapshot: the model answers in mode realtime alone" in first[1]
    assert "snapshot" not in filled[1]
    assert "bound to version 1 of view transactions; version 2 is registered and has no snapshot yet" in older[1]
    assert "version 2 of view transactions has no snapshot" in chosen[1]
    wrong = shell.fails(4, *CONVERT, "--view-version", "3", "--config", shell.config)
    assert wrong == "error: view transactions has no version 3: 1, 2"
