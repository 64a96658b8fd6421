"""Mistakes that are told before anything is measured."""

from __future__ import annotations

import pytest

from fedpredict.client.load import questions
from fedpredict.client.load.over_http import OverHttp, parse_site
from fedpredict.client.load.preflight import check_answers
from fedpredict.errors import (
    FedPredictError,
    InputError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServerUnavailableError,
    UnauthenticatedError,
)
from fedpredict.model.share import Mode
from tests.stub_http import StubServer
from tests.unit.client.load.conftest import Serve


async def check(server: StubServer, *ids: str, model_id: str = "m", allow_unscored: bool = False) -> None:
    bodies = questions.json_bodies(model_id, [[each] for each in ids], Mode.NEARLINE)
    target = OverHttp(parse_site(server.url, "/v1/predict"), bodies, questions.has_numbers)
    try:
        await check_answers(target, model_id, allow_unscored=allow_unscored)
    finally:
        await target.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InputError),
        (401, UnauthenticatedError),
        (404, ModelNotFoundError),
        (500, ServerUnavailableError),
        (503, ModelNotReadyError),
    ],
)
async def test_what_the_server_says_is_told(status: int, error: type[FedPredictError], serve: Serve) -> None:
    server = serve(StubServer(reply=lambda _: (status, {}, b"because\nof this")))

    with pytest.raises(error, match=f"model 'm': the server answers with status {status}: because of this"):
        await check(server, "a")


async def test_ids_that_nobody_knows_are_told(serve: Serve) -> None:
    server = serve(StubServer())

    with pytest.raises(InputError, match="are these the ids that the parties know"):
        await check(server, "nobody")


async def test_ids_that_nobody_knows_can_be_measured(serve: Serve) -> None:
    server = serve(StubServer())

    await check(server, "nobody", allow_unscored=True)

    assert len(server.bodies) == 3


async def test_one_unknown_id_among_others_is_no_mistake(serve: Serve) -> None:
    server = serve(StubServer())

    await check(server, "nobody", "a", "b")

    assert len(server.bodies) == 3


async def test_a_server_that_refuses_for_now_is_measured_all_the_same(serve: Serve) -> None:
    server = serve(StubServer(reply=lambda _: (429, {"retry-after": "1"}, b"")))

    await check(server, "a")

    assert len(server.bodies) == 3
