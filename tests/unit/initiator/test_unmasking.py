"""The sum of masked shares in the place of one of them: of samples that every party scored, and of no other."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from fedpredict.errors import PartyRefusedError
from fedpredict.initiator.masking import MaskedSum
from fedpredict.initiator.unmasking import share_without_numbers, unmasked
from fedpredict.model.fixed_point import FixedPoint, MaskedWords
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import SampleStatus, Share

OK, NOT_FOUND, REFUSED = (int(each) for each in (SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.REFUSED))
NAN = float("nan")
FIXED = FixedPoint(32, 2)
SUM = MaskedSum(cast(Any, None), ("lab", "shop"), FIXED)
MASK = np.array([[11], [2**63], [5]], np.uint64)


def reply(values: list[float], status: list[int], mask: Any, checks: list[int], **changes: Any) -> PartyReply:
    statuses = np.array(status, np.uint8)
    words, _ = FIXED.encode(np.array(values)[:, None])
    words = np.where((statuses == OK)[:, None], words + mask[: len(values)], np.uint64(0))
    masked = MaskedWords(words, np.array(checks, np.uint64))
    return PartyReply(
        share=Share(np.empty((len(values), 0)), statuses),
        oldest_event_time=None,
        elapsed_s=0.0,
        masked=masked,
        **changes,
    )


def both(status_lab: list[int], status_shop: list[int], checks_shop: list[int], **changes: Any) -> dict[str, Any]:
    return {
        "lab": reply([1.0, 2.0, 3.0], status_lab, MASK, [7] * len(checks_shop)),
        "shop": reply([0.5, -0.25, 4.0], status_shop, -MASK, checks_shop, **changes),
    }


CANCELS = 2**64 - 7


def test_the_sum_stands_for_the_first_party() -> None:
    found = unmasked(SUM, [3], 1, both([OK] * 3, [OK] * 3, [CANCELS]))
    assert found is not None
    assert (found.party, found.misfits) == ("lab", [])
    assert found.share.values[:, 0].tolist() == [1.5, 1.75, 7.0]


def test_a_sample_that_some_party_has_not_scored_has_no_sum() -> None:
    found = unmasked(SUM, [3], 1, both([OK, NOT_FOUND, OK], [OK, OK, NOT_FOUND], [CANCELS]))
    assert found is not None
    assert found.share.status.tolist() == [OK, NOT_FOUND, OK]
    # shop's own status takes the last one's number away, and what lab's masked word says is not in it
    np.testing.assert_array_equal(found.share.values[:, 0], [1.5, NAN, 0.0])


def test_masks_that_do_not_cancel_refuse_the_model_they_are_of() -> None:
    found = unmasked(SUM, [1, 2], 1, both([OK] * 3, [OK] * 3, [CANCELS, CANCELS - 1]))
    assert found is not None
    assert found.misfits == [1]
    assert found.share.status.tolist() == [OK, REFUSED, REFUSED]
    np.testing.assert_array_equal(found.share.values[:, 0], [1.5, NAN, NAN])


def test_a_model_that_a_party_has_no_share_of_is_no_contradiction() -> None:
    failures = {1: PartyRefusedError("no", party="shop")}
    replies = both([OK] * 3, [OK, REFUSED, REFUSED], [CANCELS, 0], failures=failures)
    found = unmasked(SUM, [1, 2], 1, replies)
    assert found is not None
    assert found.misfits == []
    assert found.share.values[:, 0].tolist() == [1.5, 0.0, 0.0]


@pytest.mark.parametrize("absent", ["no reply", "not masked", "another width"])
def test_without_one_partys_words_nothing_is_read(absent: str) -> None:
    replies: dict[str, PartyReply | None] = both([OK] * 3, [OK] * 3, [CANCELS])
    shop = replies["shop"]
    assert shop is not None
    if absent == "no reply":
        replies["shop"] = None
    elif absent == "not masked":
        shop.masked = None
    else:
        shop.masked = MaskedWords(np.zeros((3, 2), np.uint64), np.zeros(1, np.uint64))
    assert unmasked(SUM, [3], 1, replies) is None


def test_a_masked_share_alone_adds_nothing() -> None:
    masked = MaskedWords(np.array([[5], [0]], np.uint64), np.zeros(1, np.uint64))
    share = share_without_numbers(masked, np.array([OK, NOT_FOUND], np.uint8))
    np.testing.assert_array_equal(share.values[:, 0], [0.0, NAN])
