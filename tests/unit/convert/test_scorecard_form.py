"""Scorecards from the portable form to tables: read, cut, played, published, read back."""

from __future__ import annotations

import copy
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sqlglot import exp

from fedpredict.convert.options import ReadOptions
from fedpredict.convert.portable import from_portable, parse_json, to_json, to_portable
from fedpredict.convert.read import read_model_file
from fedpredict.convert.simulate import simulate
from fedpredict.convert.split import split_model
from fedpredict.convert.write import write_partial
from fedpredict.errors import FeatureNamesError, FedPredictError, ModelConflictError, ModelFileError, TableCorruptError
from fedpredict.model.arrays import Floats
from fedpredict.model.part import UNKNOWN_CATEGORY, Part
from fedpredict.model.scorecard import ScorecardPart
from fedpredict.model.share import SampleStatus
from fedpredict.tables.digest import params_sha256
from fedpredict.tables.models import load_model, publish_model
from fedpredict.tables.sql import LARGEST
from fedpredict.tables.statements import partial_scores_query
from fedpredict.tables.views import FeatureView, Snapshot, ViewFeature, snapshot_name
from fedpredict.warehouse.base import ColumnType
from fedpredict.warehouse.local import LocalWarehouse
from tests.scorecards import CARD, NAMES, portable, samples, walked

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
STATUS = {"missing": SampleStatus.FEATURE_MISSING, "invalid": SampleStatus.FEATURE_INVALID}
TYPES = [ColumnType.DOUBLE, ColumnType.STRING, ColumnType.DOUBLE, ColumnType.DOUBLE]
COLUMNS = ("age_of_applicant", "home", "debt", "years")
VIEW = FeatureView("v", 1, tuple(map(ViewFeature, NAMES, COLUMNS, TYPES)), "id", None)


def coded(part: Part, rows: list[tuple[object, ...]]) -> Floats:
    """Return samples as a part takes them."""
    matrix = np.full((len(rows), len(part.features)), np.nan)
    for column, name in enumerate(part.features):
        texts = part.categories.get(name, ())
        for at, row in enumerate(rows):
            cell = row[NAMES.index(name)]
            if isinstance(cell, str):
                matrix[at, column] = texts.index(cell) if cell in texts else UNKNOWN_CATEGORY
            elif isinstance(cell, float):
                matrix[at, column] = cell
    return matrix


def changed(place: int | None = None, **changes: Any) -> dict[str, Any]:
    card = copy.deepcopy(CARD)
    (card if place is None else card["features"][place]).update(changes)
    return portable(card)


def test_every_sample_gets_the_points_of_a_walk_of_the_bins_or_the_status() -> None:
    part = from_portable(portable()).part
    rows = samples()

    scores, statuses = part.partial_scores(coded(part, rows))[:, 0], part.statuses(coded(part, rows))

    assert statuses is not None
    expected = [walked(row) for row in rows]
    assert statuses.tolist() == [STATUS[each] if isinstance(each, str) else SampleStatus.OK for each in expected]
    assert {each for each in expected if isinstance(each, str)} == set(STATUS)
    for found, each in zip(scores.tolist(), expected, strict=True):
        assert isinstance(each, str) or found == pytest.approx(each, rel=1e-15)


def test_a_card_is_written_and_read_back_as_it_is(tmp_path: Path) -> None:
    partial = from_portable(portable(changed(reasons=3)["part"]))
    write_partial(tmp_path / "card.pkl", partial)

    again = from_portable(parse_json(to_json(partial)))
    read = read_model_file(tmp_path / "card.pkl").partial

    assert to_json(again) == to_json(read) == to_json(partial)
    salt = bytes(32)
    assert params_sha256(again, "v", 1, salt) == params_sha256(partial, "v", 1, salt)
    assert isinstance(read.part, ScorecardPart)
    assert read.part.n_reasons == 3
    assert to_portable(partial)["family"] == "scorecard"


def test_the_parties_of_a_cut_card_give_its_points_and_probabilities() -> None:
    joint = from_portable(portable(kind="binary", link="odds:480,15,20", classes=["bad", "good"]))
    rows = coded(joint.part, samples())

    parts = split_model(joint, {"bank": ["debt", "home"], "lab": [NAMES[0], "years"]}, "lab", rows=rows)
    parts = {party: from_portable(parse_json(to_json(part))) for party, part in parts.items()}
    report = simulate(parts, joint, rows, NAMES)

    expected = [walked(row) for row in samples()]
    scored = [at for at, each in enumerate(expected) if not isinstance(each, str)]
    points = np.array([expected[at] for at in scored], dtype=np.float64)
    odds = 15 * 2 ** ((points - 480) / 20)
    np.testing.assert_allclose(report.combined.raw[scored, 0], points, rtol=1e-14)
    np.testing.assert_allclose(report.combined.predictions[scored, 0], odds / (1 + odds), rtol=1e-12)
    assert report.n_scored == len(scored)
    assert (parts["bank"].part.intercept, parts["lab"].holds_intercept) == (None, True)


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        (portable(classes=["a"]), ModelFileError, "a linear model has no classes"),
        (portable(part=None), ModelFileError, "needs part: a dict"),
        (changed(points=1), ModelFileError, "the scorecard has the unknown key 'points'"),
        (changed(features=None), ModelFileError, "a scorecard needs features"),
        (changed(features={}), ModelFileError, "a scorecard needs features"),
        (changed(features=["age"]), ModelFileError, "not a dict with a name"),
        (changed(reasons=True), ModelFileError, "reasons is not the number"),
        (changed(reasons=21), ModelFileError, "0 to 20 are allowed"),
        (changed(base_points="x"), ModelFileError, "base_points holds a str"),
        (changed(0, name="home"), FeatureNamesError, "feature names repeat: 'home'"),
        (changed(0, name="HOME"), FeatureNamesError, "upper and lower case"),
        (changed(0, closed=None), ModelFileError, "does not say which side of its bins is closed"),
        (changed(0, closed="up"), ModelFileError, "closed is 'up'; it must be one of left, right"),
        (changed(0, bins=[]), ModelFileError, "either intervals or texts"),
        (changed(0, bins=3), ModelFileError, "needs bins: a list of dicts"),
        (changed(0, bins=[{"points": None}]), ModelFileError, "points holds a NoneType"),
        (changed(0, bins=[{"points": float("nan")}]), ModelFileError, "NaN or an infinity"),
        (changed(0, bins=[{"to": 1, "points": 1}, {"texts": ["x"], "points": 1}]), ModelFileError, "unknown key 'to'"),
        (changed(0, bins=[{"to": 1, "points": 1}, {"from": 0, "points": 2}]), ModelFileError, "overlap"),
        (changed(1, bins=[{"texts": ["x", "x"], "points": 1}]), ModelFileError, "a text in two bins"),
        (changed(1, bins=[{"texts": [], "points": 1}]), ModelFileError, "texts is not a list of texts"),
        (changed(2, missing="0"), ModelFileError, "missing holds a str"),
        (changed(2, reason="x" * 300), ModelFileError, "reason code of 'debt'"),
        (portable(link="odds:1,2,3"), ModelFileError, "a linear model cannot have the link odds"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(content: dict[str, Any], error: type[FedPredictError], told: str) -> None:
    with pytest.raises(error, match=told):
        from_portable(content)


def test_an_exposure_is_no_option_for_a_card(tmp_path: Path) -> None:
    write_partial(tmp_path / "card.json", from_portable(portable()))
    with pytest.raises(ModelConflictError, match="--exposure 'years': a model of family scorecard cannot have one"):
        read_model_file(tmp_path / "card.json", ReadOptions(exposure="years"))


def test_a_published_card_is_read_back_and_one_that_was_changed_in_the_table_is_found(tmp_path: Path) -> None:
    partial = from_portable(portable(changed(reasons=2)["part"]))
    with closing(LocalWarehouse(tmp_path)) as warehouse:
        version, _ = publish_model(warehouse, partial, VIEW, "0" * 64)
        assert to_json(load_model(warehouse, version)) == to_json(partial)
        (table,) = version.parameter_tables
        assert table == "fp_scorecard_v"
        names = [f"{name}" for name in warehouse.read(table, ["position", "rule", "bin", "low", "high", "low_closed",
                 "high_closed", "text", "points", "reason"], version.partition).column_names]  # fmt: skip
        rows = warehouse.read(table, names, version.partition)
        for damaged in _damaged(rows):
            warehouse.replace(table, version.partition, damaged)
            with pytest.raises(TableCorruptError, match=r"fp_scorecard_v: .*; convert the model again"):
                load_model(warehouse, version)
        assert publish_model(warehouse, partial, VIEW, "0" * 64)[1]
        assert to_json(load_model(warehouse, version)) == to_json(partial)


def test_no_point_and_no_bound_stands_in_the_statement(tmp_path: Path) -> None:
    with closing(LocalWarehouse(tmp_path)) as warehouse:
        version, _ = publish_model(warehouse, from_portable(portable()), VIEW, "0" * 64)
    snapshot = Snapshot(VIEW, snapshot_name(NOON), 1)

    statement = partial_scores_query(version, snapshot)[0]

    assert '"debt"' in statement.sql()
    literals = {str(each.this) for each in statement.find_all(exp.Literal)}
    whole = {str(number) for number in (*range(len(NAMES)), *SampleStatus)}
    assert literals <= {*whole, LARGEST, "", "base", "missing", "outside", "interval", "text"}


def _damaged(rows: pa.Table) -> list[pa.Table]:
    def without(mask: Any) -> pa.Table:
        return rows.filter(pc.invert(mask))

    def with_column(name: str, change: Any) -> pa.Table:
        values = [change(value) for value in rows.column(name).to_pylist()]
        return rows.set_column(rows.column_names.index(name), name, pa.array(values, rows.schema.field(name).type))

    return [
        rows.slice(0, 0),
        without(pc.equal(rows.column("rule"), "base")),
        without(pc.equal(rows.column("rule"), "outside")),
        without(pc.equal(rows.column("position"), 2)),
        pa.concat_tables([rows, rows]),
        with_column("points", lambda points: points and points + 1.0),
        with_column("points", lambda points: points and float("nan")),
        with_column("low_closed", lambda closed: None if closed is None else not closed),
        with_column("position", lambda position: position + 1 if position > 1 else position),
        with_column("reason", lambda reason: "another" if reason else reason),
    ]
