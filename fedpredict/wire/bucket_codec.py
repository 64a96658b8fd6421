"""Messages of offline tasks, of one bucket each, as model values and back.

As in `codec`: `…_to_wire` and `fill_…` trust their arguments, `…_from_wire` trusts nothing and raises `ProtocolError`.
"""

from __future__ import annotations

import re

from fedpredict.errors import EmptyRequestError, InputError, ProtocolError, TooManySamplesError
from fedpredict.model.buckets import check_bucket_count
from fedpredict.model.populations import MAX_BUCKET_ROWS, BucketAnswer, BucketQuery, PopulationRows
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.scorer import PartyReply
from fedpredict.model.share import SampleStatus, Share, all_ok_statuses
from fedpredict.wire import codec
from fedpredict.wire.population_codec import population_from_wire, version_from_wire
from fedpredict.wire.v1 import participant_pb2

_SOURCE = re.compile(r"[A-Za-z0-9 .,:_-]{1,100}")
_MAX_SOURCES = 2
_TASK_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def fill_bucket_query(message: participant_pb2.BucketRequest, query: BucketQuery) -> None:
    """Write what a party is asked into an empty message, in place."""
    message.protocol_version = codec.PROTOCOL_VERSION
    message.request_id = query.request_id
    message.task_id = query.task_id
    message.model_id = query.model_id
    message.manifest_sha256 = codec.digest_to_wire(query.manifest_sha256)
    message.params_sha256 = codec.digest_to_wire(query.params_sha256)
    message.epoch = query.epoch
    message.mode = codec.MODES[query.mode]
    message.bucket = query.bucket
    message.n_buckets = query.n_buckets
    rows = query.rows
    if isinstance(rows, PopulationRows):
        message.population.population = rows.population
        message.population.version = rows.version
        message.population.bucket_sha256 = bytes.fromhex(rows.bucket_sha256)
        message.population.first = rows.first
        message.population.rows = rows.rows
    else:
        codec.fill_ids(message.sample_ids, rows)


def bucket_query_from_wire(message: participant_pb2.BucketRequest) -> BucketQuery:
    """Return what is asked.

    Raises:
        ProtocolError: The message breaks the protocol.
        EmptyRequestError: It asks for no row.
        TooManySamplesError: It asks for more than `MAX_BUCKET_ROWS`.
    """
    codec.check_protocol_version(message.protocol_version)
    if _TASK_ID.fullmatch(message.task_id) is None:
        raise ProtocolError("a task id is 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-'")
    query = BucketQuery(
        request_id=codec.check_request_id(message.request_id),
        task_id=message.task_id,
        model_id=codec.model_id_from_wire(message.model_id),
        manifest_sha256=codec.digest_from_wire(message.manifest_sha256, "manifest_sha256"),
        params_sha256=codec.digest_from_wire(message.params_sha256, "params_sha256"),
        mode=codec.from_enum(codec.MODES, message.mode, "mode"),
        bucket=message.bucket,
        n_buckets=_bucket_count(message.bucket, message.n_buckets),
        rows=_rows(message),
        epoch=message.epoch,
    )
    if not query.n_rows:
        raise EmptyRequestError("a call for a bucket asks for no row")
    if query.n_rows > MAX_BUCKET_ROWS:
        raise TooManySamplesError(f"{query.n_rows} rows of a bucket in one call", limit=MAX_BUCKET_ROWS)
    return query


def fill_bucket_reply(
    message: participant_pb2.BucketReply, query: BucketQuery, ids_sha256: str, reply: PartyReply
) -> None:
    """Write a party's answer into an empty message, in place.

    Args:
        message: Empty.
        query: What was asked.
        ids_sha256: The digest of the ids that were answered, in hex.
        reply: The share, in their order.
    """
    share = reply.share
    message.request_id = query.request_id
    message.manifest_sha256 = codec.digest_to_wire(query.manifest_sha256)
    message.ids_sha256 = bytes.fromhex(ids_sha256)
    message.rows = share.n_samples
    if not share.all_ok:
        message.status = share.status.tobytes()
    matrix = message.values
    matrix.rows, matrix.columns = share.values.shape
    matrix.values = share.values.astype("<f8", copy=False).tobytes()
    if reply.oldest_event_time is not None:
        message.oldest_event_time_us = reply.oldest_event_time
    message.elapsed_s = reply.elapsed_s
    message.sources.extend(reply.sources)


def bucket_answer_from_wire(message: participant_pb2.BucketReply, query: BucketQuery) -> BucketAnswer:
    """Return a party's answer, checked against what was asked.

    Raises:
        ProtocolError: It is to another request, of another manifest or about other ids, or of another shape; or has an
            unknown status, or a number where there may be none.
    """
    if message.request_id != query.request_id:
        raise ProtocolError("the reply is to another request")
    if message.manifest_sha256 != codec.digest_to_wire(query.manifest_sha256):
        raise ProtocolError("the reply is of another manifest")
    ids_sha256 = codec.digest_from_wire(message.ids_sha256, "ids_sha256")
    if ids_sha256 != query.ids_sha256:
        raise ProtocolError(f"the reply is about ids with digest {ids_sha256[:12]}, not {query.ids_sha256[:12]}")
    if message.rows != query.n_rows:
        raise ProtocolError(f"the reply has {message.rows} rows for {query.n_rows}")
    if not message.HasField("values"):
        raise ProtocolError("the reply holds no share of float64 values")
    sent = message.status
    status = codec.statuses_from_wire(sent, query.n_rows, SampleStatus) if sent else all_ok_statuses(query.n_rows)
    values = codec.matrix_view_from_wire(message.values, query.n_rows, message.values.columns)
    try:
        share = Share(values, status)
    except ValueError as error:
        raise ProtocolError(str(error)) from error
    if len(message.sources) > _MAX_SOURCES or not all(map(_SOURCE.fullmatch, message.sources)):
        raise ProtocolError("what the share comes from is told in other words than these: snapshot NAME, day DATE")
    has_time = message.HasField("oldest_event_time_us")
    return BucketAnswer(
        share=share,
        ids_sha256=ids_sha256,
        oldest_event_time=codec.instant_from_wire(message.oldest_event_time_us) if has_time else None,
        elapsed_s=codec.seconds_from_wire(message.elapsed_s),
        sources=tuple(message.sources),
    )


def _bucket_count(bucket: int, n_buckets: int) -> int:
    try:
        check_bucket_count(n_buckets)
    except InputError as error:
        raise ProtocolError(str(error)) from error
    if bucket >= n_buckets:
        raise ProtocolError(f"bucket {bucket} of {n_buckets}")
    return n_buckets


def _rows(message: participant_pb2.BucketRequest) -> SampleIds | PopulationRows:
    kind = message.WhichOneof("rows")
    if kind == "sample_ids":
        return codec.ids_from_wire(message.sample_ids, MAX_BUCKET_ROWS)
    if kind is None:
        raise ProtocolError("a call for a bucket has neither sample ids nor rows of a population")
    asked = message.population
    return PopulationRows(
        population=population_from_wire(asked.population),
        version=version_from_wire(asked.version),
        bucket_sha256=codec.digest_from_wire(asked.bucket_sha256, "bucket_sha256"),
        first=asked.first,
        rows=asked.rows,
    )
