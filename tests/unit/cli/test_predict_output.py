"""What `fedpredict predict` shows and writes of an answer."""

from pathlib import Path

import numpy as np
import pytest

from fedpredict.cli import predict
from fedpredict.cli.files import write_table
from fedpredict.cli.output import Output
from fedpredict.client import Predictions
from fedpredict.model.prediction import Origin, PartyReport, Prediction
from fedpredict.model.share import SampleStatus


def answer(origin: Origin, sample_ids: list[str | bytes]) -> Predictions:
    """Two samples: one with a number of that origin, one without a number."""
    report = PartyReport(
        party="lab", status=np.array([SampleStatus.NOT_FOUND] * 2, np.uint8), oldest_event_time=None,
        round_trip_s=0.1, elapsed_s=0.1,
    )  # fmt: skip
    return Predictions(
        sample_ids,
        Prediction(
            request_id="r-1",
            manifest_sha256="ab" * 32,
            predictions=np.array([[0.25], [np.nan]]),
            status=np.array([SampleStatus.OK, SampleStatus.NOT_FOUND], np.uint8),
            origin=np.array([origin, Origin.UNSPECIFIED], np.uint8),
            classes=("no", "yes"),
            parties=(report,),
        ),
    )


@pytest.mark.parametrize("origin", [Origin.DEFAULT_PARTIAL, Origin.FALLBACK_MODEL])
def test_a_number_that_something_else_stood_in_for_is_marked(
    origin: Origin, capsys: pytest.CaptureFixture[str]
) -> None:
    predict._print(Output(as_json=False), answer(origin, ["a", "b"]), None)
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.strip().startswith("a "))
    assert origin.name.lower() in row
    assert "0.25" in row


def test_the_models_own_numbers_need_no_mark(capsys: pytest.CaptureFixture[str]) -> None:
    predict._print(Output(as_json=False), answer(Origin.MODEL, ["a", "b"]), None)
    assert "origin" not in capsys.readouterr().out


def test_ids_that_are_not_utf8_are_escaped_in_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_table(path, predict._file_rows(answer(Origin.MODEL, [b"a\xff", "b"]), path))
    assert path.read_text().splitlines()[1] == '"a\\xff",0.25,"ok","model"'
