"""An initiator that holds a head, and parties that send leaf masks over gRPC with mutual TLS."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from fedpredict.convert.split_trees_cut import HeadedCut, split_with_head
from fedpredict.errors import ModelNotReadyError
from fedpredict.features.load import load_file
from fedpredict.initiator.predict import HEAD_NUMBERS
from fedpredict.model.combination import combination_of
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.manifest import PartDescription
from fedpredict.model.partial import PartialModel
from fedpredict.model.prediction import Origin
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.share import SampleStatus, build_share
from fedpredict.tables.heads import delete_heads, list_heads, publish_head
from fedpredict.tables.models import publish_model
from fedpredict.tables.views import latest_snapshot
from fedpredict.warehouse.local import LocalWarehouse
from fedpredict.wire.channel import MAX_MESSAGE_BYTES, max_samples_of
from fedpredict.wire.v1 import participant_pb2
from tests.integration.federation import (
    OLDEST,
    Federation,
    ScriptedParty,
    digest_of,
    eventually,
)
from tests.split_trees import Trained, boosted_classifier, perfect_trees

OWNERS = {"lab": ["f0", "f1", "f2"], "shop": ["f3", "f4", "f5"]}
FILE = "a" * 64


@dataclass
class MaskParty(ScriptedParty):
    """A party that scores its table with a part of split trees."""

    part: PartialModel = field(kw_only=True)

    @override
    def _answer(self, query: ScoreQuery) -> PartyReply:
        known = [sample_id in self.table for sample_id in query.sample_ids]
        width = len(self.part.part.features)
        rows = np.array([self.table.get(sample_id, [0.0] * width) for sample_id in query.sample_ids])
        status = np.where(known, np.uint8(SampleStatus.OK), np.uint8(SampleStatus.NOT_FOUND))
        return PartyReply(
            share=build_share(self.part.part.partial_scores(rows), status),
            oldest_event_time=OLDEST,
            elapsed_s=0.25,
            segment_event_times=np.full(len(query.segments), OLDEST) if query.segments else None,
        )


def describe(part: PartialModel) -> PartDescription:
    return PartDescription(
        party=part.party,
        model_id=part.model_id,
        params_sha256=digest_of(part.party),
        training_run=part.training_run,
        kind=part.kind,
        link=part.link,
        classes=part.classes,
        n_scores=part.part.n_scores,
        holds_intercept=False,
        fit_intercept=False,
        combination=combination_of(part.part),
    )


class Split:
    """A federation of two mask parties and the initiator's warehouse with the head."""

    def __init__(self, federation: Federation, trained: Trained) -> None:
        self.federation = federation
        self.trained = trained
        self.cut: HeadedCut = split_with_head(trained.joint, OWNERS, "bank")
        self.warehouse = LocalWarehouse(federation.folder / "bank-warehouse")
        self.ids = [f"s{at}".encode() for at in range(len(trained.rows))]
        self.parties: dict[str, MaskParty] = {}

    async def start(self, **settings: Any) -> None:
        """Start the parties, and the initiator once its head is published."""
        for name, features in OWNERS.items():
            part = self.cut.parts[name]
            columns = [int(feature[1:]) for feature in features]
            table = dict(zip(self.ids, self.trained.rows[:, columns].tolist(), strict=True))
            party = MaskParty(
                name, self.federation.certificates.of(name), {"m": describe(part)}, table, np.zeros((1, 1)), part=part
            )
            await party.start()
            self.federation.stack.push_async_callback(party.stop)
            self.federation.parties[name] = party.address
            self.parties[name] = party
        models: dict[str, dict[str, Any]] = {"m": {"parties": list(OWNERS), "head": True, **settings}}
        if "fallback_model" in settings:
            models["own"] = {"parties": ["bank"]}
        await self.federation.initiator(models, warehouse=self.warehouse, max_samples=10_000)


@pytest.fixture
def split(federation: Federation) -> Split:
    return Split(federation, boosted_classifier())


async def test_masks_of_two_parties_and_the_head_give_the_predictions_of_scikit_learn(split: Split) -> None:
    publish_head(split.warehouse, split.cut.head, FILE)
    await split.start()
    await split.federation.ready()

    prediction = await split.federation.predict(*split.ids)

    assert prediction.scored.all()
    np.testing.assert_allclose(prediction.predictions, split.trained.expected, rtol=1e-9)
    assert [report.party for report in prediction.parties] == ["lab", "shop"]
    assert (await split.federation.models())["m"].n_outputs == 1


async def test_without_the_head_nothing_is_answered_and_once_it_is_converted_it_is(split: Split) -> None:
    await split.start()

    async def is_told() -> bool:
        offer = split.federation.store.offers().get("m")
        return offer is not None and "convert the head" in offer.problem

    await eventually(is_told)
    with pytest.raises(ModelNotReadyError):
        await split.federation.predict(b"s1")

    publish_head(split.warehouse, split.cut.head, FILE)
    await split.federation.ready()
    assert (await split.federation.predict(b"s1")).scored.all()


async def test_a_pinned_head_answers_beside_a_newer_one_and_after_the_newer_is_pinned_that_one(split: Split) -> None:
    publish_head(split.warehouse, split.cut.head, FILE)
    await split.start()
    await split.federation.ready()
    head = split.cut.head.head
    doubled = replace(split.cut.head, head=replace(head, values=head.values * 2.0))  # type: ignore[type-var, attr-defined]

    newer, _ = publish_head(split.warehouse, doubled, "b" * 64)

    async def is_offered() -> bool:
        manifest = split.federation.store.offers()["m"].manifest
        return manifest is not None and manifest.head is not None and manifest.head.head_sha256 == newer.head_sha256

    await eventually(is_offered)
    before = await split.federation.predict(*split.ids[:5])
    np.testing.assert_allclose(before.predictions, split.trained.expected[:5], rtol=1e-9)
    pinned = split.federation.accept()

    async def is_answered_by_it() -> bool:
        answer = await split.federation.predict(*split.ids[:5])
        return answer.manifest_sha256 == pinned.manifest_sha256

    await eventually(is_answered_by_it)
    after = await split.federation.predict(*split.ids[:5])
    assert after.scored.all()
    assert not np.allclose(after.predictions, before.predictions)


async def test_a_head_that_is_gone_after_a_restart_makes_the_model_not_ready(split: Split) -> None:
    publish_head(split.warehouse, split.cut.head, FILE)
    await split.start()
    await split.federation.ready()
    delete_heads(split.warehouse, "m")
    assert not list_heads(split.warehouse)

    await split.federation.initiator(
        {"m": {"parties": list(OWNERS), "head": True}}, warehouse=LocalWarehouse(split.federation.folder / "empty")
    )

    with pytest.raises(ModelNotReadyError):
        await split.federation.predict(b"s1")


async def test_a_thousand_rows_of_masks_that_fill_more_than_a_message_travel_in_several(
    federation: Federation,
) -> None:
    trained = perfect_trees(n_trees=500, depth=8, n_rows=1000)
    split = Split(federation, trained)
    publish_head(split.warehouse, split.cut.head, FILE)
    await split.start()
    await split.federation.ready()
    n_scores = split.cut.head.head.n_scores
    assert n_scores * 8 * len(split.ids) > MAX_MESSAGE_BYTES

    prediction = await split.federation.predict(*split.ids)

    assert prediction.scored.all()
    np.testing.assert_allclose(prediction.predictions, trained.expected, rtol=1e-9)
    asked = [len(request.sample_ids.offsets) // 4 - 1 for request in split.parties["lab"].asked]
    assert len(asked) > 1
    assert max(asked) <= HEAD_NUMBERS // n_scores <= max_samples_of(n_scores)


async def test_a_sample_of_unknown_id_has_its_status_and_the_others_a_number(split: Split) -> None:
    publish_head(split.warehouse, split.cut.head, FILE)
    await split.start()
    await split.federation.ready()

    prediction = await split.federation.predict(b"s1", b"nobody", b"", b"s2")

    assert prediction.status.tolist() == [
        SampleStatus.OK,
        SampleStatus.NOT_FOUND,
        SampleStatus.ID_INVALID,
        SampleStatus.OK,
    ]
    np.testing.assert_allclose(prediction.predictions[[0, 3]], split.trained.expected[[1, 2]], rtol=1e-9)


def _nothing_allowed(reply: participant_pb2.ScoreReply) -> None:
    values = np.frombuffer(reply.values.values, dtype="<f8").copy().reshape(reply.values.rows, -1)
    values[-1, 3] = 0.0
    reply.values.values = values.tobytes()


async def test_a_mask_that_allows_nothing_is_refused_logged_and_counted_and_the_others_are_answered(
    split: Split, caplog: pytest.LogCaptureFixture
) -> None:
    publish_head(split.warehouse, split.cut.head, FILE)
    await split.start()
    await split.federation.ready()
    split.parties["shop"].edit = _nothing_allowed

    with caplog.at_level(logging.ERROR):
        prediction = await split.federation.predict(b"s1", b"s2")

    assert prediction.status.tolist() == [SampleStatus.OK, SampleStatus.REFUSED]
    assert np.isnan(prediction.predictions[1]).all()
    found = [record for record in caplog.records if record.message == "shares.contradict"]
    assert [(each.model, each.n_samples) for each in found] == [("m", 1)]  # type: ignore[attr-defined]
    assert found[0].reason == "tree 3: the masks of shop leave no leaf, where one must be left"  # type: ignore[attr-defined]
    assert "s2" not in str(found[0].__dict__)


async def test_where_a_party_is_away_the_fallback_model_answers(split: Split) -> None:
    publish_head(split.warehouse, split.cut.head, FILE)
    rows = split.federation.folder / "own.csv"
    rows.write_text("who,income\ns1,3.0\ns2,-1.0\n")
    load_file(split.warehouse, rows, view="own", key="who")
    snapshot = latest_snapshot(split.warehouse, "own")
    assert snapshot is not None
    part = LinearPart(("income",), np.array([[2.0]]), None, np.zeros(1))
    own = PartialModel("own", "run-1", "bank", Kind.BINARY, ("0", "1"), False, part)
    publish_model(split.warehouse, own, snapshot.view, FILE)
    await split.start(policy="fallback_model", fallback_model="own")
    await split.federation.ready()
    await split.federation.ready("own")
    whole = await split.federation.predict(b"s1")
    assert whole.origin.tolist() == [Origin.MODEL]
    np.testing.assert_allclose(whole.predictions, split.trained.expected[1:2], rtol=1e-9)

    await split.parties["shop"].stop()
    prediction = await split.federation.predict(b"s1", b"nobody")

    assert prediction.status.tolist() == [SampleStatus.OK, SampleStatus.PARTY_UNAVAILABLE]
    assert prediction.origin.tolist() == [Origin.FALLBACK_MODEL, Origin.UNSPECIFIED]
    np.testing.assert_allclose(prediction.predictions[0], 1.0 / (1.0 + np.exp(-6.0)), rtol=1e-12)
