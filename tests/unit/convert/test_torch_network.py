"""Networks of PyTorch, as state dicts and safetensors, with PyTorch's own outputs (see `torch_models/make.py`)."""

from __future__ import annotations

import base64
import functools
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from fedpredict.convert.child import read_content
from fedpredict.convert.options import Limits
from fedpredict.errors import FedPredictError, ModelConflictError, ModelFileError, UnsupportedModelError
from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Floats
from fedpredict.model.combination import combination_of
from fedpredict.model.network import NetworkPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from tests.unit.convert.support import options_for

FOLDER = Path(__file__).parent / "torch_models"
PATHS = sorted(FOLDER.glob("networks-*.json"))
ENTRIES = [
    pytest.param(path, name, kind, id=f"{path.stem}-{name}-{kind}")
    for path in PATHS
    for name in json.loads(path.read_text())["entries"]
    for kind in ("pt", "safetensors")
]


@functools.cache
def stored(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def file_of(name: str, kind: str = "pt", path: Path = PATHS[-1]) -> bytes:
    return base64.b64decode(stored(path)["files"][name][kind])


def read(data: bytes, layers: object, n_features: int = 3, limits: Limits | None = None, **more: Any) -> PartialModel:
    named = layers is not None and "inputs" in dict(layers)  # type: ignore[call-overload]
    given = {"features": None, **more} if named else more
    text = None if layers is None else json.dumps(layers)
    return read_content(data, options_for(n_features, layers=text, **given), limits or Limits()).partial


def codes_of(part: NetworkPart, inputs: Floats) -> Floats:
    """The inputs as the part's codes: rows 1 to 3 of the colours are its categories, row 0 is the unknown one."""
    result = inputs.copy()
    for column, name in enumerate(part.features):
        if name in part.categories:
            result[:, column] -= 1.0
    return result


def test_there_are_files_of_two_versions() -> None:
    assert len(PATHS) == 2


@pytest.mark.parametrize(("path", "name", "kind"), ENTRIES)
def test_a_network_gives_pytorchs_outputs(path: Path, name: str, kind: str) -> None:
    entry = stored(path)["entries"][name]
    inputs = np.array(entry["inputs"])

    partial = read(file_of(entry["file"], kind, path), entry["layers"])

    part = partial.part
    assert isinstance(part, NetworkPart)
    features = codes_of(part, inputs)
    assert part.statuses(features) is None
    found, terms = part.partial_scores(features), part.magnitudes(features)
    assert (np.abs(found - entry["float64"]) <= 1e-12 * np.maximum(terms, 1.0)).all()
    assert (np.abs(found - entry["float32"]) <= 1e-6 * np.maximum(terms, 1.0)).all()


def test_a_category_is_unknown_or_invalid_as_the_description_says() -> None:
    entry = stored(PATHS[-1])["entries"]["embedded"]
    part = read(file_of("embedded"), entry["layers"]).part

    assert part.categories == {"colour": ("red", "green", "blue")}
    rows = np.array([[0.5, -1.0, 3.0, 1.0], [0.5, 0.0, 4.0, 1.0], [0.5, 0.0, 1.5, 1.0], [0.5, np.nan, 0.0, 1.0]])
    statuses = part.statuses(rows)
    assert statuses is not None
    assert [SampleStatus(each).name for each in statuses] == [
        "OK", "FEATURE_INVALID", "FEATURE_INVALID", "FEATURE_MISSING",
    ]  # fmt: skip


def test_the_description_may_stand_in_the_metadata_of_a_safetensors_file() -> None:
    described = layers([{"linear": "a"}])
    tensors = {"a.weight": np.array([[2.0, 3.0, 4.0]]), "a.bias": np.array([1.0])}
    data = save(tensors, metadata={"fedpredict.layers": json.dumps(described)})

    partial = read(data, None)

    assert partial.part.partial_scores(np.ones((1, 3))).tolist() == [[10.0]]
    with pytest.raises(ModelConflictError, match="leave --layers out"):
        read(data, described)


def test_a_bottom_network_of_split_learning_may_end_with_any_activation_and_is_padded() -> None:
    tensors = {"a.weight": np.array([[2.0, 3.0, 4.0]]), "a.bias": np.array([1.0])}
    steps = [{"linear": "a"}, {"activation": "sigmoid"}]
    embedding = {"combining": "top_concat", "structure": "two", "n_outputs": 1, "n_scores": 2}
    described = {**layers(steps), "kind": "binary", "classes": ["no", "yes"]}

    partial = read(save(tensors), {**described, **embedding})

    expected = 1 / (1 + np.exp(-1.25))
    found = partial.part.partial_scores(np.array([[-1.0, 0.25, 0.375]]))
    np.testing.assert_allclose(found, [[expected, 0.0]], rtol=1e-15)
    assert combination_of(partial.part) is not None
    assert (partial.n_raw, partial.fit_intercept) == (1, False)
    with pytest.raises(ModelFileError, match="needs structure"):
        read(save(tensors), {**described, "combining": "top_sum"})
    with pytest.raises(ModelFileError, match="leave it out"):
        read(save(tensors), described)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", "<i8"])
def test_element_types_become_float64(dtype: str) -> None:
    weights = np.array([[1.0, -2.0, 0.0]], dtype=dtype)

    partial = read(save({"w": weights}), layers([{"linear": {"weight": "w"}}]))

    assert partial.part.partial_scores(np.array([[3.0, 1.0, 5.0]])).tolist() == [[1.0]]


def layers(steps: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"format": "fedpredict-layers-1", "kind": "linear", "layers": steps, **more}


def torch_file(
    records: dict[str, bytes], tensors: dict[str, tuple[Any, ...]], *, extra: dict[str, bytes] | None = None
) -> bytes:
    """An archive as torch.save writes it: tensor -> (storage's name, record, count, offset, shape, strides)."""
    pickled = b"\x80\x02}("
    for name, (storage, record, count, offset, shape, strides) in tensors.items():
        pickled += _plain(name) + b"ctorch._utils\n_rebuild_tensor_v2\n("
        pickled += b"(" + _plain("storage") + f"ctorch\n{storage}\n".encode() + _plain(record) + _plain("cpu")
        pickled += _plain(count) + b"tQ" + _plain(offset) + _plain(shape) + _plain(strides) + b"\x89NtR"
    pickled += b"u."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        for name, content in {**{f"data/{key}": value for key, value in records.items()}, **(extra or {})}.items():
            archive.writestr(f"m/{name}", content)
    return file.getvalue()


def _plain(value: object) -> bytes:
    """The opcodes of a text, an integer or a tuple of integers."""
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value)) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_plain, value)) + b"t"
    return pickle.dumps(value, protocol=2)[2:-1]


NUMBERS = np.arange(1.0, 7.0)
DENSE = layers([{"linear": {"weight": "w"}}])


def one(record: bytes | None = None, **changes: Any) -> bytes:
    given = {"storage": "DoubleStorage", "record": "0", "count": 6, "offset": 0, "shape": (2, 3), "strides": (3, 1)}
    values = tuple({**given, **changes}.values())
    return torch_file({"0": NUMBERS.astype("<f8").tobytes() if record is None else record}, {"w": values})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(one(), [[1, 4], [2, 5], [3, 6]], id="rows"),
        pytest.param(one(strides=(1, 2)), [[1, 2], [3, 4], [5, 6]], id="columns"),
        pytest.param(one(offset=3, shape=(1, 3)), [[4], [5], [6]], id="offset"),
        pytest.param(one(shape=(2, 3), strides=(0, 1)), [[1, 1], [2, 2], [3, 3]], id="expanded"),
        pytest.param(
            torch_file(
                {"0": NUMBERS.astype(">f4").tobytes()},
                {"w": ("FloatStorage", "0", 6, 0, (2, 3), (3, 1))},
                extra={"byteorder": b"big"},
            ),
            [[1, 4], [2, 5], [3, 6]],
            id="big endian",
        ),
        pytest.param(
            one((NUMBERS.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(), storage="BFloat16Storage"),
            [[1, 4], [2, 5], [3, 6]],
            id="bfloat16",
        ),
    ],
)
def test_a_tensor_is_the_view_of_its_storage_that_the_file_says(data: bytes, expected: list[list[float]]) -> None:
    part = read(data, DENSE).part

    assert isinstance(part, NetworkPart)
    assert part.layers[0].weights.tolist() == expected


def damaged(data: bytes) -> bytes:
    at = data.index(NUMBERS.astype("<f8").tobytes())
    return data[:at] + b"\xff" + data[at + 1 :]


def header(content: object, tail: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + tail


def entry(begin: int, end: int, shape: list[int], dtype: str = "F64") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "beyond the storage": (one(offset=1), "reaches beyond its storage"),
    "a stride beyond": (one(strides=(4, 1)), "reaches beyond its storage"),
    "a negative stride": (one(strides=(-3, 1)), "negative"),
    "a negative offset": (one(offset=-1), "negative"),
    "another count": (one(count=7), "says 7 elements"),
    "no record": (one(record=b"", count=0), "reaches beyond"),
    "a missing record": (torch_file({}, {"w": ("DoubleStorage", "9", 0, 0, (0,), (1,))}), "no record"),
    "an unknown storage": (one(storage="ComplexStorage"), "which no network needs"),
    "a damaged record": (damaged(one()), "cannot be unpacked"),
    "a byte order": (torch_file({}, {}, extra={"byteorder": b"odd"}), "byte order"),
    "cut off": (one()[:-40], "damaged"),
    "another archive": (torch_file({}, {}).replace(b"data.pkl", b"cata.pkl"), "torch.save"),
    "a script": (torch_file({}, {}, extra={"code/m.py": b"x"}), "TorchScript"),
    "expanded to gigabytes": (one(shape=(10**5, 10**5), strides=(0, 0)), "take more than"),
    "overlap": (header({"a": entry(0, 8, [1]), "b": entry(0, 8, [1])}, bytes(8)), "overlap"),
    "a hole": (header({"a": entry(8, 16, [1])}, bytes(16)), "overlap, or leave a hole"),
    "behind the end": (header({"a": entry(0, 16, [2])}, bytes(8)), "take 16 bytes, 8 are there"),
    "bytes left": (header({"a": entry(0, 8, [1])}, bytes(16)), "take 8 bytes, 16 are there"),
    "another shape": (header({"a": entry(0, 8, [2])}, bytes(8)), "does not fit its 8 bytes"),
    "a negative size": (header({"a": entry(0, 8, [-1])}, bytes(8)), "no shape"),
    "an unknown type": (header({"a": entry(0, 8, [1], "F8_E4M3")}, bytes(8)), "no network needs"),
    "no offsets": (header({"a": {"dtype": "F64", "shape": [1]}}, bytes(8)), "no offsets"),
    "no JSON": (struct.pack("<Q", 4) + b"{xx}", "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_made_to_attack_is_refused(name: str) -> None:
    data, message = HOSTILE[name]

    with pytest.raises(FedPredictError, match=message):
        read(data, DENSE)


def test_what_a_file_unpacks_to_is_counted() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(10**6))

    with pytest.raises(ModelFileError, match="unpacks to more than 1000 bytes"):
        read(file.getvalue(), DENSE, limits=Limits(unpacked_bytes=1000))


def test_persistent_ids_are_refused_everywhere_else() -> None:
    with pytest.raises(ModelFileError, match="BINPERSID"):
        read_content(b"\x80\x02X\x01\x00\x00\x00aQ.", options_for(1), Limits())


def test_a_file_of_before_pytorch_1_6_is_told() -> None:
    with pytest.raises(UnsupportedModelError, match=r"before 1\.6"):
        read_content(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), options_for(1), Limits())


TENSORS = {"0.weight": np.ones((4, 3)), "0.bias": np.zeros(4), "2.weight": np.ones((2, 4))}
GOOD: list[dict[str, Any]] = [{"linear": "0"}, {"activation": "relu"}, {"linear": "2"}]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (layers([*GOOD, {"linear": "0"}]), r"'0.weight' has shape \[4, 3\] instead of \[any, 2\]"),
        (layers(GOOD[:1]), "does not use the tensors '2.weight'"),
        (layers([{"linear": "1"}]), "no tensor '1.weight'"),
        (layers([{"linear": {"weight": "0.weight", "bias": "bias"}}]), "no tensor 'bias'"),
        (layers([{"activation": "swish"}]), "unknown activation 'swish'"),
        (layers([{"activation": "relu"}, *GOOD]), "begin with a linear one"),
        (layers([{"activation": "leaky_relu"}]), "needs its slope"),
        (layers([{"activation": "relu", "slope": 0.1}]), "no other activation has one"),
        (layers([{"dropout": 0.5}]), "leave out what does nothing"),
        (layers([]), "needs layers"),
        (layers(GOOD, colour="red"), "unknown key 'colour'"),
        (layers(GOOD, prefix="net."), "no tensor's name starts with 'net.'"),
        (layers(GOOD, intercept="0.bias"), r"shape \[4\] instead of \[2\]"),
        (layers(GOOD, inputs=["a", "b"]), "the features give 2"),
        (layers([*GOOD, {"batch_norm": "3"}]), "no tensor '3.running_mean'"),
        ({**layers([*GOOD, {"activation": "softmax"}]), "kind": "multinomial", "classes": ["a", "b"]}, "leave it out"),
        ({**layers(GOOD), "kind": "binary", "classes": ["a", "b"]}, "needs 1 scores"),
        ({**layers(GOOD), "format": "other"}, "needs format"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_by_name(described: dict[str, Any], message: str) -> None:
    with pytest.raises(FedPredictError, match=message):
        read(save(TENSORS), described)


def test_tensors_that_predictions_do_without_may_be_ignored() -> None:
    tensors = {"net.w": np.ones((1, 3)), "net.old.a": np.ones(1), "net.old.b": np.ones(1), "other": np.ones(1)}

    partial = read(save(tensors), layers([{"linear": {"weight": "w"}}], prefix="net.", ignore=["old.*"]))

    assert partial.part.n_scores == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ModelFileError, match="tensor 'w' holds NaN or an infinity"):
        read(save({"w": np.array([[1.0, bad, 1.0]])}), DENSE)


def test_a_variance_that_is_not_above_zero_is_refused() -> None:
    tensors = {"n.running_mean": np.zeros(3), "n.running_var": np.array([1.0, -1.0, 1.0]), "w": np.ones((1, 3))}

    with pytest.raises(ModelFileError, match="not above zero"):
        read(save(tensors), layers([{"batch_norm": "n"}, {"linear": {"weight": "w"}}]))


def test_tensors_without_a_description_and_a_description_without_tensors_are_refused() -> None:
    with pytest.raises(ModelFileError, match="describe the layers with --layers"):
        read(save(TENSORS), None)
    with pytest.raises(ModelConflictError, match="and this is neither"):
        read(b"{}", layers(GOOD))


def test_the_intercept_is_the_tensor_that_the_description_names() -> None:
    tensors = {"w": np.ones((1, 3)), "joint": np.array([2.5])}

    partial = read(save(tensors), layers([{"linear": {"weight": "w"}}], intercept="joint"))

    assert partial.holds_intercept
    assert partial.part.partial_scores(np.zeros((1, 3))).tolist() == [[2.5]]
    with pytest.raises(ModelConflictError, match="who holds the intercept"):
        read(save({"w": np.ones((1, 3))}), layers([{"linear": {"weight": "w"}}]), holds_intercept=True)


def test_every_activation_can_be_named() -> None:
    for each in Activation:
        slope = {"slope": 0.5} if each is Activation.LEAKY_RELU else {}
        steps: list[dict[str, Any]] = [{"linear": {"weight": "w"}}, {"activation": each.value, **slope}]
        part = read(save({"w": np.ones((2, 3))}), layers(steps)).part
        assert isinstance(part, NetworkPart)
        assert part.layers[0].activation is each
