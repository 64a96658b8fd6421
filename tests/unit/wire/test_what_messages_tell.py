"""What a message has room for: the fields of the protocol, walked, against what the threat model says of each party."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from fedpredict.model.kinds import Kind, own_link
from fedpredict.model.manifest import Manifest, manifest_to_json
from fedpredict.participant.methods import FRAMES
from fedpredict.wire.v1 import (
    common_pb2,
    initiator_pb2,
    link_pb2,
    masking_pb2,
    participant_pb2,
    participant_service_pb2,
)

PARTICIPANT = participant_service_pb2.DESCRIPTOR.services_by_name["ParticipantService"]
INITIATOR = initiator_pb2.DESCRIPTOR.services_by_name["InitiatorService"]
REFS = {"model_id", "manifest_sha256", "params_sha256"}
"""How a model's version is named."""
IDS = {"sample_ids.data", "sample_ids.offsets"}
MATRIX = {"rows", "columns", "values"}
MASKED = {"masked.rows", "masked.columns", "masked.words", "masked.checks"}
FAILURE = {"code", "text", "detail.error", "detail.fields.key", "detail.fields.value"}
SCORE = {
    "protocol_version", "request_id", "epoch", "mode", "remaining_ms", "segments", "traceparent", "model_rows",
    *REFS, *IDS, *(f"further.{name}" for name in REFS),
}  # fmt: skip
BUCKET = {
    "protocol_version", "request_id", "task_id", "epoch", "mode", "bucket", "n_buckets", "remaining_ms", *REFS, *IDS,
    *(f"population.{name}" for name in ("population", "version", "bucket_sha256", "first", "rows")),
}  # fmt: skip


def of(message: type[Message]) -> Descriptor:
    return cast(Descriptor, message.DESCRIPTOR)


FRAME = of(link_pb2.Frame)


def walked(message: Descriptor, *above: Descriptor) -> Iterator[tuple[str, FieldDescriptor]]:
    """Give every field that is no message, of a message and of all in it, with its dotted name."""
    for field in message.fields:
        inner = field.message_type
        if inner is None:
            yield field.name, field
        elif inner not in above:
            yield from ((f"{field.name}.{name}", each) for name, each in walked(inner, message, *above))


def names(message: type[Message]) -> set[str]:
    return {name for name, _ in walked(of(message))}


def within(messages: Iterable[Descriptor]) -> set[Descriptor]:
    """Return messages, and all that stand in them."""
    found: set[Descriptor] = set()
    waiting = list(messages)
    while waiting:
        message = waiting.pop()
        if message not in found:
            found.add(message)
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return found


def asked() -> set[Descriptor]:
    """Return all that an initiator can ask a participant: by calls, and by the frames that are answered."""
    by_call = {method.input_type for method in PARTICIPANT.methods} - {FRAME}
    return by_call | {cast(Descriptor, FRAME.fields_by_name[name].message_type) for name in FRAMES}


def test_a_question_has_room_for_names_of_samples_and_none_for_a_number_of_them() -> None:
    assert names(participant_pb2.ScoreRequest) == SCORE
    assert names(participant_pb2.BucketRequest) == BUCKET
    rounds = {"rounds.session_id", "rounds.round"}
    assert names(masking_pb2.MaskedScoreRequest) == {f"score.{name}" for name in SCORE} | rounds
    assert names(masking_pb2.MaskedBucketRequest) == {f"bucket.{name}" for name in BUCKET} | {
        "round.session_id",
        "round.round",
    }

    numbers = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
    found = [f"{each.name}.{name}" for each in asked() for name, field in walked(each) if field.cpp_type in numbers]
    assert found == []


def test_nothing_that_a_participant_is_sent_holds_a_share_a_prediction_or_a_feature() -> None:
    told = {
        of(common_pb2.Matrix),
        of(common_pb2.MaskedWords),
        of(common_pb2.ReasonCodes),
        *(method.output_type for method in (*PARTICIPANT.methods, *INITIATOR.methods)),
    }

    assert {each.name for each in within(asked()) & told} == set()


def test_an_answer_has_room_for_the_share_its_statuses_and_reasons_and_no_feature() -> None:
    reasons = {"reasons.codes", "reasons.width", "reasons.which"}
    values = {f"values.{name}" for name in MATRIX}
    failures = {"failures.place"} | {f"failures.failure.{name}" for name in FAILURE}

    assert names(participant_pb2.ScoreReply) == {
        "request_id", "manifest_sha256", "status", "oldest_event_time_us", "elapsed_s", "segment_event_times_us",
        *values, *MASKED, *reasons, *failures,
    }  # fmt: skip
    assert names(participant_pb2.BucketReply) == {
        "request_id", "manifest_sha256", "ids_sha256", "rows", "status", "oldest_event_time_us", "elapsed_s",
        "sources",
        *values, *MASKED,
    }  # fmt: skip


def test_a_description_has_room_for_names_widths_and_digests_and_no_weight() -> None:
    combination = {"combining", "structure_sha256", "n_outputs", "kind", "link"}
    assert {name for name in names(participant_pb2.DescribeModelReply) if "checkpoints" not in name} == {
        "request_id", "party", "model_id", "params_sha256", "training_run", "kind", "classes", "n_scores",
        "holds_intercept", "fit_intercept", "max_samples", "link", "linked_kind",
        *(f"combination.{name}" for name in combination),
    }  # fmt: skip


def test_nothing_that_a_client_is_told_holds_a_share() -> None:
    told = [method.output_type for method in INITIATOR.methods if method.output_type is not FRAME]
    shares = {
        of(common_pb2.MaskedWords),
        *(method.output_type for method in PARTICIPANT.methods),
        of(masking_pb2.MaskKeyReply),
        of(masking_pb2.MaskKeysReply),
    }

    assert {each.name for each in within(told) & shares} == set()
    matrices = [
        f"{each.name}.{field.name}"
        for each in within(told)
        for field in each.fields
        if field.message_type is of(common_pb2.Matrix)
    ]
    assert matrices == ["PredictReply.predictions"]
    assert names(initiator_pb2.PartyReport) == {
        "party", "status", "oldest_event_time_us", "round_trip_s", "elapsed_s", "problem", "reasons.codes",
        "reasons.width", "reasons.which",
    }  # fmt: skip


def test_for_masks_a_participant_is_sent_the_manifest_and_the_certificates_of_the_others() -> None:
    """What it learns beside the ids: stated in the threat model, and no more than that."""
    signed = {"party", "certificate_chain", "signature"}

    assert names(masking_pb2.MaskKeyRequest) == {
        "protocol_version", "request_id", "manifest", "session_id", "parties", "scale_bits",
        *(f"lacking.{name}" for name in {*signed, "valid_until"}),
    }  # fmt: skip
    assert names(masking_pb2.MaskKeysRequest) == {
        "protocol_version", "request_id", "session_id", *(f"keys.{name}" for name in {*signed, "public_key"})
    }  # fmt: skip
    manifest = Manifest(
        model_id="m", training_run="run-1", kind=Kind.LINEAR, link=own_link(Kind.LINEAR), classes=(), n_scores=1,
        fit_intercept=False, intercept_party=None, digests=(("bank", "ab" * 32), ("lab", "cd" * 32)),
    )  # fmt: skip
    assert set(json.loads(manifest_to_json(manifest))) == {
        "classes", "digests", "fit_intercept", "format", "intercept_party", "kind", "link", "model_id", "n_scores",
        "training_run",
    }  # fmt: skip
