import copy
import inspect
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict import errors
from fedpredict.errors import FedPredictError
from fedpredict.public_status import STATUS, Code, public_status


def leaves(cls: type[FedPredictError]) -> set[type[FedPredictError]]:
    below = cls.__subclasses__()
    return {cls} if not below else set().union(*(leaves(child) for child in below))


def all_below(cls: type[FedPredictError]) -> list[type[FedPredictError]]:
    return [cls, *(each for child in cls.__subclasses__() for each in all_below(child))]


def made(cls: type[FedPredictError], message: str, word: str, number: int) -> FedPredictError:
    """An error of any class, its fields filled by name."""
    numbers, lists = ("limit", "retry_after_ms"), ("names", "parties")
    parameters = inspect.signature(cls.__init__).parameters.values()
    fields = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    return cls(message, **{name: number if name in numbers else [word] if name in lists else word for name in fields})


@given(st.sampled_from(all_below(FedPredictError)), st.text(), st.text(), st.integers(0, 2**40))
@pytest.mark.parametrize(
    "passed_on",
    [copy.copy, copy.deepcopy]
    + [lambda error, by=by: pickle.loads(pickle.dumps(error, by)) for by in range(pickle.HIGHEST_PROTOCOL + 1)],
    ids=["copy", "deepcopy", *(f"pickle {by}" for by in range(pickle.HIGHEST_PROTOCOL + 1))],
)
def test_an_error_reaches_another_process_as_it_is(
    passed_on: Callable[[FedPredictError], FedPredictError],
    cls: type[FedPredictError],
    message: str,
    word: str,
    number: int,
) -> None:
    error = made(cls, message, word, number)
    error.add_note("of the caller")

    there = passed_on(error)

    assert (type(there), str(there), there.args) == (cls, message, error.args)
    assert vars(there) == vars(error)
    assert public_status(there) == public_status(error)


@pytest.mark.parametrize("told", ["9" * 400, "-5", "12"])
def test_a_pause_that_a_peer_tells_is_a_day_at_most(told: str) -> None:
    for error in (
        errors.RateLimitedError("no", retry_after_ms=told),  # type: ignore[arg-type]  # as a peer sends it
        errors.PartyLimitedError("no", party="lab", retry_after_ms=told),  # type: ignore[arg-type]
    ):
        assert error.retry_after_ms == min(86_400_000, max(0, int(told)))


def test_every_leaf_of_the_tree_has_a_public_status() -> None:
    assert set(STATUS) == leaves(FedPredictError) | {errors.InputError}


def test_the_tree_in_the_docstring_names_every_error() -> None:
    documented = errors.__doc__ or ""
    assert [cls.__name__ for cls in STATUS if cls.__name__ not in documented] == []


def test_an_unexpected_error_says_nothing_to_the_outside() -> None:
    public = public_status(RuntimeError("password=secret"))
    assert (public.code, public.text) == (Code.INTERNAL, "internal error")


def test_public_fields_are_filled_in_and_the_message_is_not() -> None:
    error = errors.PartyTimeoutError("10.0.0.7 took 3 s", party="lab")
    assert public_status(error).text == "party lab did not answer in time"


def test_a_model_that_is_not_the_callers_looks_like_no_model() -> None:
    assert public_status(errors.ModelNotFoundError("hidden from caller x")).text == "no such model"
