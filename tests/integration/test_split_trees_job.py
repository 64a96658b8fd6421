"""Trees that mix the parties' features, from the library's own file to predictions over links by real participants."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import xgboost

from fedpredict.cli.main import run
from fedpredict.client import AsyncClient, Mode
from fedpredict.model.arrays import Floats
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import IdentityKind
from fedpredict.warehouse.local import LocalWarehouse
from tests.integration.federation import POLL_S, Certificates, Federation

OWNERS = {"bank": ("age", "income"), "lab": ("visits", "debt"), "shop": ("basket",)}
NAMES = tuple(name for names in OWNERS.values() for name in names)
N_ROWS = 200
Run = Callable[..., Any]


@dataclass(frozen=True)
class Saved:
    """A model's file, and the library's own predictions, with how near ours must come."""

    file: Path
    expected: Floats
    tolerance: float


def saved_lightgbm(folder: Path, rows: Floats, target: Floats) -> Saved:
    settings = {"num_leaves": 70, "min_data_in_leaf": 2, "verbose": -1, "seed": 3}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, target, feature_name=list(NAMES)), 8)
    booster.save_model(folder / "model.txt")
    return Saved(folder / "model.txt", np.asarray(booster.predict(rows)), 1e-9)


def saved_xgboost(folder: Path, rows: Floats, target: Floats) -> Saved:
    matrix = xgboost.DMatrix(rows, target > 0, feature_names=list(NAMES))
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 5, "seed": 3}, matrix, 8)
    booster.save_model(folder / "model.json")
    return Saved(folder / "model.json", booster.predict(matrix).astype(np.float64), 1e-6)


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in the folder of the test; return what it prints as JSON."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Any:
        capsys.readouterr()
        code = run([*words, "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return command


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Federation]:
    async with Federation(tmp_path, Certificates(tmp_path / "certificates")) as made:
        yield made


async def serve(federation: Federation, party: str) -> None:
    """Start a participant over the warehouse that the commands filled."""
    tls = federation.certificates.of(party)
    settings = ParticipantSettings.model_validate(
        {
            "party": party,
            "listen": "127.0.0.1:0",
            "link_listen": "127.0.0.1:0",
            "poll_s": POLL_S,
            "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
            "warehouse": {"path": "elsewhere"},
            "callers": {"bank": {"models": ["*"]}},
        }
    )
    server = ParticipantServer(settings, LocalWarehouse(Path(party) / "warehouse"), tls)
    await federation.stack.enter_async_context(server)
    federation.parties[party] = server.address


@pytest.mark.parametrize("save", [saved_lightgbm, saved_xgboost])
async def test_predictions_are_the_librarys_own(
    save: Callable[[Path, Floats, Floats], Saved], cli: Run, federation: Federation, tmp_path: Path
) -> None:
    random = np.random.default_rng(11)
    rows = np.round(random.normal(size=(N_ROWS, len(NAMES))), 3)
    target = rows[:, 0] * rows[:, 2] + rows[:, 1] * rows[:, 4] + random.normal(size=N_ROWS) / 9
    rows[random.random(rows.shape) < 0.1] = np.nan
    saved = save(tmp_path, rows, target)
    columns = {name: pa.array(rows[:, at], from_pandas=True) for at, name in enumerate(NAMES)}
    pa.parquet.write_table(pa.table(columns), "rows.parquet")

    parties = [word for party, names in OWNERS.items() for word in ("--party", f"{party}={','.join(names)}")]
    named = ("--model-id", "risk", "--training-run", "run-1")
    cut = (str(saved.file), *named, *parties, "--head", "bank", "--rows", "rows.parquet", "--out", "parts")
    cli("model", "split", *cut)
    played = cli("simulate", "--model", "parts", "--data", "rows.parquet")
    assert played["scored"] == N_ROWS
    assert played["largest_relative_difference"] <= 1e-12
    for party, names in OWNERS.items():
        role = "initiator" if party == "bank" else "participant"
        cli("init", role, party, "--no-certs")
        config = ("--config", f"{party}/{role}.toml")
        table = pa.table({"who": [f"p{at}" for at in range(N_ROWS)], **{name: columns[name] for name in names}})
        pa.parquet.write_table(table, f"{party}.parquet")
        cli("features", "load", f"{party}.parquet", "--view", "people", "--key", "who", *config)
        cli("model", "convert", f"parts/{party}.pkl", *config)
    converted = cli("model", "convert", "parts/head.json", "--config", "bank/initiator.toml")
    shown = cli("model", "show", "risk", "--config", "bank/initiator.toml")
    assert (shown["family"], shown["heads"][0]["head"]) == ("split_trees", converted["head_sha256"])
    assert shown["certificate"]["verification_rows"] > 0

    for party in ("lab", "shop"):
        await serve(federation, party)
    warehouse = LocalWarehouse(tmp_path / "bank" / "warehouse")
    await federation.initiator(
        {"risk": {"parties": list(OWNERS), "head": True}}, warehouse=warehouse, task_warehouse=warehouse
    )
    await federation.ready("risk")
    prediction = await federation.predict(*(f"p{at}".encode() for at in range(N_ROWS)), model_id="risk")

    assert prediction.scored.all()
    np.testing.assert_allclose(prediction.predictions[:, 0], saved.expected, rtol=saved.tolerance, atol=saved.tolerance)

    tls = federation.certificates.of("desk", IdentityKind.CLIENT)
    async with AsyncClient(federation.address, server_party="bank", tls=tls) as client:
        task_id = await client.submit("risk", [f"p{at}" for at in range(N_ROWS)], mode=Mode.NEARLINE)
        results = (await client.results_table(task_id)).to_pydict()
    found = dict(zip(results["sample_id"], results["prediction"], strict=True))
    assert [found[f"p{at}"] for at in range(N_ROWS)] == prediction.predictions[:, 0].tolist()
