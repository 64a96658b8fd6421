"""What every head has in common: the parties' shares go in, raw scores come out, or a sample has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fedpredict.model.arrays import Bools, Floats
from fedpredict.model.combination import Combination
from fedpredict.model.ids import check_model_id, check_party_id
from fedpredict.model.kinds import Kind, check_link, check_widths
from fedpredict.model.links import Link


@dataclass(slots=True, eq=False)
class HeadScores:
    """Raw scores that a head made of shares.

    Attributes:
        raw: Shape (n_samples, n_outputs).
        misfit: Shape (n_samples,): whose shares contradict each other, and have no raw score; None for none.
        problem: What is wrong with the first of them, for the operator: a tree and parties, never a sample.
    """

    raw: Floats
    misfit: Bools | None = None
    problem: str = ""


class Head(Protocol):
    """What finishes the shares of all parties, at the initiator. Immutable; calls may come from any thread."""

    @property
    def combination(self) -> Combination:
        """What it must have in common with the parties' parts."""

    @property
    def parties(self) -> tuple[str, ...] | None:
        """Whose shares it takes; None where any parties' do."""

    @property
    def n_scores(self) -> int:
        """The width of a party's share."""

    @property
    def n_bytes(self) -> int:
        """The memory that its arrays take."""

    def raw_scores(self, shares: Mapping[str, Floats]) -> HeadScores:
        """Return raw scores, in the order of the samples.

        Args:
            shares: By party, every party of the model, in the order of the manifest: shape (n_samples, n_scores), of
                samples that every party scored.
        """


@dataclass(frozen=True, slots=True, eq=False)
class HeadModel:
    """A head, with what it must agree on with the parties' parts.

    Attributes:
        model_id: The training task's id; the same at every party.
        training_run: The run that made all parts and the head.
        party: Who holds it: the initiator.
        kind: What raw scores mean.
        classes: Class labels as text; empty for a regression.
        link: What relates raw scores and predictions.
        head: The parameters.
        metadata: Free text by name, never used for scoring.
    """

    model_id: str
    training_run: str
    party: str
    kind: Kind
    classes: tuple[str, ...]
    link: Link
    head: Head
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_link(self.kind, self.link)
        check_model_id(self.model_id)
        check_party_id(self.party)
        check_widths(self.kind, self.head.combination.n_outputs, self.classes, self.link)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedHead:
    """A head that was read from the initiator's warehouse and verified against its digest.

    Attributes:
        model: The head.
        head_sha256: Its digest, in hex.
    """

    model: HeadModel
    head_sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class HeadShelf:
    """The heads that an initiator can finish with at one moment; replaced as a whole, never changed.

    Attributes:
        heads: Model id -> its heads, the newest first.
        problems: Model id -> what is wrong with a head of it, for the operator.
    """

    heads: Mapping[str, tuple[LoadedHead, ...]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    def version(self, model_id: str, head_sha256: str) -> LoadedHead | None:
        """Return the head of a model that has this digest; None where none is loaded."""
        return next((each for each in self.heads.get(model_id, ()) if each.head_sha256 == head_sha256), None)

    def fitting(self, model_id: str, training_run: str, combination: Combination) -> LoadedHead | None:
        """Return the newest head of a model that goes with parts of a run; None where there is none."""
        return next(
            (
                each
                for each in self.heads.get(model_id, ())
                if (each.model.training_run, each.model.head.combination) == (training_run, combination)
            ),
            None,
        )


Heads = Callable[[], HeadShelf]
"""The heads at the moment of the call."""
