from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import FieldError, ModelNotFoundError, TooManySamplesError, UnscoredError
from fedpredict.initiator import open_inference as oip
from fedpredict.initiator.tensors import pack_strings, unpack_strings
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.prediction import ModelInfo, Prediction
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.public_status import public_status

OK, NOT_FOUND = SampleStatus.OK, SampleStatus.NOT_FOUND
INFO = ModelInfo(
    model_id="m",
    ready=True,
    problem="",
    kind=Kind.BINARY,
    link=own_link(Kind.BINARY),
    classes=("0", "1"),
    parties=("lab",),
    manifest_sha256="0123456789abcdef" * 4,
    n_outputs=1,
)


def ids_tensor(*ids: bytes) -> oip.Tensor:
    return oip.parse_cells("sample_id", "BYTES", [len(ids)], ids)


def prediction(*status: SampleStatus) -> Prediction:
    scored = np.array([code == OK for code in status])
    return Prediction(
        request_id="r-1",
        manifest_sha256=INFO.manifest_sha256,
        predictions=np.where(scored[:, None], [[0.25, 0.75]], np.nan),
        status=np.array(status, dtype=np.uint8),
        origin=scored.astype(np.uint8),
        classes=("a", "b"),
        parties=(),
    )


@given(st.lists(st.binary(max_size=8), max_size=6))
def test_strings_are_packed_after_their_lengths_and_come_back(strings: list[bytes]) -> None:
    raw = b"".join(struct.pack("<I", len(each)) + each for each in strings)

    assert pack_strings(SampleIds.of(strings)) == raw
    assert list(unpack_strings(raw, len(strings))) == strings


@given(st.binary(max_size=40), st.integers(0, 8))
def test_other_bytes_are_refused_or_read_as_the_layout_says(raw: bytes, n_strings: int) -> None:
    try:
        strings = unpack_strings(raw, n_strings)
    except ValueError:
        return
    assert pack_strings(strings) == raw
    assert len(strings) == n_strings


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "INT64", "INT32", "BOOL"])
@pytest.mark.parametrize("shape", [[3], [3, 1]])
def test_features_are_read_alike_from_bytes_and_from_cells(datatype: str, shape: list[int]) -> None:
    cells = [True, False, True] if datatype == "BOOL" else [1, 0, 3]
    layout = {"FP64": "<3d", "FP32": "<3f", "INT64": "<3q", "INT32": "<3i", "BOOL": "<3?"}[datatype]
    tensors = [
        oip.parse_raw("f", datatype, shape, struct.pack(layout, *cells)),
        oip.parse_cells("f", datatype, shape, cells),
    ]

    for tensor in tensors:
        features = oip.features_of([tensor, ids_tensor(b"u1", b"u2", b"u3")])
        assert features.inputs is not None
        assert features.inputs.names == ("f",)
        assert features.inputs.values.tolist() == [[float(cell)] for cell in cells]
        assert list(features.sample_ids) == [b"u1", b"u2", b"u3"]


def test_a_cell_without_a_value_is_missing_where_the_type_has_room_for_it() -> None:
    tensor = oip.parse_cells("f", "FP64", [2], [None, 1.5])

    assert np.isnan(tensor.cells[0])
    with pytest.raises(FieldError) as raised:
        oip.parse_cells("f", "INT64", [2], [None, 1])
    assert raised.value.problem == "a cell is no INT64"


@pytest.mark.parametrize(("datatype", "cell"), [("FP32", 1e300), ("FP32", -1e39), ("INT32", 2**31), ("INT64", 2**63)])
def test_a_number_that_its_type_has_no_place_for_is_refused_and_no_infinity(datatype: str, cell: float) -> None:
    with pytest.raises(FieldError) as raised:
        oip.parse_cells("f", datatype, [1], [cell])
    assert raised.value.problem == f"a cell is no {datatype}"


def test_ids_alone_carry_no_inputs() -> None:
    features = oip.features_of([ids_tensor(b"u1")])

    assert features.inputs is None


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (("f", "FP64", [2], b"\0" * 15), "15 bytes for 2 cells of FP64"),
        (("f", "UINT8", [2], b"\0" * 2), "the datatype is none of BYTES, FP64, FP32, INT64, INT32, BOOL"),
        (("f", "FP64", [2, 1, 1], b"\0" * 16), "the shape is not [n] or [n, 1]"),
        (("f", "FP64", [], b"\0" * 8), "the shape is not [n] or [n, 1]"),
        (("f", "FP64", [-1], b""), "the shape is not [n] or [n, 1]"),
        (("f", "BYTES", [1], b"\xff\xff\xff\xffx"), "5 bytes that are not 1 strings after their lengths"),
        (("f", "BYTES", [2**62, 2**62], b""), f"a shape of more than {2**31} rows"),
    ],
)
def test_bytes_that_do_not_fit_are_refused_by_tensor(tensor: tuple[str, str, list[int], bytes], problem: str) -> None:
    with pytest.raises(FieldError) as raised:
        oip.parse_raw(*tensor)

    assert public_status(raised.value).text == f"tensor 'f': {problem}"


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ([], "tensor 'sample_id': needed, as BYTES of shape [-1]"),
        ([oip.parse_cells("sample_id", "FP64", [1], [1.0])], "tensor 'sample_id': needed, as BYTES of shape [-1]"),
        ([ids_tensor(b"u1"), ids_tensor(b"u1")], "inputs: a tensor is there twice"),
        ([ids_tensor(b"u1"), oip.parse_cells("f", "FP64", [2], [1, 2])], "tensor 'f': 2 rows, but 1 sample ids"),
        (
            [ids_tensor(b"u1", b"u2"), oip.parse_cells("f", "FP64", [1, 2], [1, 2])],
            "tensor 'f': the shape is not [n] or [n, 1]",
        ),
        ([ids_tensor(b"u1"), oip.parse_cells("f", "BYTES", [1], [b"\xff"])], "tensor 'f': a text is not UTF-8"),
        (
            [ids_tensor(b"u1"), oip.parse_cells("f", "BYTES", [1], [b"x" * 4_097])],
            "tensor 'f': a text of more than 4096 bytes",
        ),
        ([ids_tensor(b"u1"), oip.parse_cells("f", "BYTES", [2], [b"x", b"y"])], "tensor 'f': 2 rows, but 1 sample ids"),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_refused(tensors: list[oip.Tensor], problem: str) -> None:
    with pytest.raises(FieldError) as raised:
        oip.features_of(tensors)

    assert public_status(raised.value).text == problem


def test_more_ids_than_any_process_takes_are_refused() -> None:
    with pytest.raises(TooManySamplesError):
        oip.features_of([ids_tensor(*[b""] * 100_001)])


def test_versions_are_the_pinned_manifest_by_twelve_or_all_digits() -> None:
    for good in ("", "0123456789ab", INFO.manifest_sha256):
        oip.check_version(INFO, good)
    for bad in ("0123456789a", "1", INFO.manifest_sha256.upper()):
        with pytest.raises(ModelNotFoundError):
            oip.check_version(INFO, bad)


def test_metadata_name_the_version_and_the_width() -> None:
    metadata = oip.model_metadata(INFO)

    assert metadata.versions == ("0123456789ab",)
    assert metadata.inputs == (oip.TensorMetadata("sample_id", "BYTES", (-1,)),)
    assert metadata.outputs == (
        oip.TensorMetadata("prediction", "FP64", (-1, 1)),
        oip.TensorMetadata("status", "BYTES", (-1,)),
    )


def test_options_are_read_and_strangers_ignored() -> None:
    options = oip.parse_options({"mode": "offline", "allow_partial": True, "timeout": 2_000_000, "priority": 3})

    assert options == oip.Options(Mode.OFFLINE, 2.0, allow_partial=True)
    assert oip.parse_options({"timeout_ms": 500, "timeout": 2_000_000}).deadline_s == 0.5


@pytest.mark.parametrize(
    "parameters", [{"mode": "yesterday"}, {"mode": 1}, {"allow_partial": 1}, {"timeout_ms": 0}, {"timeout": "soon"}]
)
def test_an_option_of_another_type_is_refused_by_name(parameters: dict[str, oip.Parameter]) -> None:
    with pytest.raises(FieldError) as raised:
        oip.parse_options(parameters)

    assert raised.value.place == f"parameter {next(iter(parameters))}"


def test_unknown_and_repeated_outputs_are_refused() -> None:
    assert oip.check_outputs([]) == ("prediction", "status")
    assert oip.check_outputs(["status"]) == ("status",)
    for names in (["score"], ["status", "status"]):
        with pytest.raises(FieldError):
            oip.check_outputs(names)


def test_an_answer_has_nan_where_there_is_no_score_and_a_status_for_each_row() -> None:
    status, numbers = oip.output_tensors(prediction(OK, NOT_FOUND), ["status", "prediction"])

    assert status.to_raw() == b"\x02\0\0\0OK\x09\0\0\0NOT_FOUND"
    assert (numbers.datatype, numbers.shape) == ("FP64", (2, 2))
    read = np.frombuffer(numbers.to_raw(), dtype="<f8")
    assert read[:2].tolist() == [0.25, 0.75]
    assert np.isnan(read[2:]).all()


def test_rows_without_a_score_are_named_and_no_more_than_a_hundred() -> None:
    oip.check_all_scored(prediction(OK))
    with pytest.raises(UnscoredError) as one:
        oip.check_all_scored(prediction(OK, NOT_FOUND))
    with pytest.raises(UnscoredError) as many:
        oip.check_all_scored(prediction(*[NOT_FOUND] * 250))

    assert one.value.rows == "1 (NOT_FOUND)"
    assert many.value.rows.endswith("99 (NOT_FOUND), and 150 more")


def test_tensors_of_bytes_are_texts_beside_numbers() -> None:
    raw = b"\5\0\0\0baker\0\0\0\0\5\0\0\0baker"
    tensors = [
        ids_tensor(b"u1", b"u2", b"u3"),
        oip.parse_raw("job", "BYTES", [3, 1], raw),
        oip.parse_cells("age", "INT32", [3], [1, 2, 3]),
    ]

    inputs = oip.features_of(tensors).inputs

    assert inputs is not None
    assert (inputs.names, inputs.texts) == (("age", "job"), {"job": ("baker", "")})
    assert inputs.values.tolist() == [[1.0, 0.0], [2.0, 1.0], [3.0, 0.0]]
