"""What a party tells of a part that needs a head: it survives the wire, and who knows no heads refuses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fedpredict.errors import ProtocolError
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.links import Link
from fedpredict.model.manifest import PartDescription
from fedpredict.wire.description import description_from_wire, description_to_wire
from fedpredict.wire.v1 import common_pb2, participant_pb2

PART = PartDescription(
    party="lab",
    model_id="m",
    params_sha256="a" * 64,
    training_run="run-1",
    kind=Kind.BINARY,
    link=own_link(Kind.BINARY),
    classes=("0", "1"),
    n_scores=2500,
    holds_intercept=False,
    fit_intercept=False,
    combination=Combination(Combining.LEAF_MASKS, "5" * 64, 1),
)
Message = participant_pb2.DescribeModelReply


@pytest.mark.parametrize("link", [own_link(Kind.BINARY), Link("probit")])
def test_it_survives_the_wire(link: Link) -> None:
    part = replace(PART, link=link)

    assert description_from_wire(Message.FromString(description_to_wire("r-1", part).SerializeToString())) == part


@pytest.mark.parametrize("link", [own_link(Kind.BINARY), Link("probit")])
def test_an_initiator_that_knows_no_heads_sees_no_kind_and_refuses(link: Link) -> None:
    message = description_to_wire("r-1", replace(PART, link=link))
    message.ClearField("combination")  # as a reader without the field sees it

    assert (message.kind, message.linked_kind, message.link) == (common_pb2.KIND_UNSPECIFIED,) * 2 + ("",)
    with pytest.raises(ProtocolError, match="unknown kind"):
        description_from_wire(message)


def test_a_part_that_is_added_up_has_no_such_field() -> None:
    assert not description_to_wire("r-1", replace(PART, n_scores=1, combination=None)).HasField("combination")


def _kind(message: Message) -> None:
    message.kind = common_pb2.KIND_BINARY


def _link(message: Message) -> None:
    message.link = "probit"


def _combining(message: Message) -> None:
    message.combination.combining = "magic"


def _structure(message: Message) -> None:
    message.combination.structure_sha256 = b"\0"


def _no_outputs(message: Message) -> None:
    message.combination.n_outputs = 0


def _many_outputs(message: Message) -> None:
    message.combination.n_outputs = 2**31


def _no_kind(message: Message) -> None:
    message.combination.kind = common_pb2.KIND_UNSPECIFIED


def _strange_link(message: Message) -> None:
    message.combination.link = "softmax"


@pytest.mark.parametrize(
    "damage", [_kind, _link, _combining, _structure, _no_outputs, _many_outputs, _no_kind, _strange_link]
)
def test_a_damaged_one_is_refused(damage: Callable[[Message], None]) -> None:
    message = description_to_wire("r-1", PART)
    damage(message)

    with pytest.raises(ProtocolError):
        description_from_wire(message)
