from fedpredict.wire.v1 import common_pb2 as _common_pb2
from fedpredict.wire.v1 import masking_pb2 as _masking_pb2
from fedpredict.wire.v1 import participant_pb2 as _participant_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("id", "remaining_ms", "hello", "hello_reply", "describe", "described", "score", "scored", "failure", "cancel", "drain", "score_bucket", "scored_bucket", "population", "population_told", "population_bucket", "population_bucket_put", "mask_key", "mask_key_told", "mask_keys", "mask_keys_taken", "masked_score", "masked_bucket")
    ID_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HELLO_REPLY_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    DESCRIBED_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    SCORE_BUCKET_FIELD_NUMBER: _ClassVar[int]
    SCORED_BUCKET_FIELD_NUMBER: _ClassVar[int]
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    POPULATION_TOLD_FIELD_NUMBER: _ClassVar[int]
    POPULATION_BUCKET_FIELD_NUMBER: _ClassVar[int]
    POPULATION_BUCKET_PUT_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_TOLD_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_TAKEN_FIELD_NUMBER: _ClassVar[int]
    MASKED_SCORE_FIELD_NUMBER: _ClassVar[int]
    MASKED_BUCKET_FIELD_NUMBER: _ClassVar[int]
    id: int
    remaining_ms: int
    hello: _participant_pb2.HelloRequest
    hello_reply: _participant_pb2.HelloReply
    describe: _participant_pb2.DescribeModelRequest
    described: _participant_pb2.DescribeModelReply
    score: _participant_pb2.ScoreRequest
    scored: _participant_pb2.ScoreReply
    failure: _common_pb2.Failure
    cancel: Cancel
    drain: Drain
    score_bucket: _participant_pb2.BucketRequest
    scored_bucket: _participant_pb2.BucketReply
    population: _participant_pb2.PopulationRequest
    population_told: _participant_pb2.PopulationReply
    population_bucket: _participant_pb2.PopulationBucket
    population_bucket_put: _participant_pb2.PopulationBucketReply
    mask_key: _masking_pb2.MaskKeyRequest
    mask_key_told: _masking_pb2.MaskKeyReply
    mask_keys: _masking_pb2.MaskKeysRequest
    mask_keys_taken: _masking_pb2.MaskKeysReply
    masked_score: _masking_pb2.MaskedScoreRequest
    masked_bucket: _masking_pb2.MaskedBucketRequest
    def __init__(self, id: _Optional[int] = ..., remaining_ms: _Optional[int] = ..., hello: _Optional[_Union[_participant_pb2.HelloRequest, _Mapping]] = ..., hello_reply: _Optional[_Union[_participant_pb2.HelloReply, _Mapping]] = ..., describe: _Optional[_Union[_participant_pb2.DescribeModelRequest, _Mapping]] = ..., described: _Optional[_Union[_participant_pb2.DescribeModelReply, _Mapping]] = ..., score: _Optional[_Union[_participant_pb2.ScoreRequest, _Mapping]] = ..., scored: _Optional[_Union[_participant_pb2.ScoreReply, _Mapping]] = ..., failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., score_bucket: _Optional[_Union[_participant_pb2.BucketRequest, _Mapping]] = ..., scored_bucket: _Optional[_Union[_participant_pb2.BucketReply, _Mapping]] = ..., population: _Optional[_Union[_participant_pb2.PopulationRequest, _Mapping]] = ..., population_told: _Optional[_Union[_participant_pb2.PopulationReply, _Mapping]] = ..., population_bucket: _Optional[_Union[_participant_pb2.PopulationBucket, _Mapping]] = ..., population_bucket_put: _Optional[_Union[_participant_pb2.PopulationBucketReply, _Mapping]] = ..., mask_key: _Optional[_Union[_masking_pb2.MaskKeyRequest, _Mapping]] = ..., mask_key_told: _Optional[_Union[_masking_pb2.MaskKeyReply, _Mapping]] = ..., mask_keys: _Optional[_Union[_masking_pb2.MaskKeysRequest, _Mapping]] = ..., mask_keys_taken: _Optional[_Union[_masking_pb2.MaskKeysReply, _Mapping]] = ..., masked_score: _Optional[_Union[_masking_pb2.MaskedScoreRequest, _Mapping]] = ..., masked_bucket: _Optional[_Union[_masking_pb2.MaskedBucketRequest, _Mapping]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Drain(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
