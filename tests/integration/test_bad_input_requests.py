"""What a user gets for requests, sample ids and features that cannot be answered: real parties, the real client.

Three organisations hold one column each about the same people; every prediction is `2 a + 3 b - c + 0.5`, by hand.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from fedpredict.client import AsyncClient, Predictions
from fedpredict.errors import (
    EmptyRequestError,
    ModelNotFoundError,
    ModelNotReadyError,
    NameRefusedError,
    TooManySamplesError,
)
from fedpredict.features.load import load_file
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.share import SampleStatus
from fedpredict.participant.server import ParticipantServer
from fedpredict.participant.settings import ParticipantSettings
from fedpredict.security.identity import IdentityKind
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.local import LocalWarehouse
from tests.integration.federation import ANSWERS_IN_S, POLL_S, Federation, eventually

OK, NOT_FOUND, INVALID = SampleStatus.OK, SampleStatus.NOT_FOUND, SampleStatus.ID_INVALID
FEATURE_MISSING, FEATURE_INVALID = SampleStatus.FEATURE_MISSING, SampleStatus.FEATURE_INVALID
QUOTES = 'o\'hara "x"; DROP TABLE fp_models; --\\%'
WEIGHTS = {"bank": ("c", -1.0), "lab": ("a", 2.0), "shop": ("b", 3.0)}
MODEL = {"m": {"parties": list(WEIGHTS)}}
ROWS: dict[str, dict[str, str]] = {
    "bank": {"u1": "4", "u2": "1", "no-shop": "1", "bank-only": "1", QUOTES: "0", "null": "1", "nan": "1", "inf": "1"},
    "lab": {"u1": "1", "u2": "0.5", "no-shop": "1", QUOTES: "1", "null": "", "nan": "nan", "inf": "-inf"},
    "shop": {"u1": "10", "u2": "0.25", QUOTES: "2", "null": "1", "nan": "1", "inf": "1"},
}
U1, U2 = 2.0 + 30.0 - 4.0 + 0.5, 1.0 + 0.75 - 1.0 + 0.5


class Parties:
    """The bank (the initiator), the laboratory and the shop, each with a warehouse of its own."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.folders = {party: federation.folder / f"warehouse-{party}" for party in WEIGHTS}
        self.warehouses = {party: LocalWarehouse(folder) for party, folder in self.folders.items()}
        for warehouse in self.warehouses.values():
            federation.stack.callback(warehouse.close)

    def fill(self, party: str) -> None:
        """Load a party's rows and publish its part; the bank's holds the intercept."""
        path, warehouse = self.federation.folder / f"{party}.csv", self.warehouses[party]
        feature, weight = WEIGHTS[party]
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["who", feature])
            writer.writerows(ROWS[party].items())
        load_file(warehouse, path, view="people", key="who")
        snapshot = latest_snapshot(warehouse, "people")
        assert snapshot is not None
        intercept = np.array([0.5]) if party == "bank" else None
        part = LinearPart((feature,), np.array([[weight]]), intercept, np.zeros(1))
        partial = PartialModel("m", "run-1", party, Kind.LINEAR, (), True, part)
        publish_model(warehouse, partial, snapshot.view, "0" * 64)

    async def serve(self, party: str) -> None:
        """Start a participant."""
        tls = self.federation.certificates.of(party)
        settings = ParticipantSettings.model_validate(
            {
                "party": party,
                "listen": "127.0.0.1:0",
                "poll_s": POLL_S,
                "tls": {"ca": tls.ca, "certificate": tls.certificate, "key": tls.key},
                "warehouse": {"path": "elsewhere"},
                "callers": {"bank": {"models": ["*"]}},
            }
        )
        server = ParticipantServer(settings, self.warehouses[party], tls)
        await self.federation.stack.enter_async_context(server)
        self.federation.parties[party] = server.address

    async def start(self, **settings: Any) -> None:
        """Fill and serve everybody, and wait until the model is ready."""
        for party in WEIGHTS:
            self.fill(party)
        for party in ("lab", "shop"):
            await self.serve(party)
        await self.federation.initiator(MODEL, warehouse=self.warehouses["bank"], **settings)
        await self.federation.ready()

    @asynccontextmanager
    async def client(self, chunk_size: int = 10_000) -> AsyncIterator[AsyncClient]:
        """A user's client, with a certificate of its own."""
        tls = self.federation.certificates.of("desk", IdentityKind.CLIENT)
        async with AsyncClient(self.federation.address, server_party="bank", tls=tls, chunk_size=chunk_size) as client:
            yield client

    async def predict(self, sample_ids: Sequence[str | bytes], model_id: str = "m") -> Predictions:
        """Ask once as a user does."""
        async with self.client() as client:
            return await client.predict(model_id, sample_ids, timeout_s=ANSWERS_IN_S)


@pytest.fixture
def parties(federation: Federation) -> Parties:
    return Parties(federation)


def check(found: Predictions, expected: Sequence[tuple[SampleStatus, float, Mapping[str, SampleStatus]]]) -> None:
    """Compare statuses, numbers and reasons with (status, number, what each party said) per sample."""
    assert [SampleStatus(int(status)) for status in found.status] == [status for status, _, _ in expected]
    np.testing.assert_array_equal(found.values[:, 0], [number for _, number, _ in expected])
    assert [dict(reasons) for reasons in found.reasons] == [dict(told) for _, _, told in expected]


NAN = float("nan")


async def test_a_sample_unknown_at_one_at_several_or_at_all_parties_is_told_by_party(parties: Parties) -> None:
    await parties.start()

    found = await parties.predict(["no-shop", "u1", "bank-only", "nobody"])

    check(
        found,
        [
            (NOT_FOUND, NAN, {"shop": NOT_FOUND}),
            (OK, U1, {}),
            (NOT_FOUND, NAN, {"lab": NOT_FOUND, "shop": NOT_FOUND}),
            (NOT_FOUND, NAN, {"bank": NOT_FOUND, "lab": NOT_FOUND, "shop": NOT_FOUND}),
        ],
    )
    assert found.to_arrow().column("prediction").null_count == 3


async def test_an_id_asked_twice_is_answered_twice(parties: Parties) -> None:
    await parties.start()

    found = await parties.predict(["u1", "u2", "u1", "nobody", "nobody", "u1"])

    everywhere = dict.fromkeys(WEIGHTS, NOT_FOUND)
    nobody = (NOT_FOUND, NAN, everywhere)
    check(found, [(OK, U1, {}), (OK, U2, {}), (OK, U1, {}), nobody, nobody, (OK, U1, {})])


async def test_a_request_without_ids_is_refused_at_the_client_and_at_the_server(parties: Parties) -> None:
    await parties.start()
    with pytest.raises(EmptyRequestError):
        await parties.predict([])
    with pytest.raises(EmptyRequestError, match="the request names no sample id"):
        await parties.federation.predict()
    assert (await parties.predict(["u1"])).n_scored == 1


async def test_more_ids_than_the_limit_are_refused_with_the_limit_and_smaller_chunks_are_answered(
    parties: Parties,
) -> None:
    await parties.start(max_samples=3)
    async with parties.client(chunk_size=4) as client:
        with pytest.raises(TooManySamplesError, match="the limit is 3") as raised:
            await client.predict("m", ["u1"] * 4, timeout_s=ANSWERS_IN_S)
        assert raised.value.limit == 3
        assert (await client.predict("m", ["u1"] * 3, timeout_s=ANSWERS_IN_S)).n_scored == 3
    async with parties.client(chunk_size=3) as client:
        found = await client.predict("m", ["u1", "u2"] * 4, timeout_s=ANSWERS_IN_S)
    assert found.values[:, 0].tolist() == [U1, U2] * 4


async def test_an_id_that_can_name_nobody_has_its_own_status_and_the_others_are_answered(parties: Parties) -> None:
    await parties.start()
    bad: list[str | bytes] = ["", "i" * 10_000, b"\xff\xfe", "\ud800", "u1\n", "u\0" + "1", "\x7f"]
    asked: list[str | bytes] = ["u1"]
    for each in bad:
        asked += [each, QUOTES]

    found = await parties.predict(asked)

    nobody = (INVALID, NAN, dict.fromkeys(WEIGHTS, INVALID))
    quotes = (OK, 2.0 + 6.0 - 0.0 + 0.5, dict[str, SampleStatus]())
    check(found, [(OK, U1, {}), *[nobody, quotes] * len(bad)])
    assert found.sample_ids == asked


async def test_ids_are_compared_byte_by_byte(parties: Parties) -> None:
    await parties.start()

    found = await parties.predict(["u1 ", " u1", "U1", "u1", "o''hara"])

    assert found.status.tolist() == [NOT_FOUND, NOT_FOUND, NOT_FOUND, OK, NOT_FOUND]


async def test_a_feature_that_is_null_nan_or_infinite_has_a_status_and_no_number(parties: Parties) -> None:
    await parties.start()

    found = await parties.predict(["null", "nan", "inf", "u2"])

    check(
        found,
        [
            (FEATURE_MISSING, NAN, {"lab": FEATURE_MISSING}),
            (FEATURE_MISSING, NAN, {"lab": FEATURE_MISSING}),
            (FEATURE_INVALID, NAN, {"lab": FEATURE_INVALID}),
            (OK, U2, {}),
        ],
    )


async def test_an_unknown_model_is_named_and_the_client_goes_on(parties: Parties) -> None:
    await parties.start()
    async with parties.client() as client:
        with pytest.raises(ModelNotFoundError, match="no model 'credti' for this caller"):
            await client.predict("credti", ["u1"], timeout_s=ANSWERS_IN_S)
        with pytest.raises(NameRefusedError, match="is not a model id"):
            await client.predict("m; DROP TABLE", ["u1"], timeout_s=ANSWERS_IN_S)
        assert (await client.predict("m", ["u1"], timeout_s=ANSWERS_IN_S)).values.tolist() == [[U1]]


@pytest.mark.parametrize(("owner", "later", "changed"), [("bank", "5", U1 - 1.0), ("lab", "2", U1 + 2.0)])
async def test_a_warehouse_may_be_away_at_start_go_away_later_and_come_back(
    parties: Parties, owner: str, later: str, changed: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The bank's is the initiator's own part, the laboratory's a participant's."""
    caplog.set_level(logging.WARNING, "fedpredict.scoring.loader")
    for party in WEIGHTS:
        if party != owner:
            parties.fill(party)
    for party in ("lab", "shop"):
        await parties.serve(party)
    await parties.federation.initiator(MODEL, warehouse=parties.warehouses["bank"])
    with pytest.raises(ModelNotReadyError, match="the model is not ready"):
        await parties.predict(["u1"])
    parties.fill(owner)
    await parties.federation.ready()
    assert (await parties.predict(["u1"])).values.tolist() == [[U1]]

    away = parties.federation.folder / "away"
    caplog.clear()
    parties.folders[owner].rename(away)

    async def is_noticed() -> bool:
        assert (await parties.predict(["u1", "u2"])).values.tolist() == [[U1], [U2]]
        return "warehouse.problem" in caplog.messages

    await eventually(is_noticed)
    away.rename(parties.folders[owner])
    rows = parties.federation.folder / "later.csv"
    rows.write_text(f"who,{WEIGHTS[owner][0]}\nu1,{later}\n")
    load_file(parties.warehouses[owner], rows, view="people", key="who")

    async def is_seen() -> bool:
        return bool((await parties.predict(["u1"])).values[0, 0] == changed)

    await eventually(is_seen)
