"""Runs of ids in a file: what was written is read again, piece by piece, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedpredict.scoring.id_file import IdFile, Placed


def placed(*ids: bytes) -> Placed:
    return Placed(np.arange(len(ids), dtype=np.uint32) + 7, pa.array(ids, pa.binary()))


def plain(each: Placed) -> list[tuple[int, bytes]]:
    return list(zip(each.places.tolist(), each.ids.to_pylist(), strict=True))


def test_pieces_of_runs_are_read_in_any_order(tmp_path: Path) -> None:
    file = IdFile(tmp_path / "ids")
    whole = placed(b"before", b"a", b"bcd", b"ef", b"g")
    file.append(whole.cut(1, 5), (0, 1, 1, 4))
    file.append(placed(), (0, 0, 0, 0))
    file.append(placed(b"h"), (0, 0, 1, 1))

    found = [[plain(file.read(run, piece)) for piece in (2, 1, 0)] for run in range(file.n_runs)]

    assert found == [
        [[(9, b"bcd"), (10, b"ef"), (11, b"g")], [], [(8, b"a")]],
        [[], [], []],
        [[], [(7, b"h")], []],
    ]
    assert (whole.n_bytes, whole.cut(2, 4).n_bytes, placed().n_bytes) == (13, 5, 0)
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_off_is_no_ids(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    file = IdFile(path)
    file.append(placed(b"abc", b"def"), (0, 2))
    with path.open("r+b") as other:
        other.truncate(path.stat().st_size - 1)

    with pytest.raises(OSError, match="lost its end"):
        file.read(0, 0)
    file.remove()


def test_all_of_nothing_and_of_several() -> None:
    assert plain(Placed.concat(())) == []
    assert plain(Placed.concat([placed(b"a"), placed(), placed(b"b")])) == [(7, b"a"), (7, b"b")]
