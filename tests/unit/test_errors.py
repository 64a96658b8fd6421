from fedpredict import errors
from fedpredict.errors import STATUS, Code, FedPredictError, public_status


def leaves(cls: type[FedPredictError]) -> set[type[FedPredictError]]:
    below = cls.__subclasses__()
    return {cls} if not below else set().union(*(leaves(child) for child in below))


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
