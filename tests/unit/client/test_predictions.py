"""The result: arrays, Arrow, pandas, and what it says of itself."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.client import Predictions, SampleStatus
from fedpredict.model.prediction import PartyReport, Prediction

ANSWER = Prediction(
    request_id="r-1",
    manifest_sha256="ab" * 32,
    predictions=np.array([[0.25], [np.nan], [0.75], [np.nan]]),
    status=np.array([1, 2, 1, 8], dtype=np.uint8),
    origin=np.array([1, 0, 2, 0], dtype=np.uint8),
    classes=("no", "yes"),
    parties=(
        PartyReport(
            party="hospital",
            status=np.array([1, 2, 1, 1], dtype=np.uint8),
            oldest_event_time=1_700_000_000_000_001,
            round_trip_s=0.5,
            elapsed_s=0.25,
        ),
        PartyReport(
            party="lab",
            status=np.array([1, 2, 8, 8], dtype=np.uint8),
            oldest_event_time=None,
            round_trip_s=2.0,
            elapsed_s=0.0,
            problem="party lab is unavailable",
        ),
    ),
)
IDS = ["u1", "u2", "u3", "u4"]


def test_reasons_name_every_party_that_was_not_ok() -> None:
    unavailable = ("lab", SampleStatus.PARTY_UNAVAILABLE)

    assert Predictions(IDS, ANSWER).reasons == [
        (),
        (("hospital", SampleStatus.NOT_FOUND), ("lab", SampleStatus.NOT_FOUND)),
        (unavailable,),
        (unavailable,),
    ]


def test_there_are_no_reasons_where_all_parties_are_ok() -> None:
    fine = tuple(replace(each, status=None) for each in ANSWER.parties)

    assert Predictions(IDS, replace(ANSWER, parties=fine)).reasons == [(), (), (), ()]


def test_parties_tell_their_times() -> None:
    hospital, lab = Predictions(IDS, ANSWER).parties

    assert hospital.oldest_event_time == datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)
    assert (hospital.round_trip_s, hospital.elapsed_s, hospital.problem) == (0.5, 0.25, "")
    assert (lab.oldest_event_time, lab.problem) == (None, "party lab is unavailable")


def test_arrow_has_null_where_there_is_no_score() -> None:
    assert Predictions(IDS, ANSWER).to_arrow().to_pydict() == {
        "sample_id": ["u1", "u2", "u3", "u4"],
        "prediction": [0.25, None, 0.75, None],
        "status": ["ok", "not_found", "ok", "party_unavailable"],
        "origin": ["model", "unspecified", "default_partial", "unspecified"],
    }


def test_numpy_has_nan_where_there_is_no_score() -> None:
    np.testing.assert_array_equal(Predictions(IDS, ANSWER).to_numpy(), [[0.25], [np.nan], [0.75], [np.nan]])


def test_a_column_per_class_is_named_by_the_class() -> None:
    answer = replace(ANSWER, predictions=np.full((4, 3), 0.5), classes=("a", "b", "c"), status=np.ones(4, np.uint8))

    assert Predictions(IDS, answer).to_arrow().column_names[1:4] == ["prediction_a", "prediction_b", "prediction_c"]


def test_a_column_per_output_of_a_regression_is_numbered() -> None:
    answer = replace(ANSWER, predictions=np.full((4, 2), 0.5), classes=(), status=np.ones(4, np.uint8))

    assert Predictions(IDS, answer).columns == ("prediction_0", "prediction_1")


def test_ids_are_binary_in_arrow_where_one_is_not_utf8() -> None:
    table = Predictions(["u1", b"\xff", "\ud800", b"u4"], ANSWER).to_arrow()

    assert table.schema.field("sample_id").type == pa.binary()
    assert table.column("sample_id").to_pylist() == [b"u1", b"\xff", b"\xed\xa0\x80", b"u4"]


def test_ids_given_as_bytes_are_text_in_arrow() -> None:
    table = Predictions([b"u1", b"u2", b"u3", "u4"], ANSWER).to_arrow()

    assert table.column("sample_id").to_pylist() == IDS


def test_pandas_has_the_same_columns() -> None:
    frame = Predictions(IDS, ANSWER).to_pandas()

    assert list(frame.columns) == ["sample_id", "prediction", "status", "origin"]
    assert frame["prediction"].isna().tolist() == [False, True, False, True]


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(ImportError, match=r"pip install 'fedpredict\[pandas\]'"):
        Predictions(IDS, ANSWER).to_pandas()


def test_the_repr_tells_what_became_of_the_request() -> None:
    assert repr(Predictions(IDS, ANSWER)) == (
        "<Predictions: 2 of 4 scored, 1 output, 1 not_found, 1 party_unavailable, "
        "lab: party lab is unavailable, request r-1>"
    )


def test_the_repr_of_a_simulation_says_so_first() -> None:
    assert repr(Predictions(IDS, replace(ANSWER, simulated=True))).startswith("<SIMULATED Predictions")


def test_length_and_ids_are_those_given() -> None:
    predictions = Predictions(IDS, ANSWER)

    assert (len(predictions), predictions.sample_ids, predictions.n_scored) == (4, IDS, 2)
