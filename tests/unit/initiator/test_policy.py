"""What the policies make of samples that some party could not score; numbers are worked out by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.initiator import policy
from fedpredict.model.combine import Combined
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.prediction import Origin
from fedpredict.model.share import SampleStatus, Share, build_share

OK, NOT_FOUND, MISSING = SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.FEATURE_MISSING
AWAY, INVALID, REFUSED = SampleStatus.PARTY_UNAVAILABLE, SampleStatus.ID_INVALID, SampleStatus.REFUSED
NAN = float("nan")


def share_of(values: list[float], status: list[SampleStatus]) -> Share:
    return build_share(np.array(values, dtype=np.float64)[:, None], np.array(status, dtype=np.uint8))


BANK = share_of([1.0, 2.0, NAN, NAN, 5.0], [OK, OK, MISSING, INVALID, OK])
LAB = share_of([0.5, NAN, 0.25, NAN, NAN], [OK, NOT_FOUND, OK, INVALID, AWAY])


def test_fail_gives_no_number_and_the_worst_status() -> None:
    answer = policy.fail(own_link(Kind.LINEAR), {"bank": BANK, "lab": LAB})
    np.testing.assert_array_equal(answer.predictions[:, 0], [1.5, NAN, NAN, NAN, NAN])
    assert answer.status.tolist() == [OK, NOT_FOUND, MISSING, INVALID, AWAY]
    assert answer.origin.tolist() == [Origin.MODEL, 0, 0, 0, 0]


def test_a_constant_stands_in_for_a_sample_that_a_party_could_not_score() -> None:
    answer = policy.default_partial(
        own_link(Kind.LINEAR), {"bank": BANK, "lab": LAB}, {"lab": (10.0,), "bank": (-1.0,)}
    )
    np.testing.assert_array_equal(answer.predictions[:, 0], [1.5, 12.0, -0.75, NAN, 15.0])
    assert answer.status.tolist() == [OK, OK, OK, INVALID, OK]
    stood_in = Origin.DEFAULT_PARTIAL
    assert answer.origin.tolist() == [Origin.MODEL, stood_in, stood_in, Origin.UNSPECIFIED, stood_in]


def test_a_party_without_a_constant_is_not_stood_in_for() -> None:
    answer = policy.default_partial(own_link(Kind.LINEAR), {"bank": BANK, "lab": LAB}, {"lab": (10.0,)})
    np.testing.assert_array_equal(answer.predictions[:, 0], [1.5, 12.0, NAN, NAN, 15.0])
    assert answer.status.tolist() == [OK, OK, MISSING, INVALID, OK]


def test_constants_alone_answer_nothing() -> None:
    gone = share_of([NAN, NAN], [AWAY, NOT_FOUND])
    answer = policy.default_partial(own_link(Kind.BINARY), {"bank": gone, "lab": gone}, {"bank": (0.0,), "lab": (0.0,)})
    assert np.isnan(answer.predictions).all()
    assert answer.status.tolist() == [AWAY, NOT_FOUND]
    assert answer.origin.tolist() == [0, 0]


def test_a_constant_that_overflows_the_sum_gets_no_number() -> None:
    huge = share_of([1.7e308], [OK])
    gone = share_of([NAN], [AWAY])
    answer = policy.default_partial(own_link(Kind.LINEAR), {"bank": huge, "lab": gone}, {"lab": (1.7e308,)})
    assert answer.status.tolist() == [SampleStatus.OUT_OF_RANGE]
    assert answer.origin.tolist() == [Origin.UNSPECIFIED]
    assert np.isnan(answer.predictions).all()


def test_constants_have_one_number_per_score() -> None:
    some = build_share(np.array([[1.0, 2.0]]), np.array([OK], dtype=np.uint8))
    gone = build_share(np.full((1, 2), NAN), np.array([AWAY], dtype=np.uint8))
    answer = policy.default_partial(own_link(Kind.LINEAR), {"bank": some, "lab": gone}, {"lab": (10.0, 20.0)})
    assert answer.predictions.tolist() == [[11.0, 22.0]]


def test_the_fallback_model_fills_what_has_no_number_but_never_an_invalid_id() -> None:
    answer = policy.fail(own_link(Kind.LINEAR), {"bank": BANK, "lab": LAB})
    fallback = Combined(
        all_ok=False,
        raw=np.zeros((5, 1)),
        predictions=np.array([[9.0], [8.0], [NAN], [7.0], [6.0]]),
        status=np.array([OK, OK, NOT_FOUND, OK, OK], dtype=np.uint8),
    )
    filled = policy.fallback_model(answer, fallback)
    np.testing.assert_array_equal(filled.predictions[:, 0], [1.5, 8.0, NAN, NAN, 6.0])
    assert filled.status.tolist() == [OK, OK, MISSING, INVALID, OK]
    fell_back = Origin.FALLBACK_MODEL
    assert filled.origin.tolist() == [Origin.MODEL, fell_back, 0, 0, fell_back]


def test_an_absent_party_has_a_status_for_each_id() -> None:
    share = policy.absent_share(np.array([True, False, True]), 2, REFUSED)
    assert share.status.tolist() == [REFUSED, INVALID, REFUSED]
    assert share.values.shape == (3, 2)


def test_a_share_of_the_valid_ids_is_spread_over_all() -> None:
    spread = policy.spread_share(share_of([1.0, NAN], [OK, NOT_FOUND]), np.array([False, True, False, True]))
    np.testing.assert_array_equal(spread.values[:, 0], [NAN, 1.0, NAN, NAN])
    assert spread.status.tolist() == [INVALID, OK, INVALID, NOT_FOUND]


STATUSES = st.sampled_from([OK, NOT_FOUND, MISSING, AWAY, INVALID, REFUSED])


@given(st.lists(st.tuples(STATUSES, STATUSES, STATUSES), min_size=1, max_size=20))
def test_with_constants_a_sample_has_a_number_exactly_where_somebody_scored_it(
    rows: list[tuple[SampleStatus, SampleStatus, SampleStatus]],
) -> None:
    parties = ("a", "b", "c")
    shares = {party: share_of([1.0] * len(rows), [row[at] for row in rows]) for at, party in enumerate(parties)}
    answer = policy.default_partial(own_link(Kind.LINEAR), shares, dict.fromkeys(parties, (100.0,)))
    for row, status, number, origin in zip(rows, answer.status, answer.predictions[:, 0], answer.origin, strict=True):
        scored = row.count(OK)
        if INVALID in row or scored == 0:
            assert status != OK
            assert np.isnan(number)
            assert origin == Origin.UNSPECIFIED
        else:
            assert number == scored + 100.0 * (3 - scored)
            assert origin == (Origin.MODEL if scored == 3 else Origin.DEFAULT_PARTIAL)


@given(st.lists(st.tuples(STATUSES, STATUSES), min_size=1, max_size=20))
def test_failing_never_gives_a_number_to_a_sample_that_a_party_could_not_score(
    rows: list[tuple[SampleStatus, SampleStatus]],
) -> None:
    shares = {party: share_of([1.0] * len(rows), [row[at] for row in rows]) for at, party in enumerate(("a", "b"))}
    answer = policy.fail(own_link(Kind.BINARY), shares)
    assert [not np.isnan(number) for number in answer.predictions[:, 0]] == [row == (OK, OK) for row in rows]
