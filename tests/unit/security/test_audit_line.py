"""Lines are made many at a time, by hand: they are what a JSON encoder would make of the same calls."""

from __future__ import annotations

import hmac
import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.kernel.lines import LineKernel
from fedpredict.model.populations import digest_of
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import SampleStatus
from fedpredict.security.audit_line import AuditedCall, CallPacker

KEY = bytes(range(32))
AT = 1_795_766_405_000_070
IDS_PER_LINE = 3

texts = st.text(max_size=300)
ids = st.one_of(st.none(), st.lists(st.binary(max_size=70), max_size=6))


@st.composite
def calls(draw: st.DrawFn) -> AuditedCall:
    asked = draw(ids)
    n = 0 if asked is None else len(asked)
    status = draw(st.one_of(st.none(), st.lists(st.integers(0, 9), min_size=n, max_size=n)))
    packed = asked if asked is None or draw(st.booleans()) else SampleIds.of(asked)
    return AuditedCall(
        draw(texts),
        draw(texts),
        draw(texts),
        draw(texts),
        draw(texts),
        draw(texts),
        n,
        draw(st.integers(0, 2**40)),
        draw(texts),
        packed,
        None if status is None else np.array(status, dtype=np.uint8),
        population=draw(texts),
    )


def expected(call: AuditedCall) -> dict[str, Any]:
    named = {"request": call.request_id, "model": call.model_id, "manifest": call.manifest_sha256, "mode": call.mode}
    named |= {"population": call.population, "what": call.what, "caller": call.caller}
    line: dict[str, Any] = {name: value[:256] for name, value in named.items() if value}
    line |= {"kind": "call", "t": "2026-11-27T08:00:05.000070Z", "rows": call.rows, "epoch": call.epoch}
    line["outcome"] = call.outcome
    if call.status is not None:
        values = call.status.tolist()
        line["statuses"] = {SampleStatus(each).name: values.count(each) for each in set(values)}
    if call.sample_ids is not None and len(call.sample_ids) <= IDS_PER_LINE:
        line["ids"] = [hmac.new(KEY, each, "sha256").hexdigest()[:32] for each in call.sample_ids]
    elif call.sample_ids is not None:
        digest = bytes.fromhex(digest_of(SampleIds.of(call.sample_ids)))
        line["root"] = hmac.new(KEY, digest, "sha256").hexdigest()
    return line


def written(some: list[AuditedCall]) -> list[bytes]:
    packer = CallPacker(KEY, IDS_PER_LINE)
    bodies = LineKernel(KEY, IDS_PER_LINE).bodies([packer.pack(AT * 1_000, call) for call in some])
    starts = [0, *bodies.ends.tolist()]
    return [bodies.data[start:end].tobytes() for start, end in itertools.pairwise(starts)]


@given(st.lists(calls(), max_size=5))
def test_lines_are_what_an_encoder_makes_of_the_calls(some: list[AuditedCall]) -> None:
    lines = written(some)
    assert [json.loads(line) for line in lines] == [expected(call) for call in some]
    assert all(line.isascii() and b"\n" not in line for line in lines)


def test_ids_whose_digest_is_known_do_not_wait() -> None:
    packer, asked = CallPacker(KEY, IDS_PER_LINE), SampleIds.of([b"u1", b"u2", b"u3", b"u4" * 500])
    large = AuditedCall("ScoreBucket", "party bank", sample_ids=asked, ids_sha256=digest_of(asked))
    small = AuditedCall("ScoreBucket", "party bank", sample_ids=asked[:2], ids_sha256=digest_of(asked[:2]))
    assert len(packer.pack(0, large)) < 500
    assert len(packer.pack(0, replace(large, ids_sha256=""))) > 1_000
    (of_large, of_small) = (json.loads(line) for line in written([large, small]))
    assert of_large["root"] == hmac.new(KEY, bytes.fromhex(digest_of(asked)), "sha256").hexdigest()
    assert len(of_small["ids"]) == 2
