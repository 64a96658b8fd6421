"""What parties tell of their parts, and of links, as messages. Raises `ProtocolError` on what breaks the protocol."""

from __future__ import annotations

from fedpredict.errors import ProtocolError
from fedpredict.model.combination import Combination, Combining
from fedpredict.model.kinds import MAX_CLASS_LABEL, MAX_CLASSES, Kind, check_link, is_own_link, own_link
from fedpredict.model.links import Link, parse_link
from fedpredict.model.manifest import DEFAULT_MAX_SAMPLES, PartDescription
from fedpredict.model.partial import MAX_TRAINING_RUN
from fedpredict.wire.channel import max_samples_of
from fedpredict.wire.codec import KINDS, digest_from_wire, from_enum, model_id_from_wire
from fedpredict.wire.v1 import common_pb2, participant_pb2


def description_to_wire(request_id: str, part: PartDescription) -> participant_pb2.DescribeModelReply:
    """Return what a party tells of its part as a message."""
    headed = part.combination is not None
    linked = not headed and not is_own_link(part.kind, part.link)
    return participant_pb2.DescribeModelReply(
        request_id=request_id,
        party=part.party,
        model_id=part.model_id,
        params_sha256=bytes.fromhex(part.params_sha256),
        training_run=part.training_run,
        kind=common_pb2.KIND_UNSPECIFIED if linked or headed else KINDS[part.kind],
        classes=part.classes,
        n_scores=part.n_scores,
        holds_intercept=part.holds_intercept,
        fit_intercept=part.fit_intercept,
        max_samples=part.max_samples,
        link=str(part.link) if linked else "",
        linked_kind=KINDS[part.kind] if linked else common_pb2.KIND_UNSPECIFIED,
        combination=None if part.combination is None else _combination_to_wire(part, part.combination),
    )


def _combination_to_wire(part: PartDescription, combination: Combination) -> participant_pb2.Combination:
    return participant_pb2.Combination(
        combining=combination.combining.value,
        structure_sha256=bytes.fromhex(combination.structure_sha256),
        n_outputs=combination.n_outputs,
        kind=KINDS[part.kind],
        link=str(part.link),
    )


def description_from_wire(message: participant_pb2.DescribeModelReply) -> PartDescription:
    """Return what a party tells of its part; raise `ProtocolError` where it breaks the protocol."""
    if not max_samples_of(message.n_scores):
        raise ProtocolError(f"{message.n_scores} scores a sample, which no message holds")
    if not 1 <= len(message.training_run) <= MAX_TRAINING_RUN or not message.training_run.isprintable():
        raise ProtocolError(f"a training run is named by 1 to {MAX_TRAINING_RUN} printable characters")
    if len(message.classes) > MAX_CLASSES or any(len(label) > MAX_CLASS_LABEL for label in message.classes):
        raise ProtocolError(f"more than {MAX_CLASSES} classes, or a label of more than {MAX_CLASS_LABEL} characters")
    kind = _kind(message)
    return PartDescription(
        party=message.party,
        model_id=model_id_from_wire(message.model_id),
        params_sha256=digest_from_wire(message.params_sha256, "params_sha256"),
        training_run=message.training_run,
        kind=kind,
        link=link_from_wire(message.combination.link if message.HasField("combination") else message.link, kind),
        classes=tuple(message.classes),
        n_scores=message.n_scores,
        holds_intercept=message.holds_intercept,
        fit_intercept=message.fit_intercept,
        max_samples=message.max_samples or DEFAULT_MAX_SAMPLES,
        combination=_combination_from_wire(message.combination) if message.HasField("combination") else None,
    )


def _combination_from_wire(message: participant_pb2.Combination) -> Combination:
    try:
        combining = Combining(message.combining)
    except ValueError as error:
        raise ProtocolError(f"unknown combining: {message.combining[:40]!a}") from error
    if not max_samples_of(message.n_outputs) or not message.n_outputs:
        raise ProtocolError(f"{message.n_outputs} outputs a sample, which no answer holds")
    return Combination(combining, digest_from_wire(message.structure_sha256, "structure_sha256"), message.n_outputs)


def link_from_wire(text: str, kind: Kind) -> Link:
    """Return the link of a model of a kind, its own where the text is empty; raise `ProtocolError` for no such link."""
    try:
        link = parse_link(text) if text else own_link(kind)
        check_link(kind, link)
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    return link


def _kind(message: participant_pb2.DescribeModelReply) -> Kind:
    if message.HasField("combination"):
        if message.kind != common_pb2.KIND_UNSPECIFIED or message.link:
            raise ProtocolError("a head's combination beside a kind or link for shares that are added up")
        return from_enum(KINDS, message.combination.kind, "kind")
    if not message.link:
        return from_enum(KINDS, message.kind, "kind")
    if message.kind != common_pb2.KIND_UNSPECIFIED:
        raise ProtocolError("a link beside a kind that says another")
    return from_enum(KINDS, message.linked_kind, "linked_kind")
