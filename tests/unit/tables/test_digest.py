"""The digest of parameters, against bytes put together by hand."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpredict.model.arrays import Floats
from fedpredict.model.kinds import Kind
from fedpredict.model.linear import LinearPart
from fedpredict.model.links import Link
from fedpredict.model.manifest import PartDescription, build_manifest
from fedpredict.model.partial import PartialModel
from fedpredict.tables.digest import params_sha256

SALT = bytes(range(32))
WEIGHTS = {"age": (0.1, -0.0), "Income": (5e-324, 1.7976931348623157e308), "年龄": (-1e-300, 1 / 3)}
INTERCEPT, CONSTANT = (-0.0, 0.1), (0.0, -2.5)
PART = LinearPart(tuple(WEIGHTS), np.array(list(WEIGHTS.values())), np.array(INTERCEPT), np.array(CONSTANT))
PARTIAL = PartialModel("digest-model", "run-1", "lab", Kind.LINEAR, (), True, PART)
GOLDEN = "2d7866912c5ffc5e13435dd7e0a6d6d5d85872b4324a8cdf665c68bc3cdabfac"


def digest(partial: PartialModel = PARTIAL, view: str = "digest", version: int = 1, salt: bytes = SALT) -> str:
    return params_sha256(partial, view, version, salt)


def with_part(**changes: object) -> PartialModel:
    return replace(PARTIAL, part=replace(PART, **changes))  # type: ignore[arg-type]


def test_the_digest_is_the_sha256_of_the_documented_bytes() -> None:
    def field(content: bytes) -> bytes:
        return struct.pack(">Q", len(content)) + content

    texts = ["fedpredict-params-1", "digest-model", "lab", "run-1", "linear", "identity", "digest", "1"]
    counts = ["1", "1", "2", "0", "3"]  # fit_intercept, holds_intercept, n_scores, classes, features
    content = field(SALT) + b"".join(field(text.encode()) for text in texts + counts)
    for name in ("Income", "age", "年龄"):
        content += field(name.encode()) + field(struct.pack(">2d", *WEIGHTS[name]))
    content += field(struct.pack(">2d", *INTERCEPT)) + field(struct.pack(">2d", *CONSTANT))

    assert hashlib.sha256(content).hexdigest() == GOLDEN
    assert digest() == GOLDEN


@pytest.mark.parametrize(
    ("kind", "classes", "params", "manifest"),
    [
        (
            Kind.LINEAR,
            (),
            "ed21974fd2c2beeb97b43ed0fbdcd8dd7ac914b990bd4b7225bea8139ba3d7c4",
            "7269237be15fb740ce4883aea39a115d91987fcd13ecb3ab65e404fe98b447b3",
        ),
        (
            Kind.BINARY,
            ("no", "yes"),
            "350d7c60d2a186fd21fe192c94d18571e4d66367f1af67d57bb6abb6caf88777",
            "33b34be8c35b0900eb85148077544482d330be03fcd49a8a90019c334f4096c0",
        ),
        (
            Kind.MULTINOMIAL,
            ("no", "yes"),
            "a4bad05212b804b191e23505ea9a4878c8d551f695265d36611e0fea9648c62a",
            "0513679e7d06dc0792b0997586729107940d66690a8a964bc1dc255bae09c96f",
        ),
        (
            Kind.ONE_VS_REST,
            ("a", "b", "c"),
            "2704a9d666ab7b30fd63bb912c1b6a11db0e86183542f1fcfa243c783b7923e3",
            "9d1f0bdbc5be22ab865d2e910865622c9abe55aea223691b4f935f0d29820608",
        ),
    ],
)
def test_models_from_before_there_were_links_keep_their_names(
    kind: Kind, classes: tuple[str, ...], params: str, manifest: str
) -> None:
    """Computed by the version before ADR 0019."""
    width = {Kind.LINEAR: 2, Kind.BINARY: 1}.get(kind, len(classes))
    part = LinearPart(("x", "y"), np.arange(2.0 * width).reshape(2, width), np.ones(width), np.zeros(width))
    partial = PartialModel("credit", "run-1", "bank", kind, classes, True, part)
    digest_now = params_sha256(partial, "v", 1, bytes(32))
    description = PartDescription(
        party="bank",
        model_id="credit",
        params_sha256=digest_now,
        training_run="run-1",
        kind=kind,
        link=partial.link,
        classes=classes,
        n_scores=width,
        holds_intercept=True,
        fit_intercept=True,
    )

    assert digest_now == params
    assert build_manifest({"bank": description}).manifest_sha256 == manifest


def test_the_power_of_a_link_matters() -> None:
    powers = {digest(replace(PARTIAL, link=Link("power", power))) for power in (1.0, 2.0, np.nextafter(2.0, 3.0))}

    assert len(powers) == 3


def test_the_order_of_the_features_does_not_matter() -> None:
    order = [2, 0, 1]
    shuffled = with_part(features=tuple(PART.features[at] for at in order), weights=PART.weights[order])

    assert digest(shuffled) == GOLDEN


def test_what_people_read_does_not_matter() -> None:
    assert digest(replace(PARTIAL, metadata={"made": "yesterday"})) == GOLDEN


@pytest.mark.parametrize(
    "other",
    [
        replace(PARTIAL, model_id="other"),
        replace(PARTIAL, party="bank"),
        replace(PARTIAL, training_run="run-2"),
        replace(PARTIAL, link=Link("log")),
        replace(PARTIAL, kind=Kind.MULTINOMIAL, link=Link("softmax"), classes=("a", "b")),
        with_part(features=("age", "income", "年龄")),
        with_part(intercept=None),
        with_part(intercept=np.array([0.0, 0.1])),
        with_part(constant=np.array([-0.0, -2.5])),
        with_part(weights=PART.weights[[1, 0, 2]]),
        with_part(weights=PART.weights[:, ::-1]),
    ],
)
def test_everything_that_makes_the_model_matters(other: PartialModel) -> None:
    assert digest(other) != GOLDEN


def test_classes_matter_with_their_order_and_their_bounds() -> None:
    classes = [("a", "b"), ("b", "a"), ("ab", ""), ("a", "b,")]
    digests = {digest(replace(PARTIAL, kind=Kind.MULTINOMIAL, link=Link("softmax"), classes=each)) for each in classes}

    assert len(digests) == len(classes)


def test_the_view_its_version_and_the_salt_matter() -> None:
    others = {digest(view="other"), digest(version=2), digest(salt=bytes(32)), GOLDEN}

    assert len(others) == 4


def test_a_salt_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        digest(salt=bytes(31))


@given(row=st.integers(0, 2), column=st.integers(0, 1), bit=st.integers(0, 63))
def test_any_bit_of_a_weight_changes_the_digest(row: int, column: int, bit: int) -> None:
    weights = PART.weights.copy()
    weights.view(np.uint64)[row, column] ^= np.uint64(1 << bit)
    if not np.isfinite(weights).all():
        return

    assert digest(with_part(weights=weights)) != GOLDEN


@pytest.mark.parametrize("weights", [np.asfortranarray(PART.weights), PART.weights.astype(">f8")])
def test_the_layout_of_the_array_in_memory_does_not_matter(weights: Floats) -> None:
    assert digest(with_part(weights=weights)) == GOLDEN
