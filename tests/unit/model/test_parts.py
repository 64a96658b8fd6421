from dataclasses import replace

import numpy as np
import pytest

from fedpredict.errors import IncompatiblePartsError, NameRefusedError
from fedpredict.model.ids import check_model_id, check_party_id, check_view_name, valid_sample_ids
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.manifest import PartDescription, build_manifest, manifest_from_json, manifest_to_json
from fedpredict.model.partial import PartialModel, VerificationRows, largest_difference


def describe(party: str, **changes: object) -> PartDescription:
    part = PartDescription(
        party=party,
        model_id="credit",
        params_sha256=party[0].encode().hex() * 32,
        training_run="run-1",
        kind=Kind.BINARY,
        link=own_link(Kind.BINARY),
        classes=("no", "yes"),
        n_scores=1,
        holds_intercept=party == "bank",
        fit_intercept=True,
    )
    return replace(part, **changes)  # type: ignore[arg-type]


def test_a_manifest_names_the_holder_of_the_intercept_and_sorts_the_parties() -> None:
    manifest = build_manifest({"telco": describe("telco"), "bank": describe("bank")})
    assert manifest.parties == ("bank", "telco")
    assert manifest.intercept_party == "bank"


def test_the_manifests_name_is_stable() -> None:
    manifest = build_manifest({"bank": describe("bank"), "telco": describe("telco")})
    assert manifest.manifest_sha256 == "ea0b3dcbbf4f9af9dc7cf2d11aa0393f11eab7daa5181ab593df313440a4daef"


@pytest.mark.parametrize(
    "changes", [{}, {"link": Link("cloglog")}, {"kind": Kind.LINEAR, "classes": (), "link": Link("power", 0.1)}]
)
def test_a_manifest_survives_its_json_form(changes: dict[str, object]) -> None:
    manifest = build_manifest({name: describe(name, **changes) for name in ("bank", "telco")})
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


def test_another_link_is_another_manifest() -> None:
    links = [Link("identity"), Link("log"), Link("power", 2.0), Link("power", 3.0)]
    shared: dict[str, object] = {"kind": Kind.LINEAR, "classes": ()}
    names = {
        build_manifest({name: describe(name, link=link, **shared) for name in ("bank", "telco")}).manifest_sha256
        for link in links
    }
    assert len(names) == len(links)


def test_a_link_that_the_kind_cannot_have_is_refused() -> None:
    with pytest.raises(IncompatiblePartsError, match="model credit: a binary model cannot have the link log"):
        build_manifest({name: describe(name, link=Link("log")) for name in ("bank", "telco")})
    manifest = build_manifest({name: describe(name) for name in ("bank", "telco")})
    for other in ("log", "nonsense", "power:0.5"):
        with pytest.raises(ValueError, match="link"):
            manifest_from_json(manifest_to_json(manifest).replace('"link":"logit"', f'"link":"{other}"'))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "other"}', "null"])
def test_what_is_not_a_manifest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"manifest|Expecting"):
        manifest_from_json(text)


@pytest.mark.parametrize(
    ("changes", "message", "parties"),
    [
        ({"training_run": "run-2"}, "training_run: bank says run-1; telco says run-2", ("bank", "telco")),
        ({"n_scores": 2}, "n_scores", ("bank", "telco")),
        ({"classes": ("yes", "no")}, "classes", ("bank", "telco")),
        ({"link": Link("probit")}, "link: bank says logit; telco says probit", ("bank", "telco")),
        ({"kind": Kind.LINEAR, "classes": ()}, "kind", ("bank", "telco")),
        ({"holds_intercept": True}, "bank and telco each hold an intercept", ("bank", "telco")),
    ],
)
def test_parts_that_do_not_fit_are_refused_naming_the_parties(
    changes: dict[str, object], message: str, parties: tuple[str, ...]
) -> None:
    with pytest.raises(IncompatiblePartsError, match=message) as raised:
        build_manifest({"bank": describe("bank"), "telco": describe("telco", **changes)})
    assert raised.value.parties == parties


def test_a_model_with_an_intercept_that_nobody_holds_is_refused() -> None:
    with pytest.raises(IncompatiblePartsError, match="none of bank, telco holds it"):
        build_manifest({"bank": describe("bank", holds_intercept=False), "telco": describe("telco")})


def test_a_model_without_intercept_needs_no_holder() -> None:
    parts = {name: describe(name, holds_intercept=False, fit_intercept=False) for name in ("bank", "telco")}
    assert build_manifest(parts).intercept_party is None


@pytest.mark.parametrize("value", ["", "-x", "a b", "a/b", "x" * 101, "..", "é"])
def test_a_model_id_that_breaks_the_rule_is_refused(value: str) -> None:
    with pytest.raises(NameRefusedError, match="is not a model id"):
        check_model_id(value)


@pytest.mark.parametrize("value", ["", "Bank", "bank-", "a.b", "x" * 64])
def test_a_party_id_is_a_dns_label(value: str) -> None:
    with pytest.raises(NameRefusedError, match="is not a party id"):
        check_party_id(value)


@pytest.mark.parametrize("value", ["", "1a", "A", "a-b", 'x"; DROP TABLE'])
def test_a_view_name_is_an_identifier(value: str) -> None:
    with pytest.raises(NameRefusedError, match="is not a view name"):
        check_view_name(value)


def test_sample_ids_are_judged_one_by_one() -> None:
    ids = [b"u1", b"", b"x" * 256, b"x" * 257, b"\xff", b"a\nb", b"a\x00b", b"a'b\"c", "年龄".encode(), b"\xc2\x85"]
    assert valid_sample_ids(ids).tolist() == [True, False, True, False, False, False, False, True, True, False]


def part(weights: object = ((1.0,), (2.0,)), intercept: object = (0.5,), constant: object = (0.0,)) -> LinearPart:
    held = None if intercept is None else np.array(intercept)
    return LinearPart(("a", "b"), np.array(weights), held, np.array(constant))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="weight is NaN or infinite"):
        part(weights=((bad,), (1.0,)))
    with pytest.raises(ValueError, match="intercept is NaN or infinite"):
        part(intercept=(bad,))


def test_columns_that_do_not_fit_the_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="for 2 weights"):
        part().partial_scores(np.ones((3, 1)))


def model(**changes: object) -> PartialModel:
    fields: dict[str, object] = {
        "model_id": "credit", "training_run": "r", "party": "bank", "kind": Kind.BINARY,
        "classes": ("0", "1"), "fit_intercept": True, "part": part(),
    }  # fmt: skip
    return PartialModel(**(fields | changes))  # type: ignore[arg-type]


def test_a_part_cannot_hold_an_intercept_that_the_model_has_not() -> None:
    with pytest.raises(ValueError, match="said to have none"):
        model(fit_intercept=False)


def test_verification_rows_show_the_largest_difference() -> None:
    rows = VerificationRows(np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([[3.5], [4.0]]))
    absolute, relative = largest_difference(model(verification=rows))
    assert absolute == 0.5
    assert relative == pytest.approx(0.5 / 4.5)


def test_verification_rows_with_nan_never_agree() -> None:
    rows = VerificationRows(np.array([[1.0, 1.0]]), np.array([[np.nan]]))
    assert largest_difference(model(verification=rows))[0] == np.inf
