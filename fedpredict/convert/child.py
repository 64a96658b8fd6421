"""The reading process: a model file in, a portable partial model or an error out. Started by `sandbox`."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from fedpredict.convert.arrays import ArrayReader
from fedpredict.convert.confine import confine
from fedpredict.convert.containers import is_json, unpack
from fedpredict.convert.exposure import check_applied
from fedpredict.convert.head_form import HeadReading, head_from_portable, head_to_portable, is_head
from fedpredict.convert.joblib_file import read_payload
from fedpredict.convert.layers_file import parse_below
from fedpredict.convert.lightgbm_file import read_lightgbm, read_lightgbm_pickle
from fedpredict.convert.lightgbm_text import is_lightgbm
from fedpredict.convert.nodes import Budget, Node, Pairs
from fedpredict.convert.opcodes import Cursor
from fedpredict.convert.options import SMALLER, Limits, ReadOptions
from fedpredict.convert.portable import FORMAT, from_portable, parse_json, to_portable
from fedpredict.convert.sklearn_file import Reading, read_sklearn, read_sklearn_top
from fedpredict.convert.torch_network import holds_tensors, read_tensors
from fedpredict.convert.unpickle import unpickle
from fedpredict.convert.values import PlainReader, described
from fedpredict.convert.xgboost_document import is_xgboost
from fedpredict.convert.xgboost_file import read_xgboost, read_xgboost_pickle
from fedpredict.errors import FedPredictError, ModelConflictError, ModelFileError, UnsupportedModelError

_MAX_MESSAGE = 4000
_PICKLE_START = b"\x80"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the parent asks for, as JSON on standard input: `{"descriptor", "options", "limits"}`."""

    descriptor: int
    options: ReadOptions
    limits: Limits


def read_content(data: bytes, options: ReadOptions, limits: Limits) -> Reading:
    """Return the partial model in the bytes of a model file, as `read_either`; a head is refused."""
    reading = read_either(data, options, limits)
    if isinstance(reading, HeadReading):
        raise ModelConflictError("this is a head, for the initiator alone, and no party's part")
    return reading


def read_either(data: bytes, options: ReadOptions, limits: Limits) -> Reading | HeadReading:
    """Return the partial model, or the head, in the bytes of a model file.

    Args:
        data: The whole file, compressed or not.
        options: What the operator adds.
        limits: What reading may cost.

    Raises:
        ConversionError: One of its leaves; nothing in the file was run.
    """
    if holds_tensors(data):
        return read_tensors(data, options, limits)
    content = unpack(data, limits.unpacked_bytes)
    if options.layers is not None:
        return _top(content, options.layers, options, limits)
    if is_xgboost(content):
        return read_xgboost(content, options, limits)
    if is_lightgbm(content):
        return read_lightgbm(content, options)
    if is_json(content):
        return _from_plain(parse_json(_utf8(content)), "JSON", options)
    arrays = ArrayReader(limits.array_bytes)
    return _from_value(_root(content, limits), arrays, options, limits)


def _top(content: bytes, layers: str, options: ReadOptions, limits: Limits) -> HeadReading:
    """The only other file that a description goes with: a top model that a library saved as one of its own models."""
    value = None if is_xgboost(content) or is_lightgbm(content) or is_json(content) else _root(content, limits)
    if not isinstance(value, Node) or not value.path.startswith("sklearn."):
        raise ModelConflictError(
            "--layers describes the tensors of a PyTorch or safetensors file, or what is below a top model of "
            "scikit-learn, and this is neither"
        )
    return read_sklearn_top(value, ArrayReader(limits.array_bytes), parse_below(layers), options)


def _utf8(content: bytes) -> str:
    try:
        return str(content, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelFileError("the file looks like JSON, but is not UTF-8") from error


def _root(content: bytes, limits: Limits) -> object:
    """The inert value at the root of a pickle that fills the content."""
    cursor = Cursor(content)
    try:
        value = unpickle(cursor, Budget(limits.operations), read_payload)
    except ModelFileError as error:
        if content.startswith(_PICKLE_START):
            raise
        raise ModelFileError(
            "the file is neither a pickle nor a portable partial model, nor a file of XGBoost, LightGBM, PyTorch or "
            f"safetensors ({error})"
        ) from error
    if cursor.remaining:
        # One pickle is one model: what follows is damage, or a second object that would be ignored silently.
        raise ModelFileError(f"{cursor.remaining} bytes follow the end of the pickle")
    return value


def _from_value(value: object, arrays: ArrayReader, options: ReadOptions, limits: Limits) -> Reading | HeadReading:
    if isinstance(value, Node) and value.path.startswith("sklearn."):
        return read_sklearn(value, arrays, options)
    if isinstance(value, Node) and value.path.startswith("xgboost."):
        return read_xgboost_pickle(value, arrays, options, limits)
    if isinstance(value, Node) and value.path.startswith("lightgbm."):
        return read_lightgbm_pickle(value, arrays, options)
    plain = PlainReader(arrays, limits.operations).read(value, "the file") if _is_dict(value) else None
    if isinstance(plain, dict):
        return _from_plain(plain, "pickle", options)
    raise UnsupportedModelError(
        f"the file holds {described(value)}; supported are scikit-learn's linear models, trees, perceptrons and "
        "pipelines, models of XGBoost and LightGBM (no class of one's own that derives from theirs), state dicts of "
        f"PyTorch as torch.save writes them, and portable partial models (a dict with format '{FORMAT}')"
    )


def _from_plain(content: Mapping[str, object], form: str, options: ReadOptions) -> Reading | HeadReading:
    if is_head(content):
        return HeadReading(head_from_portable(content, options), f"portable head ({form})")
    return Reading(from_portable(content, options), f"portable partial model ({form})")


def _is_dict(value: object) -> bool:
    return isinstance(value, Pairs) or (isinstance(value, Node) and value.path == "collections.OrderedDict")


def _answer(request: Request, *, isolated: bool) -> dict[str, object]:
    with os.fdopen(request.descriptor, "rb") as file:
        data = file.read(request.limits.file_bytes + 1)
    reading = read_either(data, request.options, request.limits)
    answer: dict[str, object] = {
        "source": reading.source,
        "source_sha256": hashlib.sha256(data).hexdigest(),
        "network_isolated": isolated,
    }
    if isinstance(reading, HeadReading):
        return answer | {"head": head_to_portable(reading.head)}
    check_applied(reading.partial, request.options)
    constants = reading.feature_constants
    return answer | {
        "partial": to_portable(reading.partial),
        "feature_constants": None if constants is None else constants.tolist(),
    }


def _encoded(answer: dict[str, object]) -> str:
    """Return an answer as JSON; half a surrogate pair, which no table or message can hold, is refused."""
    text = json.dumps(answer, allow_nan=False)
    if "\\ud" in text:  # mostly a whole pair, or a backslash in a name
        try:
            json.dumps(answer, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ModelFileError("a name or text in the file holds half a character (a lone surrogate)") from error
    return text


def _guarded(request: Request) -> str:
    isolated = confine(request.limits.memory_bytes, request.limits.cpu_s)
    try:
        return _encoded(_answer(request, isolated=isolated))
    except FedPredictError as error:
        told, names = str(error)[:_MAX_MESSAGE], getattr(error, "names", ())
        return json.dumps({"error": type(error).__name__, "message": told, "names": names})
    except MemoryError:
        told = f"reading the file takes more than {request.limits.memory_bytes} bytes of memory: {SMALLER}"
        return json.dumps({"error": "ModelFileError", "message": told})
    except Exception as error:  # noqa: BLE001  the edge of this process: whatever went wrong, the file is unreadable
        return json.dumps({"error": "ModelFileError", "message": f"the file is damaged ({type(error).__name__})"})


def main() -> None:
    """Read one request from standard input, write one answer to standard output, both JSON."""
    gc.disable()  # one file, then the process ends: collecting would only walk through the same values again
    asked = json.load(sys.stdin.buffer)
    options = asked["options"]
    if options["features"] is not None:
        options["features"] = tuple(options["features"])
    request = Request(descriptor=asked["descriptor"], options=ReadOptions(**options), limits=Limits(**asked["limits"]))
    sys.stdout.write(_guarded(request))
    sys.stdout.flush()
