"""The answer to `predict`, as arrays, Arrow or pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from typing_extensions import override

from fedpredict.client.ids import GivenIds, take_ids
from fedpredict.model.arrays import Floats, Statuses
from fedpredict.model.prediction import Origin, PartyReport, Prediction
from fedpredict.model.share import SampleStatus

if TYPE_CHECKING:
    import pandas as pd

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Reason = tuple[str, SampleStatus]
"""A party, and what it said of a sample."""


@dataclass(frozen=True, slots=True)
class PartyAnswer:
    """One party's side of the answer.

    Attributes:
        party: The party.
        oldest_event_time: Of the features that were used, in UTC; None when none was.
        round_trip_s: Seconds between asking and having the answer, as the initiator saw it; the longest of all chunks.
        elapsed_s: Seconds that the party says it spent; the longest of all chunks.
        problem: Why the party as a whole had no share; empty otherwise.
    """

    party: str
    oldest_event_time: datetime | None
    round_trip_s: float
    elapsed_s: float
    problem: str


class Predictions:
    """Predictions for the samples asked for, in the order asked.

    A sample that could not be scored has a status other than OK and NaN (null in Arrow and pandas) for its numbers.

    Attributes:
        values: Shape (n_samples, n_outputs): probabilities for a classifier (one column for a binary model: that of
            `classes[1]`), numbers for a regression; NaN where the status is not OK.
        status: Shape (n_samples,), values of `SampleStatus`.
        origin: Shape (n_samples,), values of `Origin`: the model, a stated constant or another model behind the number.
        classes: Class labels, two for a binary model; empty for a regression.
        request_id: Names the prediction in every party's log.
        manifest: The SHA-256 of the version that answered, in hex; empty when simulated.
        simulated: Made up by a server without partners; the numbers mean nothing.
    """

    def __init__(self, sample_ids: GivenIds | Sequence[str | bytes], prediction: Prediction) -> None:
        self._given = sample_ids if isinstance(sample_ids, GivenIds) else take_ids(list(sample_ids))
        self.values: Floats = prediction.predictions
        self.status: Statuses = prediction.status
        self.origin: Statuses = prediction.origin
        self.classes = prediction.classes
        self.request_id = prediction.request_id
        self.manifest = prediction.manifest_sha256
        self.simulated = prediction.simulated
        self._reports = prediction.parties

    @cached_property
    def sample_ids(self) -> list[str | bytes]:
        """The sample ids as given, text or bytes; made a list when first asked for."""
        return self._given.as_given()

    @cached_property
    def parties(self) -> tuple[PartyAnswer, ...]:
        """One answer per party."""
        return tuple(_party_answer(report) for report in self._reports)

    @cached_property
    def reasons(self) -> list[tuple[Reason, ...]]:
        """Per sample the parties that were not OK, with the status each gave; built when first asked for."""
        reasons: list[list[Reason]] = [[] for _ in range(len(self))]
        for report in self._reports:
            if report.status is not None:
                for i in np.flatnonzero(report.status != SampleStatus.OK).tolist():
                    reasons[i].append((report.party, SampleStatus(int(report.status[i]))))
        return [tuple(each) for each in reasons]

    @cached_property
    def reason_codes(self) -> list[tuple[tuple[str, str], ...]]:
        """Per sample the parties' codes for points lost, as (party, code): by party, the largest loss first.

        Empty for a sample whose number is not the model's own, and for parties that tell none.
        """
        codes: list[list[tuple[str, str]]] = [[] for _ in range(len(self))]
        for report in self._reports:
            if report.reasons is not None:
                for row, texts in enumerate(report.reasons.texts()):
                    codes[row] += [(report.party, text) for text in texts]
        return [tuple(each) for each in codes]

    @property
    def n_scored(self) -> int:
        """How many samples have numbers."""
        return int((self.status == SampleStatus.OK).sum())

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of `values` in Arrow, pandas and files.

        `prediction` for one number a sample, `prediction_<class>` per class, else `prediction_<index>`.
        """
        width = self.values.shape[1]
        if width == 1:
            return ("prediction",)
        return tuple(f"prediction_{label}" for label in (self.classes or range(width)))

    def to_numpy(self) -> Floats:
        """Return `values`; shape (n_samples, n_outputs), NaN where there is no score."""
        return self.values

    def to_arrow(self) -> pa.Table:
        """Return a table: sample_id, one column per output (null where there is no score), status, origin.

        Statuses and origins are their names in lower case. Sample ids are text; where one is not UTF-8, all are binary.
        """
        scored = self.status == SampleStatus.OK
        columns: dict[str, pa.Array] = {"sample_id": self._given.to_arrow()}
        for name, values in zip(self.columns, self.values.T, strict=True):
            columns[name] = pa.array(np.ascontiguousarray(values), type=pa.float64(), mask=~scored)
        columns["status"] = pa.array([SampleStatus(int(code)).name.lower() for code in self.status], type=pa.string())
        columns["origin"] = pa.array([Origin(int(code)).name.lower() for code in self.origin], type=pa.string())
        return pa.table(columns)

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of `to_arrow` as a pandas frame.

        Raises:
            ImportError: pandas is not installed; it is an optional extra.
        """
        try:
            import pandas  # noqa: F401, ICN001, PLC0415  an optional extra
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'fedpredict[pandas]'") from error
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def __len__(self) -> int:
        return len(self._given)

    @override
    def __repr__(self) -> str:
        told = [
            f"{self.n_scored} of {len(self)} scored",
            f"{self.values.shape[1]} output{'s' if self.values.shape[1] != 1 else ''}",
        ]
        told += [f"{count} {name}" for name, count in self._failures().items()]
        told += [f"{answer.party}: {answer.problem}" for answer in self.parties if answer.problem]
        told.append(f"request {self.request_id}")
        return f"<{'SIMULATED ' if self.simulated else ''}Predictions: {', '.join(told)}>"

    def _failures(self) -> dict[str, int]:
        codes, counts = np.unique(self.status[self.status != SampleStatus.OK], return_counts=True)
        return {SampleStatus(int(code)).name.lower(): int(count) for code, count in zip(codes, counts, strict=True)}


def _party_answer(report: PartyReport) -> PartyAnswer:
    moment = report.oldest_event_time
    return PartyAnswer(
        party=report.party,
        oldest_event_time=None if moment is None else _EPOCH + timedelta(microseconds=moment),
        round_trip_s=report.round_trip_s,
        elapsed_s=report.elapsed_s,
        problem=report.problem,
    )
