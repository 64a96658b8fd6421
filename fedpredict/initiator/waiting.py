"""A request on its way through rounds: what of it is asked, what is answered, and the answer put together."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from fedpredict.initiator.policy import Answer
from fedpredict.initiator.question import Question
from fedpredict.initiator.submit import Done
from fedpredict.model.manifest import Manifest
from fedpredict.model.prediction import PartyReport, Prediction, PredictTask, join_reports

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Part:
    """The answer for some consecutive rows of a request.

    Attributes:
        start: The first row.
        answer: For these rows.
        reports: By party, in the manifest's order.
    """

    start: int
    answer: Answer
    reports: tuple[PartyReport, ...]


@dataclass(slots=True, eq=False)
class Waiting:
    """A request and its caller.

    Attributes:
        task: What is asked for.
        question: What it has in common with others for the same version of the model.
        arrived: The loop's time of the request.
        asks_until: The loop's time until which parties may answer.
        ends: The loop's time until which the whole answer must be there.
        done: Who waits.
        taken: Rows that are in a round, or were.
        over: The caller has its answer, or has left.
        n_rows: The number of sample ids.
    """

    task: PredictTask
    question: Question
    arrived: float
    asks_until: float
    ends: float
    done: Done
    taken: int = 0
    over: bool = False
    n_rows: int = field(init=False)
    _parts: list[Part] = field(default_factory=list)
    _answered: int = 0

    def __post_init__(self) -> None:
        self.n_rows = len(self.task.sample_ids)

    @property
    def n_left(self) -> int:
        """The number of rows that no round has taken yet."""
        return self.n_rows - self.taken

    def take(self, start: int, answer: Answer, reports: tuple[PartyReport, ...]) -> None:
        """Take rows that are answered; with the last of them the caller has the answer.

        Args:
            start: The first row.
            answer: For these rows.
            reports: By party, in the manifest's order.
        """
        if self.over:
            return
        n_rows = len(answer.status)
        if n_rows == self.n_rows:
            self._tell(_prediction(self.task, self.question.manifest, answer, reports))
            return
        self._parts.append(Part(start, answer, reports))
        self._answered += n_rows
        if self._answered == self.n_rows:
            whole = _joined(self._parts)
            self._tell(_prediction(self.task, self.question.manifest, whole.answer, whole.reports))

    def fail(self, error: BaseException) -> None:
        """End without an answer."""
        if not self.over:
            self._tell(error)

    def _tell(self, outcome: Prediction | BaseException) -> None:
        self.over = True
        try:
            self.done(outcome)
        except Exception:  # one caller's edge that breaks must not take the answers of the round's other callers
            logger.exception("predict.undelivered", extra={"request_id": self.task.request_id})


def _prediction(task: PredictTask, manifest: Manifest, answer: Answer, reports: tuple[PartyReport, ...]) -> Prediction:
    return Prediction(
        request_id=task.request_id,
        manifest_sha256=manifest.manifest_sha256,
        predictions=answer.predictions,
        status=answer.status,
        origin=answer.origin,
        classes=manifest.classes,
        parties=reports,
    )


def _joined(parts: list[Part]) -> Part:
    ordered = sorted(parts, key=lambda part: part.start)
    answers = [part.answer for part in ordered]
    answer = Answer(
        predictions=np.concatenate([each.predictions for each in answers]),
        status=np.concatenate([each.status for each in answers]),
        origin=np.concatenate([each.origin for each in answers]),
    )
    sizes = [len(each.status) for each in answers]
    reports = zip(*(part.reports for part in ordered), strict=True)
    return Part(0, answer, tuple(join_reports(of_party, sizes) for of_party in reports))
