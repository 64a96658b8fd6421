"""Who may ask, and for what."""

from __future__ import annotations

import pytest

from fedpredict.errors import (
    EmptyRequestError,
    ModelNotFoundError,
    OverloadedError,
    TooManySamplesError,
)
from fedpredict.initiator.admission import Access, Admission
from fedpredict.initiator.settings import ClientSettings, LimitSettings
from fedpredict.model.prediction import PredictTask
from fedpredict.model.share import Mode
from fedpredict.security.identity import Identity, IdentityKind

RISK, DESK = Identity(IdentityKind.CLIENT, "risk"), Identity(IdentityKind.CLIENT, "desk")
ACCESS = Access(
    {
        "risk": ClientSettings(models=("credit",)),
        "desk": ClientSettings(models=("*",)),
        "lab": ClientSettings(models=("*",), kind=IdentityKind.PARTY),
    }
)


def task_of(n_samples: int, mode: Mode = Mode.NEARLINE, model_id: str = "credit") -> PredictTask:
    return PredictTask(request_id="r-1", model_id=model_id, mode=mode, sample_ids=[b"u1"] * n_samples)


def test_a_client_asks_for_the_models_under_its_name() -> None:
    assert ACCESS.may_ask(RISK, "credit")
    assert not ACCESS.may_ask(RISK, "churn")


def test_a_star_is_every_model() -> None:
    assert ACCESS.may_ask(DESK, "credit")
    assert ACCESS.may_ask(DESK, "whatever")


def test_who_is_not_listed_asks_for_nothing() -> None:
    assert not ACCESS.may_ask(Identity(IdentityKind.CLIENT, "stranger"), "credit")


def test_a_party_with_the_name_of_a_client_is_somebody_else() -> None:
    assert not ACCESS.may_ask(Identity(IdentityKind.PARTY, "risk"), "credit")


def test_a_party_asks_where_its_kind_is_named() -> None:
    assert ACCESS.may_ask(Identity(IdentityKind.PARTY, "lab"), "credit")
    assert not ACCESS.may_ask(Identity(IdentityKind.CLIENT, "lab"), "credit")


def test_a_model_of_others_looks_like_none() -> None:
    with pytest.raises(ModelNotFoundError):
        Admission(ACCESS, LimitSettings(), max_samples=10).check(task_of(1, model_id="churn"), RISK)


def test_an_empty_task_is_refused() -> None:
    with pytest.raises(EmptyRequestError):
        Admission(ACCESS, LimitSettings(), max_samples=10).check(task_of(0), RISK)


def test_one_id_more_than_the_limit_is_refused_with_the_limit() -> None:
    Admission(ACCESS, LimitSettings(), max_samples=10).check(task_of(10), RISK)
    with pytest.raises(TooManySamplesError) as raised:
        Admission(ACCESS, LimitSettings(), max_samples=10).check(task_of(11), RISK)
    assert raised.value.limit == 10


def test_what_is_too_much_at_once_is_refused_with_a_hint_and_taken_again_later() -> None:
    admission = Admission(ACCESS, LimitSettings(max_requests=2, max_rows=100), max_samples=100)
    leave = admission.enter(task_of(1))
    admission.enter(task_of(1))

    with pytest.raises(OverloadedError) as raised:
        admission.enter(task_of(1))
    leave()
    admission.enter(task_of(1))

    assert 20 <= raised.value.retry_after_ms <= 2_000
    assert (admission.requests, admission.rows) == (2, 2)


def test_rows_count_as_well_as_requests_but_one_large_request_alone_is_taken() -> None:
    admission = Admission(ACCESS, LimitSettings(max_requests=100, max_rows=10), max_samples=100)
    leave = admission.enter(task_of(50))
    with pytest.raises(OverloadedError):
        admission.enter(task_of(1))
    leave()
    admission.enter(task_of(9))
    with pytest.raises(OverloadedError):
        admission.enter(task_of(2))


def test_a_model_that_hangs_leaves_room_for_the_others() -> None:
    admission = Admission(ACCESS, LimitSettings(max_requests=4, model_share=0.5), max_samples=100)
    admission.enter(task_of(1, model_id="other"))()
    admission.enter(task_of(1, model_id="hangs"))
    admission.enter(task_of(1, model_id="hangs"))

    with pytest.raises(OverloadedError):
        admission.enter(task_of(1, model_id="hangs"))
    admission.enter(task_of(1, model_id="other"))
