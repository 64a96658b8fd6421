"""The total task and its answer, as the initiator and its users see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from fedpredict.model.arrays import Bools, Floats, Statuses
from fedpredict.model.inputs import Inputs
from fedpredict.model.kinds import Kind
from fedpredict.model.links import Link
from fedpredict.model.reasons import Reasons, joined
from fedpredict.model.share import Mode, SampleStatus


class Origin(IntEnum):
    """Where a sample's numbers come from."""

    UNSPECIFIED = 0
    MODEL = 1
    DEFAULT_PARTIAL = 2
    FALLBACK_MODEL = 3


@dataclass(slots=True, kw_only=True, eq=False)  # not frozen: to make a frozen one takes four times as long
class PredictTask:
    """A total task: what a user asks an initiator for.

    Attributes:
        request_id: Names the prediction in every log.
        model_id: The model.
        mode: The freshness asked for.
        sample_ids: In the order of the answer.
        inputs: The initiator's own features of these samples, where they are not in its store; None: looked up.
        traceparent: The request's span in W3C's form where it is traced; else empty. It travels beside the message.
    """

    request_id: str
    model_id: str
    mode: Mode
    sample_ids: Sequence[bytes]
    inputs: Inputs | None = None
    traceparent: str = ""


@dataclass(slots=True, eq=False)
class PartyReport:
    """One party's side of a prediction.

    Attributes:
        party: The party.
        status: Shape (n_samples,), or None where every sample is OK.
        oldest_event_time: Of the features used, in microseconds UTC; None when none was used.
        round_trip_s: Seconds between asking and having the answer.
        elapsed_s: Seconds that the party says it spent.
        problem: Why the party as a whole has no share, in public words; empty otherwise.
        reasons: Why points were lost here; None where the party tells nothing.
    """

    party: str
    status: Statuses | None
    oldest_event_time: int | None
    round_trip_s: float
    elapsed_s: float
    problem: str = ""
    reasons: Reasons | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Prediction:
    """The answer to a total task, in the order of its sample ids.

    Attributes:
        request_id: As asked.
        manifest_sha256: The version that answered, in hex; empty when simulated without one.
        predictions: Shape (n_samples, n_outputs), after the inverse link; NaN where the status is not OK.
        status: Shape (n_samples,), `SampleStatus` values.
        origin: Shape (n_samples,), `Origin` values.
        classes: Class labels; a binary model's one column is the probability of `classes[1]`.
        parties: In the manifest's order.
        simulated: Made up, without partners; the numbers mean nothing.
    """

    request_id: str
    manifest_sha256: str
    predictions: Floats
    status: Statuses
    origin: Statuses
    classes: tuple[str, ...]
    parties: tuple[PartyReport, ...]
    simulated: bool = False

    @property
    def scored(self) -> Bools:
        """Which samples have numbers; shape (n_samples,)."""
        return np.asarray(self.status == SampleStatus.OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model as its users see it; the fields after `problem` are empty until the parties have been met."""

    model_id: str
    ready: bool
    problem: str
    kind: Kind | None
    link: Link | None
    classes: tuple[str, ...]
    parties: tuple[str, ...]
    manifest_sha256: str
    n_outputs: int


def join_reports(reports: Sequence[PartyReport], sizes: Sequence[int]) -> PartyReport:
    """Return one party's report on consecutive rows from its reports on runs of them.

    Args:
        reports: In the order of the rows.
        sizes: The rows of each.

    Returns:
        The oldest event time of all, the longest times, and every problem that occurred.
    """
    event_times = [report.oldest_event_time for report in reports if report.oldest_event_time is not None]
    return PartyReport(
        party=reports[0].party,
        status=_joined_statuses(reports, sizes),
        oldest_event_time=min(event_times, default=None),
        round_trip_s=max(report.round_trip_s for report in reports),
        elapsed_s=max(report.elapsed_s for report in reports),
        problem="; ".join(dict.fromkeys(report.problem for report in reports if report.problem)),
        reasons=joined([report.reasons for report in reports], sizes),
    )


def _joined_statuses(reports: Sequence[PartyReport], sizes: Sequence[int]) -> Statuses | None:
    if all(report.status is None for report in reports):
        return None
    return np.concatenate(
        [
            np.full(size, SampleStatus.OK, dtype=np.uint8) if report.status is None else report.status
            for report, size in zip(reports, sizes, strict=True)
        ]
    )
