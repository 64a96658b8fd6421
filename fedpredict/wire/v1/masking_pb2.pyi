from fedpredict.wire.v1 import participant_pb2 as _participant_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MaskKeyRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "manifest", "session_id", "parties", "scale_bits", "lacking")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    SCALE_BITS_FIELD_NUMBER: _ClassVar[int]
    LACKING_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    manifest: str
    session_id: bytes
    parties: _containers.RepeatedScalarFieldContainer[str]
    scale_bits: int
    lacking: _containers.RepeatedCompositeFieldContainer[MaskConsent]
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., manifest: _Optional[str] = ..., session_id: _Optional[bytes] = ..., parties: _Optional[_Iterable[str]] = ..., scale_bits: _Optional[int] = ..., lacking: _Optional[_Iterable[_Union[MaskConsent, _Mapping]]] = ...) -> None: ...

class MaskKeyReply(_message.Message):
    __slots__ = ("request_id", "key", "consent")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    key: MaskKey
    consent: MaskConsent
    def __init__(self, request_id: _Optional[str] = ..., key: _Optional[_Union[MaskKey, _Mapping]] = ..., consent: _Optional[_Union[MaskConsent, _Mapping]] = ...) -> None: ...

class MaskConsent(_message.Message):
    __slots__ = ("party", "valid_until", "certificate_chain", "signature")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    VALID_UNTIL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    party: str
    valid_until: int
    certificate_chain: bytes
    signature: bytes
    def __init__(self, party: _Optional[str] = ..., valid_until: _Optional[int] = ..., certificate_chain: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class MaskKey(_message.Message):
    __slots__ = ("party", "public_key", "certificate_chain", "signature")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    party: str
    public_key: bytes
    certificate_chain: bytes
    signature: bytes
    def __init__(self, party: _Optional[str] = ..., public_key: _Optional[bytes] = ..., certificate_chain: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class MaskKeysRequest(_message.Message):
    __slots__ = ("protocol_version", "request_id", "session_id", "keys")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    request_id: str
    session_id: bytes
    keys: _containers.RepeatedCompositeFieldContainer[MaskKey]
    def __init__(self, protocol_version: _Optional[int] = ..., request_id: _Optional[str] = ..., session_id: _Optional[bytes] = ..., keys: _Optional[_Iterable[_Union[MaskKey, _Mapping]]] = ...) -> None: ...

class MaskKeysReply(_message.Message):
    __slots__ = ("request_id", "lifetime_s")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    lifetime_s: int
    def __init__(self, request_id: _Optional[str] = ..., lifetime_s: _Optional[int] = ...) -> None: ...

class MaskRound(_message.Message):
    __slots__ = ("session_id", "round")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    round: int
    def __init__(self, session_id: _Optional[bytes] = ..., round: _Optional[int] = ...) -> None: ...

class MaskedScoreRequest(_message.Message):
    __slots__ = ("score", "rounds")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    score: _participant_pb2.ScoreRequest
    rounds: _containers.RepeatedCompositeFieldContainer[MaskRound]
    def __init__(self, score: _Optional[_Union[_participant_pb2.ScoreRequest, _Mapping]] = ..., rounds: _Optional[_Iterable[_Union[MaskRound, _Mapping]]] = ...) -> None: ...

class MaskedBucketRequest(_message.Message):
    __slots__ = ("bucket", "round")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    bucket: _participant_pb2.BucketRequest
    round: MaskRound
    def __init__(self, bucket: _Optional[_Union[_participant_pb2.BucketRequest, _Mapping]] = ..., round: _Optional[_Union[MaskRound, _Mapping]] = ...) -> None: ...
