"""A pipeline with texts and gaps, from scikit-learn's pickle to scores by the commands, and through a party's store."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from fedpredict.cli.main import run
from fedpredict.features.base import OnlineStore
from fedpredict.features.load import load_file
from fedpredict.features.mapped import MappedStore
from fedpredict.features.memory import MemoryStore
from fedpredict.model.scorer import ScoreQuery
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.scoring.loader import ModelLoader
from fedpredict.scoring.local_party import LocalParty
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.local import LocalWarehouse
from tests.step_models import data, fitted, raw_scores, read

NAME = "onehot, ignore"
OWNERS = {"bank": ["age", "income"], "shop": ["debt", "city", "job"]}
N_ROWS = 80


def rows() -> pd.DataFrame:
    frame = data(N_ROWS, seed=21)
    frame.loc[3, "city"] = "Linz"
    return frame


def command(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    code = run([*words, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_a_pipeline_is_cut_converted_and_scored_as_scikit_learn_scores_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, frame = fitted(NAME), rows()
    Path("joint.pkl").write_bytes(pickle.dumps(model))
    frame.to_parquet("rows.parquet")
    frame.to_csv("rows.csv", index=False)
    named = [f"--party={party}={','.join(names)}" for party, names in OWNERS.items()]
    say = ("--model-id", "risk", "--training-run", "run-1", "--intercept", "bank", "--out", "parts")
    command(capsys, "model", "split", "joint.pkl", "--rows", "rows.parquet", *say, *named)
    for file in ("rows.parquet", "rows.csv"):
        played = command(capsys, "simulate", "--model", "parts", "--data", file)
        # an empty field of CSV is NULL, and a category of this model
        assert played["scored"] == N_ROWS
        assert played["largest_relative_difference"] <= 1e-12

    totals = {engine: np.zeros(N_ROWS) for engine in ("numpy", "warehouse")}
    for party, names in OWNERS.items():
        frame.assign(who=[f"p{at}" for at in range(N_ROWS)])[["who", *names]].to_parquet(f"{party}.parquet")
        command(capsys, "init", "participant", party, "--no-certs")
        config = ("--config", f"{party}/participant.toml")
        command(capsys, "features", "load", f"{party}.parquet", "--view", "people", "--key", "who", *config)
        command(capsys, "model", "convert", f"parts/{party}.pkl", *config)
        shown = command(capsys, "model", "show", "risk", *config)
        assert (shown["family"], shown["engines"]) == ("steps", ["numpy", "duckdb", "spark", "hive"])
        for engine, total in totals.items():
            out = f"{party}-{engine}.parquet"
            command(capsys, "score", "--model", "risk", "--engine", engine, "--out", out, *config)
            by_id = {row["sample_id"]: row["score"] for row in pyarrow.parquet.read_table(out).to_pylist()}
            total += [by_id[f"p{at}"] for at in range(N_ROWS)]
    expected = raw_scores(model, frame)[:, 0]
    for total in totals.values():
        assert np.abs(total - expected).max() <= 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("store_of", [lambda _: MemoryStore(), MappedStore], ids=["memory", "mapped"])
def test_a_party_scores_texts_from_its_store_and_follows_new_snapshots(
    tmp_path: Path, store_of: Callable[[Path], OnlineStore]
) -> None:
    model, frame = fitted("onehot, infrequent", "classes"), rows()
    warehouse, store = LocalWarehouse(tmp_path / "warehouse"), store_of(tmp_path / "store")
    loader = ModelLoader(warehouse, "lab", store)
    ids = [f"p{at}" for at in range(N_ROWS)]
    for turn, current in enumerate((frame, frame[::-1].reset_index(drop=True), frame.assign(city="Graz"))):
        path = tmp_path / f"{turn}.parquet"
        current.assign(who=ids).to_parquet(path)
        load_file(warehouse, path, view="people", key="who")
        snapshot = latest_snapshot(warehouse, "people")
        assert snapshot is not None
        publish_model(warehouse, read(model), snapshot.view, "5" * 64)
        state = loader.refresh()
        assert not state.problems
        digest = state.newest("credit").description.params_sha256
        query = ScoreQuery(
            request_id="r",
            model_id="credit",
            manifest_sha256="c" * 64,
            params_sha256=digest,
            mode=Mode.NEARLINE,
            sample_ids=[each.encode() for each in ids],
        )
        share = asyncio.run(LocalParty("lab", lambda: loader.state, store).score(query, deadline_s=9)).share
        usable = share.status == SampleStatus.OK
        assert usable.sum() > N_ROWS // 2
        expected = raw_scores(model, pd.DataFrame(current[usable]))
        np.testing.assert_allclose(share.values[usable], expected, rtol=1e-9, atol=1e-12)
        for place in np.flatnonzero(usable)[:5].tolist():
            one = ScoreQuery(
                request_id="r",
                model_id="credit",
                manifest_sha256="c" * 64,
                params_sha256=digest,
                mode=Mode.NEARLINE,
                sample_ids=[ids[place].encode()],
            )
            alone = asyncio.run(LocalParty("lab", lambda: loader.state, store).score(one, deadline_s=9)).share
            np.testing.assert_allclose(alone.values[0], share.values[place], rtol=1e-12)
