from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.errors import InputError
from fedpredict.model import standing
from fedpredict.model.buckets import buckets_of
from fedpredict.model.populations import in_order
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import applied, check_bucket_ids, delta_of

IDS = st.lists(st.text("abc\xe9", min_size=1, max_size=3).map(str.encode), max_size=30)


@given(before=IDS, after=IDS)
def test_a_delta_makes_one_bucket_of_another(before: list[bytes], after: list[bytes]) -> None:
    base, ids = in_order(SampleIds.of(before)), in_order(SampleIds.of(after))

    delta = delta_of("00" * 32, base, ids)

    assert set(delta.added) == set(after) - set(before)
    assert set(delta.removed) == set(before) - set(after)
    assert list(applied(base, delta)) == list(ids)


@given(ids=IDS, n_buckets=st.sampled_from([1, 2, 4]))
def test_what_stands_in_order_is_a_bucket(ids: list[bytes], n_buckets: int) -> None:
    for bucket in range(n_buckets):
        mine = [each for each in ids if int(buckets_of([each], n_buckets)[0]) == bucket]
        check_bucket_ids(in_order(SampleIds.of(mine)), bucket, n_buckets)


@pytest.mark.parametrize(
    ("ids", "bucket", "n_buckets", "told"),
    [
        ([b"u2", b"u3", b"u1"][::-1], 0, 1, "not in order"),
        ([b"u2", b"u2"], 0, 1, "there twice"),
        ([b"a\nb"], 0, 1, "breaks the rules"),
        ([b""], 0, 1, "breaks the rules"),
        ([b"u1"], 4, 8, "belongs to another bucket"),
    ],
)
def test_what_is_no_bucket_is_refused(ids: list[bytes], bucket: int, n_buckets: int, told: str) -> None:
    check_bucket_ids(SampleIds.of([b"u2", b"u3", b"u1"]), 0, 1)
    check_bucket_ids(SampleIds.of([b"u1"]), 5, 8)  # the example of `buckets_of`

    with pytest.raises(InputError, match=told):
        check_bucket_ids(SampleIds.of(ids), bucket, n_buckets)


def test_a_bucket_of_too_many_ids_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "MAX_BUCKET_ROWS", 2)

    with pytest.raises(InputError, match="3 sample ids in a bucket; at most 2"):
        check_bucket_ids(SampleIds.of([b"u2", b"u3", b"u1"]), 0, 1)
