"""What JSON bodies hold, as the types that decode, encode and describe them."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from fedpredict.model.kinds import Kind
from fedpredict.model.prediction import Origin
from fedpredict.model.share import Mode, SampleStatus

MODEL_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
REQUEST_ID_PATTERN = "^[A-Za-z0-9._-]{1,64}$"
MAX_TIMEOUT_MS = 600_000

STATUS_NAMES = [status.name for status in SampleStatus]
"""By the number of a `SampleStatus`."""
ORIGIN_NAMES = [origin.name for origin in Origin]
"""By the number of an `Origin`."""

StatusName = Annotated[str, Meta(description="What became of a sample.", extra_json_schema={"enum": STATUS_NAMES[1:]})]
OriginName = Annotated[
    str,
    Meta(
        description="Where a sample's numbers come from; UNSPECIFIED where it has none.",
        extra_json_schema={"enum": ORIGIN_NAMES},
    ),
]


class PredictBody(Struct, forbid_unknown_fields=True):
    """A prediction asked for."""

    model: Annotated[
        str,
        Meta(description="The model's id.", extra_json_schema={"pattern": MODEL_PATTERN, "examples": ["credit"]}),
    ]
    sample_ids: Annotated[
        list[str],
        Meta(
            description="The samples, in the order of the answer. An id that can name nobody gets status ID_INVALID.",
            extra_json_schema={"minItems": 1, "examples": [["u1", "u2"]]},
        ),
    ]
    mode: Annotated[Mode | UnsetType, Meta(description="How fresh the features are.")] = UNSET
    inputs: Annotated[
        dict[str, list[float | str | None]] | UnsetType | None,
        Meta(
            description="The initiator's own features of these samples, where they are not in its store: by name, one "
            "number or text per sample id, null where it is missing. No other party sees them."
        ),
    ] = UNSET
    timeout_ms: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_TIMEOUT_MS)] | UnsetType | None,
        Meta(description="How long the caller waits."),
    ] = UNSET
    request_id: Annotated[
        Annotated[str, Meta(extra_json_schema={"pattern": REQUEST_ID_PATTERN})] | UnsetType | None,
        Meta(description="Names the prediction in every log; default: header x-request-id, or a new one."),
    ] = UNSET

    @property
    def n_members(self) -> int:
        """How many members the text had, with those of `inputs`, if it had none twice."""
        number = 2 + (self.mode is not UNSET) + (self.timeout_ms is not UNSET) + (self.request_id is not UNSET)
        if self.inputs is not UNSET:
            number += 1 + len(self.inputs or ())
        return number


class ReasonAnswer(Struct):
    """Why one party has no share for one sample."""

    sample: Annotated[int, Meta(description="Its place in sample_ids, from 0.")]
    party: str
    status: StatusName


class PartyAnswer(Struct):
    """One party's side of a prediction."""

    party: str
    oldest_event_time: Annotated[
        str | None,
        Meta(
            description="Of the features used, UTC; null when none was used.", extra_json_schema={"format": "date-time"}
        ),
    ]
    round_trip_s: Annotated[float, Meta(description="Seconds between asking and having the answer.")]
    elapsed_s: Annotated[float, Meta(description="Seconds that the party says it spent.")]
    problem: Annotated[str, Meta(description="Why the party as a whole has no share; else empty.")]
    reason_codes: Annotated[
        list[list[str]] | UnsetType,
        Meta(description="Per sample why points were lost here, largest loss first; absent where nothing is told."),
    ] = UNSET


class PredictAnswer(Struct):
    """A prediction."""

    request_id: str
    model: str
    manifest_sha256: Annotated[str, Meta(description="The version that answered; empty when simulated without one.")]
    classes: Annotated[list[str], Meta(description="A binary model's one number is the probability of the second.")]
    predictions: Annotated[
        list[list[float] | None],
        Meta(description="Per sample its numbers, or null where its status is not OK: never a number then."),
    ]
    status: Annotated[list[StatusName], Meta(description="Per sample.")]
    origin: Annotated[list[OriginName], Meta(description="Per sample.")]
    reasons: Annotated[list[ReasonAnswer], Meta(description="Which party has no share for which sample; may be empty.")]
    parties: list[PartyAnswer]
    simulated: Annotated[bool, Meta(description="Made up, without partners: the numbers mean nothing.")]


class ModelAnswer(Struct):
    """A model."""

    model: str
    ready: bool
    problem: Annotated[str, Meta(description="Why it is not ready; else empty.")]
    kind: Annotated[Kind | None, Meta(description="Null until its parties have been met.")]
    link: Annotated[str | None, Meta(description="What finishes the sum of the shares, such as log or power:0.5.")]
    classes: list[str]
    parties: list[str]
    manifest_sha256: str
    n_outputs: int


class ModelsAnswer(Struct):
    """The models that this caller may ask for."""

    models: list[ModelAnswer]


class HealthAnswer(Struct):
    """The state of this process; it does not depend on other parties."""

    status: str


class ProblemAnswer(Struct, rename={"kind": "type"}):
    """Any answer that is not what was asked for (RFC 9457); the public fields of the error stand beside these."""

    kind: Annotated[str, Meta(description="urn:fedpredict:error:<name>")]
    title: str
    status: int
    detail: str
    request_id: str


Parameters = dict[str, bool | int | float | str]


class InferInput(Struct, forbid_unknown_fields=True):
    """A tensor of a request."""

    name: Annotated[str, Meta(extra_json_schema={"examples": ["sample_id"]})]
    shape: Annotated[list[int], Meta(extra_json_schema={"examples": [[2]]})]
    datatype: Annotated[str, Meta(extra_json_schema={"examples": ["BYTES"]})]
    parameters: Parameters | None = None
    data: Annotated[
        Raw | UnsetType, Meta(description="Its cells, flat or nested.", extra_json_schema={"type": "array"})
    ] = UNSET


class InferOutputAsked(Struct, forbid_unknown_fields=True):
    """An output asked for."""

    name: Annotated[str, Meta(extra_json_schema={"enum": ["prediction", "status"]})]
    parameters: Parameters | None = None


class InferBody(Struct, forbid_unknown_fields=True):
    """An inference asked for; parameters: mode, timeout_ms, allow_partial, binary_data_output."""

    inputs: Annotated[list[InferInput], Meta(extra_json_schema={"minItems": 1})]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[InferOutputAsked] | None = None

    @property
    def n_members(self) -> int:
        """How many members the text had, with those of all objects in it, if it had none twice and none null."""
        number = 1 + (self.id is not None) + _n_parameters(self.parameters)
        for tensor in self.inputs:
            number += 3 + _n_parameters(tensor.parameters) + (tensor.data is not UNSET)
        if self.outputs is not None:
            number += 1 + sum(1 + _n_parameters(output.parameters) for output in self.outputs)
        return number


def _n_parameters(parameters: Parameters | None) -> int:
    return 0 if parameters is None else 1 + len(parameters)


class InferOutput(Struct, omit_defaults=True):
    """A tensor of an answer; `data`, or `binary_data_size` among the parameters and the bytes after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: Annotated[list[float | str | None] | None, Meta(description="Row by row.")] = None


class InferAnswer(Struct, omit_defaults=True):
    """An inference."""

    model_name: str
    model_version: str
    outputs: list[InferOutput]
    parameters: Parameters
    id: str | None = None


class TensorAnswer(Struct):
    """An input or output of a model; -1 is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadataAnswer(Struct):
    """A model, as the Open Inference Protocol describes it."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorAnswer]
    outputs: list[TensorAnswer]


class ServerMetadataAnswer(Struct):
    """This server, as the Open Inference Protocol describes it."""

    name: str
    version: str
    extensions: list[str]


class ModelReadyAnswer(Struct):
    """Whether a model can be answered in full."""

    name: str
    ready: bool
