"""Settings, and the places where things are kept."""

from __future__ import annotations

from fedpredict.errors.base import FedPredictError


class ConfigError(FedPredictError):
    """A setting is missing, misspelt or out of range."""


class WarehouseError(FedPredictError):
    """A warehouse did not do what was asked of it."""


class WarehouseUnavailableError(WarehouseError):
    """The warehouse cannot be reached now; trying again later may succeed."""


class WarehouseWriteError(WarehouseError):
    """Rows could not be written; no reader sees any of them."""


class StatementError(WarehouseError):
    """The engine refused a statement."""


class TableCorruptError(WarehouseError):
    """Stored rows do not give the digest that they are stored under."""


class StoreError(FedPredictError):
    """The features' store cannot be used; what it served, it goes on serving."""


class StateError(FedPredictError):
    """The state database cannot be used."""


class LeaseHeldError(FedPredictError):
    """The same work is under way in another process."""


class LeaseLostError(FedPredictError):
    """Another process took the work over, because this one did not renew its lease in time."""
