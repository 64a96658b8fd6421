from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.initiator.http.encode import iso_time, prediction_body, prediction_json
from fedpredict.model.prediction import Origin, PartyReport, Prediction
from fedpredict.model.share import SampleStatus

FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999."""

instants = st.integers(FIRST_US, LAST_US)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 1e-5, 5e-324, 1e16, 1e308, 1.0]
)


@given(instants | st.integers(FIRST_US // 10**6, LAST_US // 10**6).map(lambda second: second * 10**6))
def test_an_instant_is_written_as_datetime_writes_it(micros: int) -> None:
    expected = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")

    assert iso_time(micros) == expected


def test_the_first_and_the_last_instant_are_written() -> None:
    assert [iso_time(FIRST_US), iso_time(LAST_US)] == ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]


@st.composite
def reports(draw: st.DrawFn, n_samples: int, full: bool) -> PartyReport:
    statuses = st.lists(st.sampled_from(list(SampleStatus)), min_size=n_samples, max_size=n_samples)
    return PartyReport(
        party=draw(st.sampled_from(["alice", "bob", "c-1"])),
        status=None if full or draw(st.booleans()) else np.array(draw(statuses), dtype=np.uint8),
        oldest_event_time=draw(st.none() | instants),
        round_trip_s=draw(numbers),
        elapsed_s=draw(numbers),
        problem="" if full else draw(st.text(max_size=4)),
    )


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    n_samples, n_outputs, full = draw(st.integers(0, 4)), draw(st.integers(1, 3)), draw(st.booleans())

    def each(kind: type[SampleStatus] | type[Origin], usual: int) -> list[int]:
        usually = st.just(usual) if full else st.sampled_from([int(member) for member in kind])
        return draw(st.lists(usually, min_size=n_samples, max_size=n_samples))

    n_values = n_samples * n_outputs
    values = draw(st.lists(numbers, min_size=n_values, max_size=n_values))
    return Prediction(
        request_id=draw(st.text(max_size=5)),
        manifest_sha256=draw(st.sampled_from(["", "ab" * 32])),
        predictions=np.array(values, dtype=np.float64).reshape(n_samples, n_outputs),
        status=np.array(each(SampleStatus, SampleStatus.OK), dtype=np.uint8),
        origin=np.array(each(Origin, Origin.MODEL), dtype=np.uint8),
        classes=tuple(draw(st.lists(st.text(max_size=3), max_size=3))),
        parties=tuple(draw(st.lists(reports(n_samples, full), max_size=3))),
        simulated=draw(st.booleans()),
    )


@given(predictions(), st.text(max_size=4))
def test_an_answer_is_byte_for_byte_what_its_schema_encodes_to(prediction: Prediction, model_id: str) -> None:
    assert prediction_json(prediction, model_id) == msgspec.json.encode(prediction_body(prediction, model_id))
