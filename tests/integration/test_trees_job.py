"""Trees from a joint file to scores by the commands: cut, played, converted, shown, scored by both engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import xgboost as xgb

from fedpredict.cli.main import run
from fedpredict.convert.write import write_partial
from fedpredict.model.kinds import Kind
from fedpredict.model.partial import PartialModel
from tests.tree_parts import of_lightgbm

NUMBERS = ("age", "income", "visits", "debt")
COLOURS = ("red", "green", "a|b", "", "blue~1")
N_ROWS = 300
BASE = 0.25


class Shop:
    """A folder with a joint model of a hospital and a bank, and the rows of both."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        random = np.random.default_rng(11)
        rows = random.normal(size=(N_ROWS, 4))
        rows[random.random(rows.shape) < 0.1] = np.nan
        codes = np.where(random.random(N_ROWS) < 0.1, np.nan, random.integers(0, len(COLOURS), N_ROWS))
        self.matrix = np.column_stack([rows, codes])
        target = np.nan_to_num(rows).sum(axis=1) + np.nan_to_num(codes % 2) + random.normal(size=N_ROWS) / 9
        data = lightgbm.Dataset(self.matrix, target, categorical_feature=[4])
        constraints = {"interaction_constraints": [[0, 1], [2, 3, 4]], "min_data_per_group": 5, "cat_smooth": 1}
        self.booster = lightgbm.train(
            {"num_leaves": 15, "max_depth": 6, "verbose": -1, "seed": 3, **constraints}, data, 30
        )
        part = of_lightgbm(self.booster, [*NUMBERS, "colour"], {"colour": COLOURS}, base=BASE)
        write_partial(folder / "joint.json", PartialModel("risk", "run-1", "joint-model", Kind.LINEAR, (), True, part))

    def write_rows(self) -> None:
        texts = [None if np.isnan(code) else COLOURS[int(code)] for code in self.matrix[:, 4]]
        ids = {"who": [f"p{at}" for at in range(N_ROWS)]}
        columns = {name: pa.array(self.matrix[:, at], from_pandas=True) for at, name in enumerate(NUMBERS)}
        everything = {**columns, "colour": pa.array(texts, pa.string())}
        pa.csv.write_csv(pa.table(columns | {"colour": pa.array(texts, pa.string())}), self.folder / "rows.csv")
        pa.parquet.write_table(pa.table(everything), self.folder / "rows.parquet")
        for party, names in (("hospital", NUMBERS[:2]), ("bank", (*NUMBERS[2:], "colour")), ("shop", ())):
            table = pa.table({**ids, **{name: everything[name] for name in names}, "unused": np.zeros(N_ROWS)})
            pa.parquet.write_table(table, self.folder / f"{party}.parquet")

    def run(self, *words: str) -> Any:
        self._capsys.readouterr()
        code = run([*words, "--json"])
        captured = self._capsys.readouterr()
        assert code == 0, captured.err
        self.notes = " ".join(captured.err.split())
        return json.loads(captured.out)


@pytest.fixture
def shop(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    made = Shop(tmp_path, capsys)
    made.write_rows()
    return made


def test_a_joint_file_becomes_scores_that_are_lightgbms_by_both_engines(shop: Shop) -> None:
    told = shop.run(
        *("model", "split", "joint.json", "--intercept", "shop", "--rows", "rows.parquet", "--out", "parts"),
        *("--party", "hospital=age,income", "--party", "bank=visits,debt,colour", "--party", "shop="),
    )
    assert "of shop: its share is the constant" in shop.notes
    assert [row["features"] for row in told] == [["age", "income"], ["visits", "debt", "colour"], []]

    played = shop.run("simulate", "--model", "parts", "--data", "rows.csv")
    assert played["scored"] == N_ROWS
    assert played["largest_relative_difference"] <= 1e-12

    totals = {engine: np.zeros(N_ROWS) for engine in ("numpy", "warehouse")}
    for party in ("hospital", "bank", "shop"):
        shop.run("init", "participant", party, "--no-certs")
        config = ("--config", f"{party}/participant.toml")
        shop.run("features", "load", f"{party}.parquet", "--view", "people", "--key", "who", *config)
        shop.run("model", "convert", f"parts/{party}.pkl", *config)
        shown = shop.run("model", "show", "risk", *config)
        assert (shown["family"], shown["engines"]) == ("trees", ["numpy", "duckdb", "spark", "hive"])
        assert shown["certificate"]["verification_rows"] == N_ROWS
        for engine, total in totals.items():
            shop.run("score", "--model", "risk", "--engine", engine, "--out", f"{party}-{engine}.parquet", *config)
            rows = pa.parquet.read_table(f"{party}-{engine}.parquet").to_pylist()
            by_id = {row["sample_id"]: row for row in rows}
            total += [by_id[f"p{at}"]["score"] for at in range(N_ROWS)]
    expected = np.asarray(shop.booster.predict(shop.matrix, raw_score=True)) + BASE
    for total in totals.values():
        assert np.abs(total - expected).max() <= 1e-9 * np.abs(expected).max()


def test_a_text_that_xgboost_was_not_trained_with_gets_a_status_by_both_engines(shop: Shop) -> None:
    random = np.random.default_rng(4)
    frame = pd.DataFrame({"age": random.normal(size=N_ROWS), "colour": random.choice(["blue", "red", "teal"], N_ROWS)})
    target = frame["age"] + 3.0 * (frame["colour"] == "red")
    data = xgb.DMatrix(frame.astype({"colour": "category"}), target, enable_categorical=True)
    booster = xgb.train({"max_depth": 3, "nthread": 1}, data, 5)
    booster.save_model(shop.folder / "risk.json")
    expected = booster.predict(data, output_margin=True).astype(np.float64)
    frame.loc[:1, "colour"] = ["gold", "zebra"]  # XGBoost takes the first for red, and refuses the second
    expected[:2] = np.nan
    pa.parquet.write_table(pa.Table.from_pandas(frame.assign(who=[f"p{at}" for at in range(N_ROWS)])), "people.parquet")
    pa.parquet.write_table(pa.Table.from_pandas(frame.assign(score=expected)), "verify.parquet")
    config = ("--config", "shop/participant.toml")
    shop.run("init", "participant", "shop", "--no-certs")
    shop.run("features", "load", "people.parquet", "--view", "people", "--key", "who", *config)

    names = ("--model-id", "risk", "--training-run", "run-1", "--party", "shop")
    shop.run("model", "convert", "risk.json", *names, "--verify", "verify.parquet", *config)

    parity = shop.run("model", "show", "risk", *config)["certificate"]["parity"]
    assert [(each["engine"], each["rows"]) for each in parity] == [("numpy", N_ROWS), ("duckdb", N_ROWS)]
    for engine in ("numpy", "warehouse"):
        shop.run("score", "--model", "risk", "--engine", engine, "--out", f"{engine}.parquet", *config)
        rows = {row["sample_id"]: row for row in pa.parquet.read_table(f"{engine}.parquet").to_pylist()}
        ordered = [rows[f"p{at}"] for at in range(N_ROWS)]
        assert [(row["status"], row["score"]) for row in ordered[:2]] == [("feature_invalid", None)] * 2
        found = np.array([row["score"] for row in ordered[2:]], dtype=np.float64)
        assert np.abs(found - expected[2:]).max() <= 1e-6 * np.abs(expected[2:]).max()
