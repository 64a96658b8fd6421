"""What callers and files hand over that cannot be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedpredict.errors.base import FedPredictError


class InputError(FedPredictError):
    """What a caller handed over cannot be used."""


class NameRefusedError(InputError):
    """A model id, party, view or feature name breaks the naming rules."""


class EmptyRequestError(InputError):
    """A request names no sample id."""


class TooManySamplesError(InputError):
    """A request names more sample ids than the server takes in one call."""

    public_fields = ("limit",)

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = int(limit)


class UnsupportedModeError(InputError):
    """The freshness mode is not served here."""

    public_fields = ("mode",)

    def __init__(self, message: str, *, mode: str) -> None:
        super().__init__(message)
        self.mode = mode


class InputsRefusedError(InputError):
    """Features that were sent with a request are not those of the view.

    Attributes:
        feature: The name, quoted and shortened.
        problem: What is wrong with it, in words that may leave the process.
    """

    public_fields = ("feature", "problem")

    def __init__(self, message: str, *, feature: str, problem: str) -> None:
        super().__init__(message)
        self.feature = feature
        self.problem = problem


class FeatureFileError(InputError):
    """A file of features cannot be loaded as it is; nothing was written."""


class ViewRefusedError(InputError):
    """A feature view's definition or script, or what it gave, cannot be used; nothing of it became visible."""


class EventsRefusedError(InputError):
    """Raw events cannot be taken as they are; none of them was stored.

    Attributes:
        n_events: How many came.
        n_refused: How many of them cannot be taken.
        refused: Of the first of them, the line or row and why; without a value of it.
    """

    public_fields = ("n_events", "n_refused", "refused")

    def __init__(self, message: str, *, n_events: int, n_refused: int, refused: Sequence[Mapping[str, object]]) -> None:
        super().__init__(message)
        self.n_events = n_events
        self.n_refused = n_refused
        self.refused = tuple(refused)


class FieldError(InputError):
    """One field of a request cannot be used; neither `place` nor `problem` holds a value of the request."""

    public_fields = ("place", "problem")

    def __init__(self, message: str, *, place: str, problem: str) -> None:
        super().__init__(message)
        self.place = place
        self.problem = problem


class ProtocolError(InputError):
    """A message that does not parse, lacks a field, or speaks another protocol version."""


class ConversionError(FedPredictError):
    """A model file did not become a partial model; nothing was written."""


class ModelFileError(ConversionError):
    """The file is unreadable: damaged, too large, of no known format, or made to attack."""


class UnsupportedModelError(ConversionError):
    """The file was read, but holds nothing that can be served with the trainer's own numbers."""


class ModelConflictError(ConversionError):
    """Two sources of one fact (model id, training run, kind) disagree."""


class FeatureNamesError(ConversionError):
    """The model's feature names do not fit the feature view."""

    def __init__(self, message: str, *, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class VerificationError(ConversionError):
    """The verification rows in the file give other partial scores than they should."""


class FeedNotFoundError(InputError):
    """No such view takes raw events from this sender; one that takes another's looks the same."""
