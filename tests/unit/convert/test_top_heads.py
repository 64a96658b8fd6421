"""Top models and the parts that go into them as files: what is written reads back, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpredict.convert.head_form import head_from_portable, head_to_portable
from fedpredict.convert.network_top_cut import split_under_top
from fedpredict.convert.portable import from_portable, parse_json, to_json, to_portable
from fedpredict.convert.read import HeadResult, read_file, read_model_file
from fedpredict.convert.simulate import simulate
from fedpredict.convert.split import split_model
from fedpredict.convert.split_trees_cut import HeadedCut
from fedpredict.convert.write import write_head, write_partial
from fedpredict.errors import FeatureNamesError, IncompatiblePartsError, ModelConflictError, ModelFileError
from fedpredict.model.activations import Activation
from fedpredict.model.arrays import Floats
from fedpredict.model.combination import Combining, combination_of
from fedpredict.model.dense import Dense
from fedpredict.model.kinds import Kind
from fedpredict.model.network import NetworkPart
from fedpredict.model.partial import PartialModel
from fedpredict.model.step import Step, StepKind
from fedpredict.model.steps import StepsPart
from fedpredict.model.top_head import TopHead
from tests.network_parts import numeric_part, written_out
from tests.split_networks import Joint, block_network, masked_classifier

OWNERS = {"bank": (2, 3), "lab": (3, 2), "shop": (1, 1)}


@pytest.fixture(scope="module")
def joint() -> Joint:
    return block_network(OWNERS, hidden=("relu", "sigmoid"))


@pytest.fixture(scope="module")
def cut(joint: Joint) -> HeadedCut:
    return split_under_top(joint.model, joint.owners, "bank", rows=joint.rows)


def network_of(part: PartialModel) -> NetworkPart:
    assert isinstance(part.part, NetworkPart)
    return part.part


def top_of(head: object) -> TopHead:
    assert isinstance(head, TopHead)
    return head


@pytest.mark.parametrize("hidden", [("leaky_relu",), ()])
def test_a_head_reads_back_as_it_was_written(hidden: tuple[str, ...], tmp_path: Path) -> None:
    made = block_network(OWNERS, hidden=hidden, top=("leaky_relu", "identity"))
    head = split_under_top(made.model, made.owners, "agency").head
    write_head(tmp_path / "head.json", head)

    result = read_file(tmp_path / "head.json")

    assert isinstance(result, HeadResult)
    found, written = top_of(result.head.head), top_of(head.head)
    assert (found.combination, found.parties, found.widths) == (written.combination, written.parties, written.widths)
    for mine, theirs in zip(found.layers, written.layers, strict=True):
        assert mine.weights.tobytes() == np.ascontiguousarray(theirs.weights).tobytes()
        assert mine.bias.tobytes() == theirs.bias.tobytes()
        assert (mine.activation, mine.slope) == (theirs.activation, theirs.slope)
    assert result.head.party == "agency"


def test_a_part_reads_back_as_it_was_written(cut: HeadedCut, tmp_path: Path) -> None:
    write_partial(tmp_path / "lab.pkl", cut.parts["lab"])

    part = read_model_file(tmp_path / "lab.pkl").partial

    assert combination_of(part.part) == combination_of(cut.parts["lab"].part) == cut.head.head.combination
    rows = cut.parts["lab"].verification
    assert rows is not None
    assert part.part.partial_scores(rows.features).tobytes() == rows.partial_scores.tobytes()
    assert part.verification is not None


def test_a_simulation_plays_bottoms_and_head(joint: Joint, cut: HeadedCut) -> None:
    report = simulate(cut.parts, joint.model, joint.rows, joint.model.part.features, cut.head)

    assert report.n_scored == len(joint.rows)
    assert report.largest_relative <= 1e-12
    np.testing.assert_allclose(report.combined.predictions, joint.raw, rtol=1e-9, atol=1e-12)
    without = {party: part for party, part in cut.parts.items() if party != "shop"}
    with pytest.raises(IncompatiblePartsError, match="takes shares of bank, lab, shop"):
        simulate(without, joint.model, joint.rows, joint.model.part.features, cut.head)


def by_hand(n_outputs: int = 1) -> dict[str, Any]:
    """A part as its training side may write it."""
    return {
        "format": "fedpredict-partial-1",
        "model_id": "m",
        "training_run": "run-1",
        "party": "lab",
        "kind": "binary",
        "classes": [0, 1],
        "fit_intercept": False,
        "family": "network",
        "part": {
            "features": ["a", "b"],
            "layers": [{"weights": [[1, 2], [3, 4]], "bias": [0.5, -0.5], "activation": "relu"}],
            "combining": "top_concat",
            "structure": "lab 2, shop 3, dense 4",
            "n_outputs": n_outputs,
            "n_scores": 3,
        },
    }


def head_by_hand() -> dict[str, Any]:
    return {
        "format": "fedpredict-head-1",
        "model_id": "m",
        "training_run": "run-1",
        "party": "bank",
        "kind": "binary",
        "classes": [0, 1],
        "combining": "top_concat",
        "head": {
            "structure": "lab 2, shop 3, dense 4",
            "parties": ["lab", "shop"],
            "widths": [2, 3],
            "layers": [{"weights": [[1], [2], [3], [4], [5]], "bias": [6]}],
        },
    }


def test_what_is_written_by_hand_fits_together() -> None:
    part, head = from_portable(by_hand()).part, head_from_portable(head_by_hand()).head

    assert combination_of(part) == head.combination
    assert part.n_scores == head.n_scores == 3
    assert part.partial_scores(np.array([[1.0, 2.0]])).tolist() == [[7.5, 9.5, 0.0]]
    lab, shop = np.array([[1.0, 2.0, 9.0]]), np.array([[3.0, 4.0, 5.0]])
    assert head.raw_scores({"lab": lab, "shop": shop}).raw.tolist() == [[1 + 4 + 9 + 16 + 25 + 6]]
    again = from_portable(to_portable(from_portable(by_hand())))
    assert combination_of(again.part) == head.combination


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "softplus", "identity", "tanh"])
def test_a_narrow_embedding_is_followed_by_zeros_whatever_its_activation(activation: str) -> None:
    content = by_hand()
    content["part"]["layers"][0]["activation"] = activation
    content["part"]["layers"][0]["weights"] = [[0.1, 0.2], [0.3, 0.4]]
    narrow = {key: value for key, value in content["part"].items() if key != "n_scores"}
    rows = np.array([[1.0, 2.0], [-3.0, 0.5]])

    wide = from_portable(content).part.partial_scores(rows)

    own = from_portable({**content, "part": narrow}).part.partial_scores(rows)
    assert wide[:, :2].tolist() == own.tolist()
    assert wide[:, 2].tolist() == [0.0, 0.0]


def _part(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["part"].update(changes)


def _no(*keys: str) -> Callable[[dict[str, Any]], None]:
    def remove(content: dict[str, Any]) -> None:
        for key in keys:
            content["part" if "part" in content else "head"].pop(key)

    return remove


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_part(combining="leaf_masks"), "none of top_sum, top_concat"),
        (_part(combining=["top_sum"]), "none of top_sum, top_concat"),
        (_no("combining"), "says structure, which is for a head"),
        (_no("structure"), "needs structure"),
        (_part(structure=7), "structure is a int"),
        (_part(structure_sha256="5" * 64), "needs structure"),
        (_part(n_outputs=0), "n_outputs is not a whole number"),
        (_part(n_outputs=True), "n_outputs is not a whole number"),
        (_part(n_outputs=2), "needs 1 scores a sample, not 2"),
        (_part(n_scores=1), "n_scores is 1, but the network's embedding has 2"),
        (_part(n_scores="3"), "n_scores is not a whole number"),
        (_part(intercept=[1, 2, 3]), "belongs into the top model"),
        (lambda content: content.update(fit_intercept=True), "fit_intercept must be false"),
    ],
)
def test_a_part_that_does_not_fit_together_is_refused(damage: Callable[[dict[str, Any]], None], told: str) -> None:
    content = by_hand()
    damage(content)

    with pytest.raises(ModelFileError, match=told):
        from_portable(content)


def _head(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["head"].update(changes)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_no("structure"), "needs structure"),
        (_head(structure_sha256="5" * 64), "needs structure"),
        (_head(structure=None, structure_sha256="5"), "structure_sha256"),
        (_head(parties="lab"), "head.parties is not a list"),
        (_head(parties=["lab", "lab"]), "one twice"),
        (_head(parties=["lab", 1]), "head.parties is not a list"),
        (_head(widths=None), "head.widths is not a list"),
        (_head(widths=[2, -3]), "head.widths is not a whole number"),
        (_head(widths=[2, 2]), "the embeddings give 4"),
        (_head(widths=[5]), "2 parties with embeddings"),
        (_head(layers=[]), "needs layers"),
        (_head(layers=[{"weights": [[1]], "bias": [1], "activation": "magic"}]), "unknown activation"),
        (_head(values=[1]), "unknown key 'values'"),
        (lambda content: content.update(combining="top_sum"), "cannot be added up"),
        (lambda content: content.update(combining="sum"), "leaf_masks, top_sum, top_concat"),
        (lambda content: content.update(classes=[1, 2, 3]), "classes"),
    ],
)
def test_a_head_that_does_not_fit_together_is_refused(damage: Callable[[dict[str, Any]], None], told: str) -> None:
    content = head_by_hand()
    damage(content)

    with pytest.raises(ModelFileError, match=told):
        head_from_portable(json.loads(json.dumps(content)))


def test_a_head_is_written_with_the_digest_of_its_structure() -> None:
    plain: Any = head_to_portable(head_from_portable(head_by_hand()))

    assert "structure" not in plain["head"]
    assert head_from_portable(plain).head.combination == head_from_portable(head_by_hand()).head.combination


def joint_of(model: Any) -> PartialModel:
    """The whole network of scikit-learn's classifier, by its own attributes."""
    part = numeric_part((1, 1), ("identity",))
    layers = tuple(
        type(part.layers[0])(weights, bias, Activation.TANH if at < 2 else Activation.IDENTITY)
        for at, (weights, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True))
    )
    names = tuple(f"f{at}" for at in range(len(model.coefs_[0])))
    classes = tuple(str(each) for each in model.classes_)
    kind = Kind.BINARY if len(classes) == 2 else Kind.MULTINOMIAL
    return PartialModel("m", "run-1", "joint", kind, classes, False, NetworkPart(names, {}, {}, layers, None))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("mixing", "combining"), [(0.0, Combining.TOP_CONCAT), (1e-3, Combining.TOP_SUM)])
def test_a_cut_network_gives_the_probabilities_of_scikit_learn(
    n_classes: int, mixing: float, combining: Combining
) -> None:
    model, rows = masked_classifier({"bank": (2, 3), "lab": (3, 3)}, n_classes=n_classes)
    model.coefs_[0][0, -1] = mixing  # a weight from a feature of the bank to a unit of the lab
    expected: Floats = model.predict_proba(rows)
    joint = joint_of(model)
    owners = {"bank": ["f0", "f1"], "lab": ["f4", "f2", "f3"]}

    cut = split_under_top(joint, owners, "bank")

    assert cut.head.head.combination.combining is combining
    report = simulate(cut.parts, joint, rows, joint.part.features, cut.head)
    found = report.combined.predictions
    np.testing.assert_allclose(found, expected if n_classes > 2 else expected[:, 1:], rtol=1e-9)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("hidden", [("relu",), ("relu", "sigmoid"), ()])
def test_a_party_without_features_adds_nothing_to_the_embeddings(hidden: tuple[str, ...], place: int) -> None:
    whole = block_network(OWNERS, hidden=hidden, seed=place)
    owners = list(whole.owners.items())
    owners.insert(place, ("agency", []))

    cut = split_under_top(whole.model, dict(owners), "bank", rows=whole.rows)

    parts = {party: from_portable(parse_json(to_json(part))) for party, part in cut.parts.items()}
    agency = network_of(parts["agency"])
    assert (agency.features, agency.n_scores) == ((), cut.head.head.n_scores)
    assert agency.partial_scores(np.zeros((2, 0))).tolist() == [[0.0] * agency.n_scores] * 2
    report = simulate(parts, whole.model, whole.rows, whole.model.part.features, cut.head)
    np.testing.assert_allclose(report.combined.predictions, whole.raw, rtol=1e-9, atol=1e-12)
    expected = Combining.TOP_CONCAT if hidden else Combining.TOP_SUM
    assert cut.head.head.combination.combining is expected
    if hidden:
        assert top_of(cut.head.head).widths[place] == 1


@pytest.mark.parametrize("first", ["idle", "bank"])
def test_units_of_no_party_are_the_firsts_and_parties_without_units_send_a_zero(first: str) -> None:
    random = np.random.default_rng(2)
    weights = [random.normal(size=shape) for shape in ((3, 3), (3, 3), (3, 2))]
    weights[0][:, 0] = weights[0][2] = 0.0  # unit 0 is of no feature, and feature 2 of no unit
    weights[1][0, 1:] = weights[1][1:, 0] = 0.0  # unit 0 of the second layer is of unit 0, so of no feature either
    biases: list[Floats] = [random.normal(size=each.shape[1:]) for each in weights]
    layers = [Dense(w, b, Activation.TANH) for w, b in zip(weights[:2], biases[:2], strict=True)]
    part = NetworkPart(("f0", "f1", "f2"), {}, {}, (*layers, Dense(weights[2], biases[2])), None)
    joint = PartialModel("m", "r", "joint", Kind.LINEAR, (), False, part)
    rows = random.normal(size=(7, 3))
    owners = {"bank": ["f1", "f0"], "idle": ["f2"], "none": []}
    ordered = {first: owners[first], **owners}

    cut = split_under_top(joint, ordered, "bank")

    expected = np.tanh(np.tanh(rows @ weights[0] + biases[0]) @ weights[1] + biases[1]) @ weights[2] + biases[2]
    parts = {party: from_portable(parse_json(to_json(each))) for party, each in cut.parts.items()}
    report = simulate(parts, joint, rows, part.features, cut.head)
    np.testing.assert_allclose(report.combined.predictions, expected, rtol=1e-9)
    head = top_of(cut.head.head)
    assert head.combining is Combining.TOP_CONCAT
    widths = {"bank": 3, "idle": 1, "none": 1} if first == "bank" else {"bank": 2, "idle": 1, "none": 1}
    assert dict(zip(head.parties, head.widths, strict=True)) == widths


def test_a_joint_intercept_goes_into_the_head(joint: Joint) -> None:
    part = numeric_part((3, 4, 2), ("relu", "identity"), np.array([10.0, -20.0]))
    softmax = numeric_part((3, 4, 2), ("relu", "softmax"), np.array([10.0, -20.0]))
    rows = np.random.default_rng(0).normal(size=(9, 3))

    for whole in (part, softmax):
        model = PartialModel("m", "run-1", "joint", Kind.LINEAR, (), True, whole)
        cut = split_under_top(model, {"lab": ["f2"], "shop": ["f0", "f1"]}, "bank")
        shares = {
            party: part.part.partial_scores(rows[:, [2] if party == "lab" else [0, 1]])
            for party, part in cut.parts.items()
        }
        np.testing.assert_allclose(cut.head.head.raw_scores(shares).raw, whole.partial_scores(rows), rtol=1e-9)


def test_what_cannot_be_cut_is_refused(joint: Joint, cut: HeadedCut) -> None:
    with pytest.raises(ModelConflictError, match="nothing of it can be cut off"):
        split_under_top(cut.parts["lab"], {"a": ["f2"], "b": ["f3", "f4"]}, "bank")
    with pytest.raises(ModelConflictError, match="cut the joint model instead"):
        split_model(cut.parts["lab"], {"a": ["f2"], "b": ["f3", "f4"]}, None)
    with pytest.raises(FeatureNamesError, match="at no party"):
        split_under_top(joint.model, {"lab": ["f0"]}, "bank")
    with pytest.raises(FeatureNamesError, match="rows of shape"):
        split_under_top(joint.model, joint.owners, "bank", rows=np.zeros((3, 1)))
    with pytest.raises(ModelConflictError, match=r"mixes features of the parties .*\(--head\)"):
        split_model(block_network(OWNERS, hidden=()).model, joint.owners, None)


@pytest.mark.parametrize("hidden", [("relu",), ()])
def test_preprocessing_of_each_partys_features_stays_in_front_of_its_part(hidden: tuple[str, ...]) -> None:
    whole = block_network(OWNERS, hidden=hidden)
    core, names = network_of(whole.model), whole.model.part.features
    renamed = replace(core, features=tuple(f"clipped {name}" for name in names))
    numbers = {"low": np.full((len(names), 1), -0.5), "high": np.full((len(names), 1), 0.75)}
    steps = (Step(StepKind.CLIP, names, renamed.features, numbers, {}),)
    joint = replace(whole.model, part=StepsPart(names, {}, steps, renamed))

    cut = split_under_top(joint, whole.owners, "bank", rows=whole.rows)

    report = simulate(cut.parts, joint, whole.rows, names, cut.head)
    expected = written_out(core, np.clip(whole.rows, -0.5, 0.75))
    np.testing.assert_allclose(report.combined.predictions, expected, rtol=1e-9, atol=1e-12)
    assert report.n_scored == len(whole.rows)
    assert {combination_of(part.part) for part in cut.parts.values()} == {cut.head.head.combination}
    mixing = (Step(StepKind.PRODUCT, names, ("all",), {}, {"terms": [[0, 5]]}),)
    product = replace(numeric_part((1, 2), ("relu",)), features=("all",))
    mixed = replace(joint, part=StepsPart(names, {}, mixing, product))
    with pytest.raises(ModelConflictError, match="bank"):
        split_under_top(mixed, whole.owners, "bank")
