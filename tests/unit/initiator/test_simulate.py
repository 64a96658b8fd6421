"""Made-up answers: shaped like real ones, the same every time, and marked."""

from __future__ import annotations

import numpy as np
import pytest

from fedpredict.errors import EmptyRequestError, ModelNotFoundError
from fedpredict.initiator.admission import Access, Admission
from fedpredict.initiator.settings import ClientSettings, LimitSettings, ModelSettings, SimulateSettings
from fedpredict.initiator.simulate import Simulator, simulated_scores
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link
from fedpredict.model.manifest import Manifest
from fedpredict.model.prediction import Origin, Prediction, PredictTask
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.security.identity import Identity, IdentityKind

DESK = Identity(IdentityKind.CLIENT, "desk")
WINE = Manifest(
    model_id="wine",
    training_run="run-1",
    kind=Kind.MULTINOMIAL,
    link=own_link(Kind.MULTINOMIAL),
    classes=("a", "b", "c"),
    n_scores=3,
    fit_intercept=True,
    intercept_party="lab",
    digests=(("lab", "0" * 64),),
)
MODELS = {
    "credit": ModelSettings(parties=("lab",)),
    "wine": ModelSettings(parties=("lab",)),
    "claims": ModelSettings(
        parties=("lab",), simulate=SimulateSettings(kind=Kind.LINEAR, link=Link("log"), classes=(), n_scores=1)
    ),
    "roots": ModelSettings(
        parties=("lab",), simulate=SimulateSettings(kind=Kind.LINEAR, link=Link("power", 2.0), classes=(), n_scores=1)
    ),
    "price": ModelSettings(parties=("lab",), simulate=SimulateSettings(kind=Kind.LINEAR, classes=(), n_scores=2)),
}
ADMISSION = Admission(Access({"desk": ClientSettings(models=("*",))}), LimitSettings(), max_samples=100)


async def answer(model_id: str, sample_ids: list[bytes]) -> Prediction:
    simulator = Simulator(MODELS, {"wine": WINE}, ADMISSION)
    task = PredictTask(request_id="r-1", model_id=model_id, mode=Mode.NEARLINE, sample_ids=sample_ids)
    return await simulator.predict(task, DESK, deadline_s=None)


async def test_a_model_never_met_is_binary_and_marked() -> None:
    made_up = await answer("credit", [b"u1", b"u2"])
    assert made_up.simulated
    assert made_up.classes == ("0", "1")
    assert made_up.predictions.shape == (2, 1)
    assert ((made_up.predictions > 0.0) & (made_up.predictions < 1.0)).all()
    assert made_up.manifest_sha256 == ""


async def test_a_pinned_model_keeps_its_kind_and_classes() -> None:
    made_up = await answer("wine", [b"u1", b"u2"])
    assert made_up.classes == ("a", "b", "c")
    np.testing.assert_allclose(made_up.predictions.sum(axis=1), 1.0, atol=1e-12)
    assert made_up.manifest_sha256 == WINE.manifest_sha256


async def test_the_settings_can_say_the_shape() -> None:
    assert (await answer("price", [b"u1"])).predictions.shape == (1, 2)


async def test_the_link_is_the_models() -> None:
    ids = [b"u%d" % number for number in range(50)]
    raw = simulated_scores("claims", ids, 1)
    np.testing.assert_array_equal((await answer("claims", ids)).predictions, np.exp(raw))


async def test_a_made_up_score_beyond_the_link_is_out_of_range_and_has_no_origin() -> None:
    ids = [b"u%d" % number for number in range(50)]
    negative = simulated_scores("roots", ids, 1)[:, 0] < 0.0

    made_up = await answer("roots", ids)

    assert negative.any()
    assert (made_up.status == np.where(negative, SampleStatus.OUT_OF_RANGE, SampleStatus.OK)).all()
    assert (made_up.origin == np.where(negative, Origin.UNSPECIFIED, Origin.MODEL)).all()
    assert (np.isnan(made_up.predictions[:, 0]) == negative).all()


async def test_the_same_sample_gets_the_same_number_wherever_it_stands() -> None:
    some, others = await answer("credit", [b"u1", b"u2"]), await answer("credit", [b"u2", b"u3", b"u1"])
    assert some.predictions.tolist() == [others.predictions[2].tolist(), others.predictions[0].tolist()]


async def test_an_invalid_id_gets_no_number() -> None:
    made_up = await answer("credit", [b"u1", b""])
    assert made_up.status.tolist() == [SampleStatus.OK, SampleStatus.ID_INVALID]
    assert np.isnan(made_up.predictions[1]).all()


async def test_bad_tasks_are_refused_as_with_partners() -> None:
    with pytest.raises(EmptyRequestError):
        await answer("credit", [])
    with pytest.raises(ModelNotFoundError):
        await answer("nosuch", [b"u1"])


def test_the_numbers_are_these() -> None:
    """Literal values, so that an integrator's recorded answers stay true with the next version."""
    assert simulated_scores("credit", [b"u1", b"u2"], 2).tolist() == [
        [3.395120728271289, 1.5512052106195515],
        [1.4486406863130012, 1.5672521522752287],
    ]


def test_a_simulated_model_is_ready() -> None:
    simulator = Simulator(MODELS, {"wine": WINE}, ADMISSION)
    assert simulator.model_ids == ("claims", "credit", "price", "roots", "wine")
    assert [str(simulator.info(name).link) for name in ("credit", "claims")] == ["logit", "log"]
    info = simulator.info("wine")
    assert (info.ready, info.n_outputs, info.classes) == (True, 3, ("a", "b", "c"))
    with pytest.raises(ModelNotFoundError):
        simulator.info("nosuch")
