"""Pickles made to attack, put together opcode by opcode: each way to make Python call something, and each lie.

`FIRING` are those that run a command where `pickle.loads` reads them (`touch CANARY`); `LYING` are those that would
crash, exhaust or deceive a reader.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import zstandard
from typing_extensions import override

Payload = Callable[[str], bytes]


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def octets(value: bytes) -> bytes:
    """BINBYTES."""
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    """LONG1."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(module: str, name: str) -> bytes:
    """GLOBAL."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def pair_named(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def tuple_of(*items: bytes) -> bytes:
    """MARK, items, TUPLE."""
    return b"(" + b"".join(items) + b"t"


def dict_of(*pairs: tuple[bytes, bytes]) -> bytes:
    """EMPTY_DICT and a SETITEM for each pair."""
    return b"}" + b"".join(key + value + b"s" for key, value in pairs)


def call(callee: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return callee + tuple_of(*arguments) + b"R"


SYSTEM = named("posix", "system")


def touch(canary: str) -> bytes:
    """The command, as a text."""
    return text(f"touch {canary}")


def run(canary: str) -> bytes:
    """The plainest attack, without STOP."""
    return call(SYSTEM, touch(canary))


def code(canary: str) -> str:
    """Python that does the same."""
    return f"open({canary!r}, 'w').close()"


def nested(canary: str) -> bytes:
    """The plainest attack as a pickle of its own."""
    return run(canary) + b"."


def import_os() -> bytes:
    """The module os as a value."""
    return call(named("builtins", "__import__"), text("os"))


@dataclass(frozen=True)
class Attack:
    """One pickle.

    Attributes:
        payload: The canary's path -> the whole file.
        told: What the error says; a regular expression.
    """

    payload: Payload
    told: str


def _calls(module: str, name: str, *arguments: Callable[[str], bytes], told: str = "") -> Attack:
    def payload(canary: str) -> bytes:
        return call(named(module, name), *(argument(canary) for argument in arguments)) + b"."

    return Attack(payload, told or rf"the file holds {module}\.{name}")


def _py(canary: str) -> bytes:
    return text(code(canary))


FIRING: dict[str, Attack] = {
    # every spelling of a call
    "global_reduce": Attack(lambda c: run(c) + b".", r"posix\.system"),
    "stack_global_reduce": Attack(
        lambda c: b"\x80\x04" + call(pair_named("os", "system"), touch(c)) + b".", r"os\.system"
    ),
    "inst": Attack(lambda c: b"(" + touch(c) + b"iposix\nsystem\n.", r"posix\.system"),
    "obj": Attack(lambda c: b"(" + SYSTEM + touch(c) + b"o.", r"posix\.system"),
    "newobj": Attack(
        # __new__ of a map runs nothing, but making a list of it does
        lambda c: (
            b"\x80\x02"
            + named("builtins", "list")
            + tuple_of(named("builtins", "map") + tuple_of(SYSTEM, tuple_of(touch(c))) + b"\x81")
            + b"R."
        ),
        r"builtins\.list",
    ),
    "newobj_ex": Attack(
        lambda c: (
            b"\x80\x04"
            + named("builtins", "list")
            + tuple_of(named("builtins", "map") + tuple_of(SYSTEM, tuple_of(touch(c))) + b"}\x92")
            + b"R."
        ),
        r"builtins\.list",
    ),
    "build_setstate": Attack(
        # a class gets a __setstate__ that is os.system, and an object of it a state
        lambda c: (
            named("collections", "UserDict")
            + tuple_of(b"N", dict_of((text("__setstate__"), SYSTEM)))
            + b"b0"
            + named("collections", "UserDict")
            + b")\x81"
            + touch(c)
            + b"b."
        ),
        "changes the state of a Name",
    ),
    "build_partial": Attack(
        lambda c: (
            call(named("functools", "partial"), named("builtins", "print"))
            + tuple_of(SYSTEM, tuple_of(touch(c)), b"}", b"N")
            + b"b)R."
        ),
        "an object without a name",
    ),
    "dotted_name": Attack(
        lambda c: b"\x80\x04" + call(pair_named("shutil", "os.system"), touch(c)) + b".", r"shutil\.os\.system"
    ),
    "reduce_chain": Attack(
        lambda c: call(call(named("builtins", "getattr"), import_os(), text("system")), touch(c)) + b".",
        "an object without a name",
    ),
    "reduce_of_reduce": Attack(
        lambda c: call(call(named("operator", "methodcaller"), text("system"), touch(c)), import_os()) + b".",
        "an object without a name",
    ),
    # every sort of place
    "dict_key": Attack(lambda c: b"}" + run(c) + b"Ns.", "a key that is posix.system, not a text"),
    "dict_value": Attack(lambda c: dict_of((text("format"), run(c))) + b".", r"format is posix\.system"),
    "list_item": Attack(lambda c: b"](" + run(c) + b"e.", "holds a list"),
    "set_item": Attack(lambda c: b"\x80\x04\x8f(" + run(c) + b"\x90.", "holds a list"),
    "frozenset_item": Attack(lambda c: b"\x80\x04(" + run(c) + b"\x91.", "holds a list"),
    "tuple_item": Attack(lambda c: tuple_of(run(c)) + b".", "holds a tuple"),
    "behind_stop": Attack(lambda c: run(c) + b"." + run(c) + b".", "bytes follow the end"),
    # memo tricks
    "memo_overwritten": Attack(
        lambda c: named("builtins", "print") + b"p0\n0" + SYSTEM + b"p0\n0" + b"g0\n" + tuple_of(touch(c)) + b"R.",
        r"posix\.system",
    ),
    "memo_parts": Attack(
        lambda c: (
            b"\x80\x04"
            + text("posix")
            + b"\x940"
            + text("system")
            + b"\x940"
            + b"h\x00h\x01\x93"
            + tuple_of(touch(c))
            + b"R."
        ),
        r"posix\.system",
    ),
    "memo_far": Attack(
        lambda c: SYSTEM + b"r\x00\x00\x10\x000" + b"j\x00\x00\x10\x00" + tuple_of(touch(c)) + b"R.", r"posix\.system"
    ),
    "memoize_over_put": Attack(
        lambda c: named("builtins", "print") + b"q\x010" + SYSTEM + b"q\x000" + b"h\x00" + tuple_of(touch(c)) + b"R.",
        r"posix\.system",
    ),
    # every friend of os.system
    "eval": _calls("builtins", "eval", lambda c: text(f"__import__('os').system('touch {c}')")),
    "exec": _calls("builtins", "exec", _py),
    "python2_eval": _calls("__builtin__", "eval", lambda c: text(f"__import__('os').system('touch {c}')")),
    "popen": _calls("subprocess", "Popen", lambda c: tuple_of(text("touch"), text(c))),
    "check_output": _calls("subprocess", "check_output", lambda c: tuple_of(text("touch"), text(c))),
    "os_popen": _calls("os", "popen", touch),
    "open": _calls("builtins", "open", text, lambda _: text("w")),
    "io_open": _calls("io", "open", text, lambda _: text("w")),
    "file_io": _calls("_io", "FileIO", text, lambda _: text("w")),
    "pathlib": Attack(
        lambda c: (
            b"\x80\x04" + call(pair_named("pathlib", "Path.touch"), call(named("pathlib", "Path"), text(c))) + b"."
        ),
        r"pathlib\.Path\.touch",
    ),
    "timeit": _calls(
        "timeit", "timeit", _py, lambda _: text("pass"), lambda _: named("time", "time"), lambda _: b"K\x01"
    ),
    "run_code": _calls("runpy", "_run_code", _py, lambda _: b"}"),
    "run_statement": _calls("cProfile", "run", _py),
    "loads": _calls("pickle", "loads", lambda c: octets(nested(c))),
    "c_loads": _calls("_pickle", "loads", lambda c: octets(nested(c))),
    "unpickler": Attack(
        lambda c: (
            b"\x80\x04"
            + call(
                pair_named("pickle", "_Unpickler.load"),
                call(named("pickle", "_Unpickler"), call(named("io", "BytesIO"), octets(nested(c)))),
            )
            + b"."
        ),
        r"pickle\._Unpickler\.load",
    ),
    "loads_of_loads": _calls(
        "pickle", "loads", lambda c: octets(call(named("pickle", "loads"), octets(nested(c))) + b".")
    ),
    "marshal": Attack(
        lambda c: (
            call(
                call(
                    named("types", "FunctionType"),
                    call(named("marshal", "loads"), octets(_compiled(c))),
                    call(named("builtins", "globals")),
                    text("f"),
                )
            )
            + b"."
        ),
        "an object without a name",
    ),
    "joblib_load": Attack(
        lambda c: call(named("joblib", "load"), call(named("io", "BytesIO"), octets(nested(c)))) + b".",
        r"joblib\.load",
    ),
    "numpy_load": Attack(
        lambda c: (
            call(named("functools", "partial"), named("builtins", "print"))
            + tuple_of(
                named("numpy", "load"),
                tuple_of(call(named("io", "BytesIO"), octets(nested(c)))),
                dict_of((text("allow_pickle"), b"\x88")),
                b"N",
            )
            + b"b)R."
        ),
        "an object without a name",
    ),
    "ctypes": Attack(
        lambda c: (
            call(
                call(named("builtins", "getattr"), call(named("ctypes", "CDLL"), b"N"), text("system")),
                octets(f"touch {c}".encode()),
            )
            + b"."
        ),
        "an object without a name",
    ),
    "class_of_a_library": Attack(
        lambda c: (
            call(named("sklearn.linear_model._logistic", "LogisticRegression"))
            + dict_of((text("coef_"), run(c)), (text("_sklearn_version"), text("1.5.0")))
            + b"b."
        ),
        r"LogisticRegression\.coef_ is not an array",
    ),
}


def _compiled(canary: str) -> bytes:
    import marshal

    return marshal.dumps(compile(code(canary), "x", "exec"))


def dtype(kind: str, *state: bytes) -> bytes:
    """A `numpy.dtype` and the eight fields of its state."""
    node = call(named("numpy", "dtype"), text(kind), b"\x89", b"\x88")
    return node + (tuple_of(*state) + b"b" if state else b"")


def plain_dtype(kind: str = "f8", order: str = "<") -> bytes:
    """As numpy writes one without fields."""
    return dtype(kind, b"K\x03", text(order), b"N", b"N", b"N", *[b"J\xff\xff\xff\xff"] * 2, b"K\x00")


def array(shape: bytes, kind: bytes, data: bytes, fortran: bytes = b"\x89") -> bytes:
    """As numpy writes one: `_reconstruct` and its state."""
    made = call(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "ndarray"), tuple_of(b"K\x00"),
                octets(b"b"))  # fmt: skip
    return made + tuple_of(b"K\x01", shape, kind, fortran, data) + b"b"


def weights(value: bytes) -> bytes:
    """A portable partial model whose weights are `value`, with STOP."""
    said = {"format": "fedpredict-partial-1", "model_id": "m", "training_run": "r", "party": "bank", "kind": "linear"}
    pairs = [(text(key), text(item)) for key, item in said.items()]
    return dict_of(*pairs, (text("fit_intercept"), b"\x89"), (text("weights"), value)) + b"."


def _array(shape: bytes, kind: bytes, data: bytes, fortran: bytes = b"\x89") -> bytes:
    return weights(array(shape, kind, data, fortran))


SIXTEEN = octets(bytes(16))
TWO = tuple_of(b"K\x02")


def _field(kind: str, offset: bytes) -> bytes:
    return tuple_of(plain_dtype(kind), offset)


def _record(size: bytes, *fields: tuple[str, bytes], names: tuple[str, ...] | None = None) -> bytes:
    told = [name for name, _ in fields] if names is None else names
    return dtype("V16", b"K\x03", text("|"), b"N", tuple_of(*map(text, told)),
                 dict_of(*((text(name), value) for name, value in fields)), size, b"K\x01", b"K\x10")  # fmt: skip


def laughs(levels: int) -> bytes:
    """A list of ten times the same list of ten times the same list ..."""
    inner = b"](" + b"K\x01" * 10 + b"e" + b"q\x00"
    for level in range(levels):
        inner += b"0](" + bytes([ord("h"), level]) * 10 + b"e" + bytes([ord("q"), level + 1])
    return inner


LYING: dict[str, Attack] = {
    # beyond the file
    "ext1": Attack(lambda _: b"\x80\x02\x82\xf0)R.", "EXT1"),
    "ext2": Attack(lambda _: b"\x80\x02\x83\xf0\x01)R.", "EXT2"),
    "ext4": Attack(lambda _: b"\x80\x02\x84\xf0\x01\x00\x00)R.", "EXT4"),
    "persid": Attack(lambda c: b"P" + c.encode() + b"\n.", "PERSID"),
    "binpersid": Attack(lambda c: text(c) + b"Q.", "BINPERSID"),
    "next_buffer": Attack(lambda _: b"\x80\x05\x97.", "NEXT_BUFFER"),
    "readonly_buffer": Attack(lambda _: b"\x80\x05" + octets(b"x") + b"\x98.", "READONLY_BUFFER"),
    # lengths
    "bytes8_of_an_exabyte": Attack(lambda _: b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.", "announced"),
    "text8_of_an_exabyte": Attack(lambda _: b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x.", "announced"),
    "bytearray8_of_an_exabyte": Attack(lambda _: b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"x.", "announced"),
    "long4_negative": Attack(lambda _: b"\x8b\xff\xff\xff\xff1.", "announced"),
    "long4_of_two_gigabytes": Attack(lambda _: b"\x8b\xff\xff\xff\x7f1.", "whole number of 2147483647 bytes"),
    "string_negative": Attack(lambda _: b"T\xff\xff\xff\xffx.", "announced"),
    "frame_longer_than_the_file": Attack(lambda _: b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "frame"),
    "decimal_of_a_million_digits": Attack(lambda _: b"I" + b"9" * 10**6 + b"\n.", "line without an end"),
    # memo
    "memo_missing": Attack(lambda _: b"j\xff\xff\xff\xff.", "memo entry 4294967295 is missing"),
    "memo_negative": Attack(lambda _: b"g-1\n.", "memo entry -1 is missing"),
    "memo_of_400_digits": Attack(lambda _: b"Np" + b"9" * 399 + b"\n0g1\n.", "memo entry 1 is missing"),
    # shapes of values
    "list_in_itself": Attack(lambda _: weights(b"]q\x00h\x00a"), "nested too deeply"),
    "dict_in_itself": Attack(lambda _: weights(b"}q\x00" + text("k") + b"h\x00s"), "nested too deeply"),
    "dict_as_its_own_key": Attack(lambda _: b"}q\x00h\x00Ns.", "a key that is a dict, not a text"),
    "tuple_in_itself": Attack(lambda _: weights(b"]q\x00\x85q\x010h\x00h\x01a0h\x01"), "nested too deeply"),
    "billion_laughs": Attack(lambda _: weights(laughs(7)), "nested too deeply or too large"),
    "many_laughs": Attack(lambda _: weights(laughs(100)), "nested too deeply or too large"),
    "tuples_fifty_thousand_deep": Attack(lambda _: weights(b")" + b"\x85" * 50_000), "nested too deeply"),
    "marks": Attack(lambda _: b"(" * 100_000 + b".", "nests more than 1000"),
    "same_key_twice": Attack(lambda _: dict_of((text("a"), b"N"), (text("a"), b"N")) + b".", "the key 'a' twice"),
    "endless_operations": Attack(lambda _: b"N0" * 200_000 + b"N.", "more than 100000 operations"),
    "calls_ten_thousand_deep": Attack(lambda _: SYSTEM + b")R" * 10_000 + b".", "an object without a name"),
    # element types
    "objects_as_bytes": Attack(lambda _: _array(TWO, plain_dtype("O8", "|"), SIXTEEN), "does not fit its values"),
    "objects_in_an_item": Attack(lambda _: _array(TWO, _record(b"K\x10", ("a", _field("O8", b"K\x00"))), SIXTEEN),
                                 "a field that is no number"),
    "field_before_the_item": Attack(lambda _: _array(TWO, _record(b"K\x10", ("a", _field("f8", number(-8)))), SIXTEEN),
                                    "a field that is no number"),
    "field_behind_the_item": Attack(lambda _: _array(TWO, _record(b"K\x10", ("a", _field("f8", b"K\x0c"))), SIXTEEN),
                                    "outside the item"),
    "fields_not_as_named": Attack(
        lambda _: _array(TWO, _record(b"K\x10", ("a", _field("f8", b"K\x00")), names=("b",)), SIXTEEN),
        "not those that it names"),
    "item_of_another_size": Attack(
        lambda _: _array(TWO, _record(number(2**40), ("a", _field("f8", b"K\x00"))), SIXTEEN),
                                   "not those that it names"),
    "subarray": Attack(
        lambda _: _array(TWO, dtype("f8", b"K\x03", text("<"), tuple_of(plain_dtype(), TWO), b"N", b"N",
                                    *[b"J\xff\xff\xff\xff"] * 2, b"K\x00"), SIXTEEN), "fields inside an item"),
    "wrong_item_size": Attack(
        lambda _: _array(TWO, dtype("f8", b"K\x03", text("<"), b"N", b"N", b"N", number(2**50), b"K\x01", b"K\x00"),
                         SIXTEEN), "wrong size"),
    "text_of_a_gigabyte": Attack(lambda _: _array(TWO, plain_dtype("U999999999"), SIXTEEN), "no model needs"),
    "datetime": Attack(lambda _: _array(TWO, plain_dtype("M8"), SIXTEEN), "no model needs"),
    "unknown_byte_order": Attack(lambda _: _array(TWO, plain_dtype("f8", "!"), SIXTEEN), "without a byte order"),
    "type_by_a_comma_text": Attack(lambda _: _array(TWO, plain_dtype("f8,O"), SIXTEEN), "no model needs"),
    "type_that_is_called": Attack(lambda c: _array(TWO, run(c), SIXTEEN), "without an element type"),
    "metadata_that_is_called": Attack(
        lambda c: _array(TWO, dtype("f8", b"K\x04", text("<"), b"N", b"N", run(c), *[b"J\xff\xff\xff\xff"] * 2,
                                    b"K\x00"), SIXTEEN), "fields inside an item"),
    "characters_beyond_unicode": Attack(
        lambda _: _array(tuple_of(b"K\x01"), plain_dtype("U4"), octets(b"\xff" * 16)), "beyond Unicode"),
    # shapes of arrays
    "negative_shape": Attack(lambda _: _array(tuple_of(number(-2)), plain_dtype(), SIXTEEN), "negative size"),
    "shape_that_overflows": Attack(
        lambda _: _array(tuple_of(number(2**33), number(2**33)), plain_dtype(), SIXTEEN), "does not fit its bytes"),
    "shape_that_wraps_to_its_bytes": Attack(
        lambda _: _array(tuple_of(number(2**62), number(4), b"K\x02"), plain_dtype(), SIXTEEN),
        "does not fit its bytes"),
    "shape_with_a_zero_and_an_exabyte": Attack(
        lambda _: _array(tuple_of(b"K\x00", number(2**62)), plain_dtype(), octets(b"")), "a damaged array"),
    "too_many_dimensions": Attack(lambda _: _array(tuple_of(*[b"K\x01"] * 70), plain_dtype(), SIXTEEN),
                                  "too many dimensions"),
    "shape_of_texts": Attack(lambda _: _array(tuple_of(text("2")), plain_dtype(), SIXTEEN), "negative size"),
    "bytes_that_are_called": Attack(lambda c: _array(TWO, plain_dtype(), run(c)), "without bytes"),
    "order_that_is_no_truth": Attack(lambda _: _array(TWO, plain_dtype(), SIXTEEN, b"K\x05"), "numpy did not write"),
    "negative_strides": Attack(
        lambda _: weights(call(named("numpy.lib.stride_tricks", "as_strided"), array(TWO, plain_dtype(), SIXTEEN),
                               tuple_of(number(2**40)), tuple_of(number(-8)))), "as_strided"),
    "array_of_another_class": Attack(
        lambda _: weights(call(named("numpy.core.multiarray", "_reconstruct"), named("numpy", "recarray"), TWO,
                               octets(b"b")) + tuple_of(b"K\x01", TWO, plain_dtype(), b"\x89", SIXTEEN) + b"b"),
        "numpy did not write"),
    "axes_that_repeat": Attack(
        lambda _: weights(call(named("numpy._core.numeric", "_frombuffer"), SIXTEEN, plain_dtype(),
                               tuple_of(b"K\x01", b"K\x02"), text("K"), tuple_of(b"K\x00", b"K\x00"))),
        "order of axes"),
    "joblib_array_of_an_exabyte": Attack(
        lambda _: weights(
            named("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81"
            + dict_of((text("subclass"), named("numpy", "ndarray")), (text("shape"), tuple_of(number(2**57))),
                      (text("order"), text("C")), (text("dtype"), plain_dtype())) + b"b"), "announced"),
    "joblib_array_of_objects": Attack(
        lambda c: weights(
            named("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81"
            + dict_of((text("subclass"), named("numpy", "ndarray")), (text("shape"), TWO), (text("order"), text("C")),
                      (text("dtype"), plain_dtype("O8", "|"))) + b"b" + nested(c)), "joblib did not write"),
    "joblib_mapped_file": Attack(
        lambda c: weights(named("joblib.numpy_pickle", "NDArrayWrapper") + b")\x81"
                          + dict_of((text("filename"), text(c)), (text("subclass"), named("numpy", "ndarray"))) + b"b"),
        "before 0.10"),
}  # fmt: skip


def _zip(*records: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in records:
            archive.writestr(name, data)
    return file.getvalue()


def _twice(canary: str) -> bytes:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of what is tested here
        return _zip(("m/data.pkl", b"}."), ("m/data.pkl", nested(canary)))


def _joblib(canary: str, *, compress: object) -> bytes:
    import joblib

    file = io.BytesIO()
    joblib.dump(_Runs(canary), file, compress=compress)
    return file.getvalue()


class _Runs:
    """What joblib writes as a call of os.system."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    @override
    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (f"touch {self.canary}",)


CONTAINED: dict[str, Attack] = {
    "gzip": Attack(lambda c: gzip.compress(nested(c)), r"posix\.system"),
    "gzip_in_gzip": Attack(lambda c: gzip.compress(gzip.compress(nested(c))), r"posix\.system"),
    "zlib": Attack(lambda c: zlib.compress(nested(c)), r"posix\.system"),
    "bz2": Attack(lambda c: bz2.compress(nested(c)), r"posix\.system"),
    "xz": Attack(lambda c: lzma.compress(nested(c)), r"posix\.system"),
    "lzma": Attack(lambda c: lzma.compress(nested(c), lzma.FORMAT_ALONE), r"posix\.system"),
    "zstd": Attack(lambda c: zstandard.compress(nested(c)), r"posix\.system"),
    "zip": Attack(lambda c: _zip(("model.pkl", nested(c))), "not what torch.save writes"),
    "torch": Attack(lambda c: _zip(("m/data.pkl", nested(c)), ("m/version", b"3\n")), r"posix\.system"),
    "torch_deflated": Attack(
        lambda c: _zip(("m/data.pkl", nested(c)), method=zipfile.ZIP_DEFLATED), r"posix\.system"
    ),
    "torch_script": Attack(
        lambda c: _zip(("m/data.pkl", b"}."), ("m/code/x.py", code(c).encode())), "not what torch.save writes"
    ),
    "torch_persistent_id_that_is_called": Attack(lambda c: _zip(("m/data.pkl", dict_of((text("w"), call(
        named("torch._utils", "_rebuild_tensor_v2"), run(c) + b"Q", b"K\x00", TWO, TWO, b"\x89", b"N"))) + b".")),
        "refers to something that is no storage"),
    "old_torch": Attack(
        lambda c: bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + nested(c), "PyTorch before 1.6"
    ),
    "path_traversal": Attack(
        lambda c: _zip((f"../../../..{c}/data.pkl", nested(c))), "not what torch.save writes"
    ),
    "absolute_path": Attack(lambda c: _zip(("/data.pkl", nested(c))), r"posix\.system"),
    "record_that_leaves_the_archive": Attack(lambda c: _zip(("m/data.pkl", dict_of((text("w"), call(
        named("torch._utils", "_rebuild_tensor_v2"),
        tuple_of(text("storage"), named("torch", "FloatStorage"), text("../../etc/passwd"), text("cpu"), b"K\x02")
        + b"Q", b"K\x00", TWO, tuple_of(b"K\x01"), b"\x89", b"N"))) + b".")), "no record data/../../etc/passwd"),
    # an archive read as a pickle begins with PERSID; whether its argument ends is up to the checksum and the time in it
    "zip_in_zip": Attack(
        lambda c: _zip(("m/data.pkl", _zip(("m/data.pkl", nested(c))))), "the file is damaged|uses PERSID"
    ),
    "zip_in_gzip": Attack(lambda c: gzip.compress(_zip(("m/data.pkl", nested(c)))), "zip archive"),
    "name_twice": Attack(_twice, "or one twice"),
    "gzip_bomb": Attack(lambda _: gzip.compress(b"\x80" + bytes(2**23)), "unpacks to more than 4194304 bytes"),
    "zstd_bomb": Attack(lambda _: zstandard.compress(b"\x80" + bytes(2**23)), "unpacks to more than 4194304 bytes"),
    "xz_bomb": Attack(lambda _: lzma.compress(b"\x80" + bytes(2**23)), "unpacks to more than 4194304 bytes"),
    "bz2_bomb": Attack(lambda _: bz2.compress(b"\x80" + bytes(2**23)), "unpacks to more than 4194304 bytes"),
    "zip_bomb": Attack(
        lambda _: _zip(("m/data.pkl", bytes(2**23)), method=zipfile.ZIP_DEFLATED), "unpacks to more than 4194304 bytes"
    ),
    "bomb_in_bombs": Attack(
        lambda _: gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"N."))))), "more than 3 times"
    ),
    "gzip_and_more": Attack(lambda c: gzip.compress(b"N.") + nested(c), "bytes follow"),
    "two_gzip_members": Attack(lambda c: gzip.compress(b"N.") + gzip.compress(nested(c)), "bytes follow"),
    **{
        f"joblib_{name}": Attack(partial(_joblib, compress=compress), r"posix\.system")
        for name, compress in {
            "plain": 0,
            "zlib": ("zlib", 3), "gzip": ("gzip", 3), "bz2": ("bz2", 3), "xz": ("xz", 3), "lzma": ("lzma", 3),
        }.items()
    },
}  # fmt: skip

ALL: dict[str, Attack] = FIRING | LYING | CONTAINED


def popped(canary: str, model: bytes) -> bytes:
    """An attack whose result is thrown away, in front of a sound model."""
    head, rest = (model[:2], model[2:]) if model[:1] == b"\x80" else (b"", model)
    if rest[:1] == b"\x95":
        rest = rest[9:]
    return head + run(canary) + b"0" + rest


def loads_with_everything(data: bytes) -> object:
    """What Python itself makes of it, with all that a program could have told it beforehand."""
    return pickle.loads(data)
