"""The Python client: ask an initiator for predictions, get numpy, Arrow or pandas."""

from fedpredict.client.aio import AsyncClient
from fedpredict.client.circuit import Circuit, CircuitState
from fedpredict.client.populations import FileOf, Standing, TableOf
from fedpredict.client.predictions import PartyAnswer, Predictions
from fedpredict.client.sync import Client
from fedpredict.model.offline import OfflineState, RankBy, TaskInfo
from fedpredict.model.prediction import ModelInfo, Origin
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.model.task_history import TaskEvent
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tls import TlsFiles

__all__ = [
    "AsyncClient",
    "Circuit",
    "CircuitState",
    "Client",
    "FileOf",
    "Identity",
    "IdentityKind",
    "Mode",
    "ModelInfo",
    "OfflineState",
    "Origin",
    "PartyAnswer",
    "Predictions",
    "RankBy",
    "SampleStatus",
    "Standing",
    "TableOf",
    "TaskEvent",
    "TaskInfo",
    "TlsFiles",
]
