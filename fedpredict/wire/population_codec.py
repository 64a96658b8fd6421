"""Messages of standing populations as model values and back; `codec` says how far each side is trusted."""

from __future__ import annotations

import numpy as np

from fedpredict.errors import InputError, NameRefusedError, ProtocolError
from fedpredict.model.buckets import MAX_BUCKETS, check_bucket_count
from fedpredict.model.populations import MAX_BUCKET_ROWS, check_population
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.standing import BucketDelta, BucketIds, PopulationNotice, PopulationStanding, PopulationState
from fedpredict.wire import codec
from fedpredict.wire.v1 import participant_pb2

_STATES = {
    PopulationState.RECEIVING: participant_pb2.POPULATION_STATE_RECEIVING,
    PopulationState.PROPOSED: participant_pb2.POPULATION_STATE_PROPOSED,
    PopulationState.ACCEPTED: participant_pb2.POPULATION_STATE_ACCEPTED,
    PopulationState.REVOKED: participant_pb2.POPULATION_STATE_REVOKED,
}
_DIGEST_BYTES = 32
_MAX_VERSION = 2**31 - 1
"""What a table's column of whole numbers holds."""


def fill_notice(message: participant_pb2.PopulationRequest, notice: PopulationNotice) -> None:
    """Write what a participant is told, or asked, of a version into an empty message."""
    message.protocol_version = codec.PROTOCOL_VERSION
    message.request_id = notice.request_id
    message.population = notice.population
    message.version = notice.version
    message.n_ids = notice.n_ids
    message.bucket_sha256s = b"".join(map(bytes.fromhex, notice.digests))
    message.look = not notice.digests


def notice_from_wire(message: participant_pb2.PopulationRequest) -> PopulationNotice:
    """Return what is told or asked; raise `ProtocolError` where the message breaks the protocol."""
    codec.check_protocol_version(message.protocol_version)
    data = message.bucket_sha256s
    if message.look and data:
        raise ProtocolError("a question after a version with digests of buckets")
    if len(data) % _DIGEST_BYTES:
        raise ProtocolError(f"{len(data)} bytes of digests")
    digests = tuple(data[at : at + _DIGEST_BYTES].hex() for at in range(0, len(data), _DIGEST_BYTES))
    if not message.look:
        try:
            check_bucket_count(len(digests))
        except InputError as error:
            raise ProtocolError(str(error)) from error
    return PopulationNotice(
        request_id=codec.check_request_id(message.request_id),
        population=population_from_wire(message.population),
        version=version_from_wire(message.version),
        n_ids=0 if message.look else message.n_ids,
        digests=digests,
    )


def standing_to_wire(request_id: str, standing: PopulationStanding) -> participant_pb2.PopulationReply:
    """Return what a participant says of a version as a message."""
    return participant_pb2.PopulationReply(
        request_id=request_id,
        state=_STATES[standing.state] if standing.state else participant_pb2.POPULATION_STATE_UNSPECIFIED,
        missing=np.array(standing.missing, dtype="<u4").tobytes(),
        accepted_version=standing.accepted_version,
    )


def standing_from_wire(message: participant_pb2.PopulationReply, notice: PopulationNotice) -> PopulationStanding:
    """Return what a participant says; raise `ProtocolError` where that is no answer to the notice."""
    if message.request_id != notice.request_id:
        raise ProtocolError("the reply is to another request")
    if len(message.missing) % 4:
        raise ProtocolError("the missing buckets are not a row of uint32")
    missing = np.frombuffer(message.missing, dtype="<u4")
    if len(missing) and (
        int(missing.max()) >= (len(notice.digests) or MAX_BUCKETS) or (missing[1:] <= missing[:-1]).any()
    ):
        raise ProtocolError("the missing buckets are not buckets of the version in ascending order")
    is_known = message.state != participant_pb2.POPULATION_STATE_UNSPECIFIED
    return PopulationStanding(
        state=codec.from_enum(_STATES, message.state, "state of a population") if is_known else None,
        missing=tuple(missing.tolist()),
        accepted_version=message.accepted_version,
    )


def fill_bucket_ids(message: participant_pb2.PopulationBucket, bucket: BucketIds) -> None:
    """Write the ids of a bucket into an empty message."""
    message.protocol_version = codec.PROTOCOL_VERSION
    message.request_id = bucket.request_id
    message.population = bucket.population
    message.version = bucket.version
    message.bucket = bucket.bucket
    message.bucket_sha256 = bytes.fromhex(bucket.sha256)
    content = bucket.content
    if isinstance(content, SampleIds):
        codec.fill_ids(message.sample_ids, content)
    else:
        message.delta.base_sha256 = bytes.fromhex(content.base_sha256)
        codec.fill_ids(message.delta.added, content.added)
        codec.fill_ids(message.delta.removed, content.removed)


def bucket_ids_from_wire(message: participant_pb2.PopulationBucket) -> BucketIds:
    """Return the ids of a bucket, not judged; raise `ProtocolError` where the message breaks the protocol.

    Raises:
        TooManySamplesError: More than `MAX_BUCKET_ROWS`.
    """
    codec.check_protocol_version(message.protocol_version)
    kind = message.WhichOneof("content")
    if kind is None:
        raise ProtocolError("a bucket of a population with neither ids nor what changed")
    return BucketIds(
        request_id=codec.check_request_id(message.request_id),
        population=population_from_wire(message.population),
        version=version_from_wire(message.version),
        bucket=message.bucket,
        sha256=codec.digest_from_wire(message.bucket_sha256, "bucket_sha256"),
        content=codec.ids_from_wire(message.sample_ids, MAX_BUCKET_ROWS)
        if kind == "sample_ids"
        else BucketDelta(
            codec.digest_from_wire(message.delta.base_sha256, "base_sha256"),
            codec.ids_from_wire(message.delta.added, MAX_BUCKET_ROWS),
            codec.ids_from_wire(message.delta.removed, MAX_BUCKET_ROWS),
        ),
    )


def population_from_wire(value: str) -> str:
    """Return `value` if it names a population; else raise `ProtocolError`."""
    try:
        return check_population(value)
    except NameRefusedError as error:
        raise ProtocolError(str(error)) from error


def version_from_wire(value: int) -> int:
    """Return `value` if it is a version of a population; else raise `ProtocolError`."""
    if not 1 <= value <= _MAX_VERSION:
        raise ProtocolError(f"version {value} of a population")
    return value
