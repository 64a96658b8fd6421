"""Every way to call an initiator, and what it asks of its caller: what is not named here is not there."""

from __future__ import annotations

from collections.abc import Mapping

from fedpredict.security.policy import Needs

SERVICE = "fedpredict.wire.v1.InitiatorService"
INFERENCE = "inference.GRPCInferenceService"

METHODS: Mapping[str, Needs] = {
    f"{SERVICE}/Predict": Needs.CALL,
    # to open one; each call on it is a call for itself, as for `Predict`
    f"{SERVICE}/PredictStream": Needs.IDENTITY,
    f"{SERVICE}/Attach": Needs.PEER,
    f"{SERVICE}/ListModels": Needs.RULE,
    f"{SERVICE}/UploadSamples": Needs.CALL,
    f"{SERVICE}/SubmitTask": Needs.CALL,
    f"{SERVICE}/GetTask": Needs.COUNTED,
    f"{SERVICE}/ListTasks": Needs.COUNTED,
    f"{SERVICE}/CancelTask": Needs.COUNTED,
    f"{SERVICE}/RetryTask": Needs.CALL,
    f"{SERVICE}/GetTaskHistory": Needs.COUNTED,
    f"{SERVICE}/FetchResults": Needs.CALL,
    f"{INFERENCE}/ServerLive": Needs.NOTHING,
    f"{INFERENCE}/ServerReady": Needs.NOTHING,
    f"{INFERENCE}/ServerMetadata": Needs.NOTHING,
    f"{INFERENCE}/ModelReady": Needs.RULE,
    f"{INFERENCE}/ModelMetadata": Needs.RULE,
    f"{INFERENCE}/ModelInfer": Needs.CALL,
    # of a model it needs a rule with that model
    "grpc.health.v1.Health/Check": Needs.NOTHING,
    "grpc.health.v1.Health/List": Needs.UNSERVED,
    "grpc.health.v1.Health/Watch": Needs.UNSERVED,
}
"""Methods of gRPC."""

PREDICT_ROUTE = "POST /v1/predict"
INFER_ROUTES = ("POST /v2/models/{model}/infer", "POST /v2/models/{model}/versions/{version}/infer")

ROUTES: Mapping[str, Needs] = {
    PREDICT_ROUTE: Needs.CALL,
    "GET /v1/models": Needs.RULE,
    "GET /v1/models/{model}": Needs.RULE,
    "GET /v1/health/live": Needs.NOTHING,
    "GET /v1/health/ready": Needs.NOTHING,
    "GET /v2": Needs.NOTHING,
    "GET /v2/health/live": Needs.NOTHING,
    "GET /v2/health/ready": Needs.NOTHING,
    "GET /v2/models/{model}": Needs.RULE,
    "GET /v2/models/{model}/ready": Needs.RULE,
    "GET /v2/models/{model}/versions/{version}": Needs.RULE,
    "GET /v2/models/{model}/versions/{version}/ready": Needs.RULE,
    **dict.fromkeys(INFER_ROUTES, Needs.CALL),
    "GET /openapi.json": Needs.NOTHING,
    "GET /docs": Needs.NOTHING,
    "GET /docs/docs.js": Needs.NOTHING,
    "GET /docs/docs.css": Needs.NOTHING,
}
"""What is served over HTTP."""
