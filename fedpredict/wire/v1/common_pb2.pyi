from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_REALTIME: _ClassVar[Mode]
    MODE_NEARLINE: _ClassVar[Mode]
    MODE_OFFLINE: _ClassVar[Mode]

class SampleStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAMPLE_STATUS_UNSPECIFIED: _ClassVar[SampleStatus]
    SAMPLE_STATUS_OK: _ClassVar[SampleStatus]
    SAMPLE_STATUS_NOT_FOUND: _ClassVar[SampleStatus]
    SAMPLE_STATUS_FEATURE_MISSING: _ClassVar[SampleStatus]
    SAMPLE_STATUS_FEATURE_INVALID: _ClassVar[SampleStatus]
    SAMPLE_STATUS_STALE: _ClassVar[SampleStatus]
    SAMPLE_STATUS_ID_INVALID: _ClassVar[SampleStatus]
    SAMPLE_STATUS_OUT_OF_RANGE: _ClassVar[SampleStatus]
    SAMPLE_STATUS_PARTY_UNAVAILABLE: _ClassVar[SampleStatus]
    SAMPLE_STATUS_REFUSED: _ClassVar[SampleStatus]

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_LINEAR: _ClassVar[Kind]
    KIND_BINARY: _ClassVar[Kind]
    KIND_MULTINOMIAL: _ClassVar[Kind]
    KIND_ONE_VS_REST: _ClassVar[Kind]
    KIND_DECISION: _ClassVar[Kind]
    KIND_PROBABILITY: _ClassVar[Kind]
    KIND_ORDINAL: _ClassVar[Kind]
MODE_UNSPECIFIED: Mode
MODE_REALTIME: Mode
MODE_NEARLINE: Mode
MODE_OFFLINE: Mode
SAMPLE_STATUS_UNSPECIFIED: SampleStatus
SAMPLE_STATUS_OK: SampleStatus
SAMPLE_STATUS_NOT_FOUND: SampleStatus
SAMPLE_STATUS_FEATURE_MISSING: SampleStatus
SAMPLE_STATUS_FEATURE_INVALID: SampleStatus
SAMPLE_STATUS_STALE: SampleStatus
SAMPLE_STATUS_ID_INVALID: SampleStatus
SAMPLE_STATUS_OUT_OF_RANGE: SampleStatus
SAMPLE_STATUS_PARTY_UNAVAILABLE: SampleStatus
SAMPLE_STATUS_REFUSED: SampleStatus
KIND_UNSPECIFIED: Kind
KIND_LINEAR: Kind
KIND_BINARY: Kind
KIND_MULTINOMIAL: Kind
KIND_ONE_VS_REST: Kind
KIND_DECISION: Kind
KIND_PROBABILITY: Kind
KIND_ORDINAL: Kind

class SampleIds(_message.Message):
    __slots__ = ("data", "offsets")
    DATA_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    offsets: bytes
    def __init__(self, data: _Optional[bytes] = ..., offsets: _Optional[bytes] = ...) -> None: ...

class Matrix(_message.Message):
    __slots__ = ("rows", "columns", "values")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    values: bytes
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class MaskedWords(_message.Message):
    __slots__ = ("rows", "columns", "words", "checks")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    words: bytes
    checks: bytes
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., words: _Optional[bytes] = ..., checks: _Optional[bytes] = ...) -> None: ...

class ReasonCodes(_message.Message):
    __slots__ = ("codes", "width", "which")
    CODES_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    WHICH_FIELD_NUMBER: _ClassVar[int]
    codes: _containers.RepeatedScalarFieldContainer[str]
    width: int
    which: bytes
    def __init__(self, codes: _Optional[_Iterable[str]] = ..., width: _Optional[int] = ..., which: _Optional[bytes] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("error", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    error: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, error: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "text", "detail")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    code: int
    text: str
    detail: ErrorDetail
    def __init__(self, code: _Optional[int] = ..., text: _Optional[str] = ..., detail: _Optional[_Union[ErrorDetail, _Mapping]] = ...) -> None: ...

class AuditCheckpoint(_message.Message):
    __slots__ = ("chain", "n", "sha256", "signature", "public_key")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    chain: str
    n: int
    sha256: bytes
    signature: bytes
    public_key: bytes
    def __init__(self, chain: _Optional[str] = ..., n: _Optional[int] = ..., sha256: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., public_key: _Optional[bytes] = ...) -> None: ...
