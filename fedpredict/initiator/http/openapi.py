"""The OpenAPI 3.1 description of the HTTP edge, made from the types that decode and encode its bodies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec

from fedpredict import __version__
from fedpredict.http.application import JSON
from fedpredict.http.problem import CONTENT_TYPE
from fedpredict.initiator.http import bodies
from fedpredict.initiator.http.bodies import MAX_TIMEOUT_MS, MODEL_PATTERN
from fedpredict.initiator.http.infer import BINARY
from fedpredict.model.share import Mode

Schema: TypeAlias = dict[str, Any]

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)}")
_ALWAYS = (400, 401, 408, 413, 431, 500, 503)
_OF_MODELS = (*_ALWAYS, 404, 429)
_OF_PREDICTIONS = (*_OF_MODELS, 403, 409, 415, 501, 504)
_HEADERS: list[Schema] = [
    {
        "name": "x-request-id",
        "in": "header",
        "description": "Names the request in every log; one that is not 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-' is "
        "replaced. Every answer carries it.",
        "schema": {"type": "string"},
    }
]
_PREDICTION_HEADERS: list[Schema] = [
    *_HEADERS,
    {
        "name": "x-fedpredict-deadline-ms",
        "in": "header",
        "description": "How long the caller waits, in milliseconds; the smaller of this and the body's counts.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
    },
    {
        "name": "traceparent",
        "in": "header",
        "description": "W3C trace context; what is not one is ignored.",
        "schema": {"type": "string"},
    },
]
_PATH_PARAMETERS: dict[str, Schema] = {
    "model": {"type": "string", "pattern": MODEL_PATTERN},
    "version": {"type": "string", "pattern": "^([0-9a-f]{12}|[0-9a-f]{64})$"},
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        method: In lower case.
        path: With its parameters in braces.
        summary: One line.
        answer: What it answers with.
        failures: The other statuses that it can have.
        body: What it takes.
    """

    method: str
    path: str
    summary: str
    answer: type[msgspec.Struct]
    failures: tuple[int, ...]
    body: type[msgspec.Struct] | None = None


def operations() -> Iterator[Operation]:
    """Yield every operation that the edge serves."""
    yield Operation("post", "/v1/predict", "Predict", bodies.PredictAnswer, _OF_PREDICTIONS, body=bodies.PredictBody)
    yield Operation("get", "/v1/models", "The models that the caller may ask for", bodies.ModelsAnswer, _ALWAYS)
    yield Operation("get", "/v1/models/{model}", "One model", bodies.ModelAnswer, _OF_MODELS)
    yield from _health("/v1")
    yield Operation("get", "/v2", "This server", bodies.ServerMetadataAnswer, _ALWAYS)
    yield from _health("/v2")
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        yield Operation("get", path, "A model's tensors", bodies.ModelMetadataAnswer, _OF_MODELS)
        yield Operation("get", f"{path}/ready", "Whether a model is ready", bodies.ModelReadyAnswer, _OF_MODELS)
        yield Operation("post", f"{path}/infer", "Infer", bodies.InferAnswer, _OF_PREDICTIONS, body=bodies.InferBody)


def _health(prefix: str) -> Iterator[Operation]:
    yield Operation("get", f"{prefix}/health/live", "Whether the process runs", bodies.HealthAnswer, _ALWAYS)
    yield Operation("get", f"{prefix}/health/ready", "Whether it takes calls", bodies.HealthAnswer, _ALWAYS)


def describe(max_samples: int) -> Schema:
    """Return the document.

    Args:
        max_samples: Most sample ids in one call.
    """
    described = list(operations())
    types: Sequence[type[msgspec.Struct]] = [
        *{each.answer: None for each in described},
        *{each.body: None for each in described if each.body},
        bodies.ProblemAnswer,
    ]
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    properties = components["PredictBody"]["properties"]
    properties["sample_ids"]["maxItems"] = max_samples
    properties["mode"] = {"enum": sorted(Mode), "default": Mode.NEARLINE, "description": "How fresh the features are."}
    del components["Mode"]
    paths: dict[str, Schema] = {}
    for operation in described:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fedpredict initiator",
            "version": __version__,
            "description": "Predictions of federated models. A sample that could not be scored gets a status and "
            "null, never a number.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"certificate": {"type": "mutualTLS"}}},
        "security": [{"certificate": []}, {}],
    }


def _operation(operation: Operation) -> Schema:
    described: Schema = {
        "operationId": _name(operation),
        "summary": operation.summary,
        "tags": ["Open Inference Protocol" if operation.path.startswith("/v2") else "fedpredict"],
        "parameters": [
            *(_path_parameter(name) for name in _PARAMETER.findall(operation.path)),
            *(_PREDICTION_HEADERS if operation.body else _HEADERS),
        ],
        "responses": {"200": _answer(operation), **{str(each): _failure(each) for each in sorted(operation.failures)}},
    }
    if operation.body:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(operation.body)}}}
    return described


def _name(operation: Operation) -> str:
    words = re.sub(r"[{}]", "", operation.path).strip("/").split("/")
    return "_".join([operation.method, *words])


def _path_parameter(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _PATH_PARAMETERS[name]}


def _answer(operation: Operation) -> Schema:
    content: Schema = {JSON: {"schema": _ref(operation.answer)}}
    if operation.answer is bodies.InferAnswer:
        content[BINARY] = {}
    return {"description": (operation.answer.__doc__ or "").partition("\n")[0], **_named(), "content": content}


def _failure(status: int) -> Schema:
    content = {CONTENT_TYPE: {"schema": _ref(bodies.ProblemAnswer)}}
    described = {"description": HTTPStatus(status).phrase, **_named(), "content": content}
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        described["headers"]["retry-after"] = {"schema": {"type": "integer"}, "description": "Seconds."}
    return described


def _named() -> Schema:
    return {"headers": {"x-request-id": {"schema": {"type": "string"}, "description": "The request's id."}}}


def _ref(answer: type[msgspec.Struct]) -> Schema:
    return {"$ref": _REF.format(name=answer.__name__)}
