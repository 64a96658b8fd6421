"""Split learning from scikit-learn's file to predictions over links by real participants and a head."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from sklearn.neural_network import MLPClassifier

from fedpredict.cli.main import run
from fedpredict.errors import ModelNotReadyError
from fedpredict.model.arrays import Floats
from fedpredict.model.share import SampleStatus
from fedpredict.warehouse.local import LocalWarehouse
from tests.integration.federation import Certificates, Federation, eventually
from tests.integration.test_split_trees_job import serve
from tests.split_networks import masked_classifier

OWNERS = {"bank": ("age", "income"), "lab": ("visits", "debt"), "shop": ("basket",)}
NAMES = tuple(name for names in OWNERS.values() for name in names)
UNITS = {"bank": (2, 3), "lab": (2, 4), "shop": (1, 2)}
Run = Callable[..., Any]
SAVED = next((Path(__file__).parents[1] / "unit" / "convert" / "torch_models").glob("split-*.json"))


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


def mixing_classifier() -> tuple[MLPClassifier, Floats]:
    """scikit-learn's classifier as it was trained: every unit mixes all features."""
    random = np.random.default_rng(3)
    rows = random.normal(size=(120, len(NAMES)))
    target = rows.sum(axis=1) > 0
    return MLPClassifier((7, 4), max_iter=40, random_state=0, tol=1e-2).fit(rows, target), rows


def converted(cli: Run, model: MLPClassifier, rows: Floats) -> Any:
    """Cut a saved classifier, play it, and convert parts and head at the parties; return what `model convert` said."""
    joblib.dump(model, "model.joblib")
    columns = {name: pa.array(rows[:, at]) for at, name in enumerate(NAMES)}
    pa.parquet.write_table(pa.table(columns), "rows.parquet")
    parties = [word for party, names in OWNERS.items() for word in ("--party", f"{party}={','.join(names)}")]
    named = ("--model-id", "risk", "--training-run", "run-1", "--features", ",".join(NAMES))
    cut = ("model.joblib", *named, *parties, "--head", "bank", "--rows", "rows.parquet", "--out", "parts")
    cli("model", "split", *cut)
    assert cli("simulate", "--model", "parts", "--data", "rows.parquet")["scored"] == len(rows)
    for party, names in OWNERS.items():
        role = "initiator" if party == "bank" else "participant"
        cli("init", role, party, "--no-certs")
        config = ("--config", f"{party}/{role}.toml")
        own = pa.table({"who": [f"p{at}" for at in range(len(rows))], **{name: columns[name] for name in names}})
        pa.parquet.write_table(own, f"{party}.parquet")
        cli("features", "load", f"{party}.parquet", "--view", "people", "--key", "who", *config)
        cli("model", "convert", f"parts/{party}.pkl", *config)
    return cli("model", "convert", "parts/head.json", "--config", "bank/initiator.toml")


@pytest.mark.parametrize("combining", ["top_concat", "top_sum"])
async def test_predictions_are_those_of_scikit_learn(
    combining: str, cli: Run, federation: Federation, tmp_path: Path
) -> None:
    is_sum = combining == "top_sum"
    model, rows = mixing_classifier() if is_sum else masked_classifier(UNITS, n_classes=3)
    head = converted(cli, model, rows)
    shown = cli("model", "show", "risk", "--config", "bank/initiator.toml")
    assert (shown["family"], shown["heads"][0]["head"]) == ("network", head["head_sha256"])
    assert shown["heads"][0]["combining"] == combining
    assert shown["certificate"]["verification_rows"] > 0

    for party in ("lab", "shop"):
        await serve(federation, party)
    warehouse = LocalWarehouse(tmp_path / "bank" / "warehouse")
    await federation.initiator({"risk": {"parties": list(OWNERS), "head": True}}, warehouse=warehouse)
    await federation.ready("risk")
    ids = [f"p{at}".encode() for at in range(len(rows))]
    prediction = await federation.predict(*ids, b"nobody", model_id="risk")

    assert prediction.status[-1] == SampleStatus.NOT_FOUND
    expected = model.predict_proba(rows)
    np.testing.assert_allclose(prediction.predictions[:-1], expected[:, 1:] if is_sum else expected, rtol=1e-9)


async def test_files_that_pytorch_saved_at_each_party_give_its_predictions(
    cli: Run, federation: Federation, tmp_path: Path
) -> None:
    stored = json.loads(SAVED.read_text())
    saved = stored["top_concat"]
    config = {"bank": "bank/initiator.toml", "lab": "lab/participant.toml"}
    named = ("--model-id", "risk", "--training-run", "run-1")
    ids = pa.array([f"p{at}" for at in range(len(saved["float64"]))])
    for party, of_party in config.items():
        cli("init", "initiator" if party == "bank" else "participant", party, "--no-certs")
        rows, names = np.array(stored["inputs"][party]), saved["layers"][party]["inputs"]
        pa.parquet.write_table(pa.table({"who": ids, **dict(zip(names, rows.T, strict=True))}), f"{party}.parquet")
        cli("features", "load", f"{party}.parquet", "--view", "people", "--key", "who", "--config", of_party)
    for name in (*config, "top"):
        Path(f"{name}.pt").write_bytes(base64.b64decode(saved["files"][name]["pt"]))
        Path(f"{name}.json").write_text(json.dumps(saved["layers"][name]))
        words = (f"{name}.pt", "--layers", f"{name}.json", *named, "--config", config.get(name, config["bank"]))
        assert cli("model", "convert", *words)["source"] == "PyTorch state dict"

    await serve(federation, "lab")
    warehouse = LocalWarehouse(tmp_path / "bank" / "warehouse")
    await federation.initiator({"risk": {"parties": list(config), "head": True}}, warehouse=warehouse)
    await federation.ready("risk")
    prediction = await federation.predict(*(each.encode() for each in ids.to_pylist()), model_id="risk")

    np.testing.assert_allclose(prediction.predictions, saved["float64"], rtol=1e-9)


async def test_parties_that_are_not_the_heads_are_told(cli: Run, federation: Federation, tmp_path: Path) -> None:
    converted(cli, *masked_classifier(UNITS, n_classes=2))
    await serve(federation, "lab")

    warehouse = LocalWarehouse(tmp_path / "bank" / "warehouse")
    await federation.initiator({"risk": {"parties": ["bank", "lab"], "head": True}}, warehouse=warehouse)

    async def is_told() -> bool:
        offer = federation.store.offers().get("risk")
        return offer is not None and "takes shares of bank, lab, shop, but" in offer.problem

    await eventually(is_told)
    with pytest.raises(ModelNotReadyError):
        await federation.predict(b"p0", model_id="risk")
