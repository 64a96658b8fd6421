"""What a process can score at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedpredict.errors import ManifestMismatchError, ModelNotFoundError, ModelNotReadyError
from fedpredict.model.manifest import PartDescription
from fedpredict.model.part import Part
from fedpredict.model.share import Mode
from fedpredict.scoring.texts import TextCodes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """One version of one model, read from its parameter table and verified against its digest.

    Attributes:
        description: What may be told of it.
        part: The parameters.
        view: The feature view it reads.
        view_version: And its version.
        columns: The columns of the part's features in that view, in the part's order.
        max_age: How old its features may be by the view's own definition, in microseconds, by mode.
        texts: Reads its text features; None where it has none.
    """

    description: PartDescription
    part: Part
    view: str
    view_version: int
    columns: tuple[str, ...]
    max_age: Mapping[Mode, int] = field(default_factory=dict)
    texts: TextCodes | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", TextCodes(self.part, self.columns) if self.part.categories else None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartyState:
    """The models of one party; replaced as a whole, never changed.

    Attributes:
        current: Model id -> the newest version that could be loaded.
        loaded: (model id, params_sha256) -> every version that can be scored.
        problems: Model id -> what is wrong with it, for this party's operator; a model can be served all the same.
        warehouse_problem: Why the warehouse could not be read the last time; empty if it could.
        read_once: Whether the warehouse has been read since the start.
    """

    current: Mapping[str, LoadedModel] = field(default_factory=dict)
    loaded: Mapping[tuple[str, str], LoadedModel] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    warehouse_problem: str = ""
    read_once: bool = False

    @property
    def views(self) -> set[tuple[str, int]]:
        """View and version of every model that is loaded."""
        return {(model.view, model.view_version) for model in self.loaded.values()}

    def newest(self, model_id: str) -> LoadedModel:
        """Return the current version of a model.

        Raises:
            ModelNotFoundError: The warehouse has no such model.
            ModelNotReadyError: It has, but no version could be loaded; or the warehouse was never read.
        """
        model = self.current.get(model_id)
        if model is not None:
            return model
        if model_id in self.problems:
            raise ModelNotReadyError(f"model {model_id}: {self.problems[model_id]}")
        if not self.read_once:
            raise ModelNotReadyError(f"model {model_id}: {self.warehouse_problem or 'the warehouse is being read'}")
        raise ModelNotFoundError(f"no model {model_id} in the warehouse")

    def version(self, model_id: str, params_sha256: str) -> LoadedModel:
        """Return the version of a model that has this digest.

        Raises:
            ModelNotFoundError, ModelNotReadyError: As `newest`.
            ManifestMismatchError: No loaded version has the digest.
        """
        model = self.loaded.get((model_id, params_sha256))
        if model is not None:
            return model
        newest = self.newest(model_id).description.params_sha256
        raise ManifestMismatchError(
            f"model {model_id}: digest {params_sha256[:12]} is not loaded; the newest is {newest[:12]}"
        )
