from __future__ import annotations

import json

import pytest

from fedpredict import errors
from fedpredict.errors import FedPredictError
from fedpredict.http.problem import HTTP_STATUS, MALFORMED, problem_of
from fedpredict.public_status import Code


def test_every_code_has_a_number_of_its_own() -> None:
    assert set(HTTP_STATUS) == set(Code)
    assert len(set(HTTP_STATUS.values())) == len(Code)
    assert 422 not in HTTP_STATUS.values()


def test_an_error_is_told_by_its_public_text_and_fields_alone() -> None:
    problem = problem_of(errors.TooManySamplesError("4711 ids from desk", limit=1000))

    assert json.loads(problem.to_json("r-1", "/v1/predict")) == {
        "type": "urn:fedpredict:error:too_many_samples",
        "title": "Too many samples",
        "status": 400,
        "detail": "too many sample ids in one call; the limit is 1000",
        "request_id": "r-1",
        "limit": 1000,
    }


@pytest.mark.parametrize(
    "error", [KeyError("secret"), errors.StateError("sqlite:///secret"), FedPredictError("secret")]
)
def test_what_is_ours_to_mend_is_internal_and_says_no_more(error: BaseException) -> None:
    content = problem_of(error).to_json("r-1", "/v1/predict")

    assert json.loads(content)["type"] == "urn:fedpredict:error:internal"
    assert b"secret" not in content


@pytest.mark.parametrize(("retry_after_ms", "seconds"), [(0, "1"), (250, "1"), (1001, "2")])
def test_an_overload_says_when_to_come_back(retry_after_ms: int, seconds: str) -> None:
    problem = problem_of(errors.OverloadedError("full", retry_after_ms=retry_after_ms))

    assert (problem.status, problem.headers) == (429, {"retry-after": seconds})
    assert problem.fields == {"retry_after_ms": retry_after_ms}


def test_clients_of_the_open_inference_protocol_find_the_text_where_they_look() -> None:
    assert json.loads(MALFORMED.to_json("r-1", "/v2/models/m/infer"))["error"] == "the request is not HTTP/1.1"
    assert "error" not in json.loads(MALFORMED.to_json("r-1", "/v1/predict"))
