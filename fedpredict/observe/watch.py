"""What edges, rounds and participants tell about each prediction: counted, traced and, where wanted, logged.

An edge says that a request began and how it was answered; a round, whom it asked and what it heard; a participant, who
asked it for what. Where nothing is measured these calls cost less than a microsecond a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from typing_extensions import override

from fedpredict.model.prediction import Prediction
from fedpredict.model.scorer import PartyReply, ScoreQuery
from fedpredict.model.several import rows_of_models
from fedpredict.model.share import Mode, SampleStatus
from fedpredict.observe.metrics import SEVERAL, CallOutcome, Edge, Outcome, outcome_of
from fedpredict.observe.request_log import RequestLog
from fedpredict.observe.scoring import NO_PARTICIPANT_METRICS, ParticipantMetrics, Scores
from fedpredict.observe.serving import NO_SERVING_METRICS, Calls, Requests, Rounds, ServingMetrics
from fedpredict.observe.settings import LogSettings
from fedpredict.observe.traces import NO_TRACES, Span, Traces, combine_span, party_span

_OK = bytes([SampleStatus.OK])


class RequestWatch:
    """One request, from its arrival to its answer."""

    __slots__ = ("_began", "_requests", "_rows", "_span", "traceparent")

    def __init__(self, requests: Requests, rows: int, span: Span | None) -> None:
        self._began = perf_counter()
        self._requests = requests
        self._rows = rows
        self._span = span
        self.traceparent = "" if span is None else span.traceparent
        """For the `PredictTask`."""

    def answered(self, answer: Prediction | BaseException) -> None:
        """Say how it ended, once: with a prediction, an error, or `CancelledError` where the caller left."""
        outcome = outcome_of(answer) if isinstance(answer, BaseException) else outcome_of_prediction(answer)
        self._requests.done(outcome, perf_counter() - self._began, self._rows)
        if self._span is not None:
            self._span.end(outcome)


class _NoRequestWatch(RequestWatch):
    def __init__(self) -> None:
        super().__init__(NO_SERVING_METRICS.request("grpc", "", Mode.NEARLINE), 0, None)

    @override
    def answered(self, answer: Prediction | BaseException) -> None:
        pass


_NO_REQUEST_WATCH = _NoRequestWatch()


class RoundWatch:
    """One round, from asking the parties to having combined."""

    __slots__ = ("_asked", "_began", "_rounds", "_rows", "_span", "_watch")

    def __init__(self, watch: PredictionWatch, rounds: Rounds, rows: int, span: Span | None) -> None:
        self._began = perf_counter()
        self._watch = watch
        self._rounds = rounds
        self._rows = rows
        self._span = span
        self._asked: dict[str, Span | None] | None = None if span is None else {}

    def ask(self, party: str) -> str:
        """Say that a party is asked now; return the traceparent for its sub-task."""
        if self._asked is None:
            return ""
        asked = self._asked[party] = party_span(self._span, party, self._rows)
        return "" if asked is None else asked.traceparent

    def heard(self, party: str, outcome: CallOutcome, seconds: float, elapsed_s: float | None = None) -> None:
        """Say what became of it.

        Args:
            party: Who was asked.
            outcome: `call_outcome_of` says it of an error.
            seconds: From asking to hearing.
            elapsed_s: What the party says that it spent; None where it did not answer.
        """
        self._watch.party(party).done(outcome, seconds, elapsed_s)
        asked = self._asked.pop(party, None) if self._asked else None
        if asked is not None:
            asked.end(outcome)

    def combining(self) -> Span | None:
        """Begin the span of combining, which the caller ends with "ok"; None where the round is not traced."""
        return combine_span(self._span)

    def misfit(self, rows: int) -> None:
        """Say that so many rows have no number because the parties' shares contradict each other."""
        self._rounds.misfit(rows)

    def ended(self, outcome: Outcome = "ok") -> None:
        """Say that the round is over, exactly once; "cancelled" where nobody waited any more."""
        self._rounds.done(perf_counter() - self._began)
        if self._span is None:
            return
        for asked in (self._asked or {}).values():
            if asked is not None:
                asked.end("cancelled")
        self._span.end(outcome)


class PredictionWatch:
    """What an initiator tells of its predictions."""

    def __init__(
        self,
        serving: ServingMetrics = NO_SERVING_METRICS,
        traces: Traces = NO_TRACES,
        log: RequestLog | None = None,
    ) -> None:
        """Tell these three; by default nobody.

        Args:
            serving: Counts.
            traces: Traces.
            log: Says which requests get a line.
        """
        self.serving = serving
        self.log = log or RequestLog(LogSettings())
        self.traces = traces
        self._calls: dict[str, Calls] = {}

    def request(self, edge: Edge, model: str, mode: Mode, rows: int, traceparent: str = "") -> RequestWatch:
        """Say that a request has arrived at an edge.

        Args:
            edge: Which.
            model: The model that it names, whatever that is.
            mode: The mode.
            rows: Its sample ids.
            traceparent: What the caller sent as that header or metadata.
        """
        if not (self.serving.counts or self.traces.on):
            return _NO_REQUEST_WATCH
        span = self.traces.request(edge, model, traceparent) if self.traces.on else None
        return RequestWatch(self.serving.request(edge, model, mode), rows, span)

    def round(self, models: Sequence[str], mode: Mode, carried: Sequence[str], rows: int) -> RoundWatch:
        """Say that a round begins.

        Args:
            models: Of its requests, each once; several are counted as `SEVERAL`.
            mode: The mode.
            carried: The traceparent of each request in it; "" for those that are not traced.
            rows: Rows of all of them.
        """
        model = models[0] if len(models) == 1 else SEVERAL
        rounds = self.serving.round(model, mode)
        rounds.began(len(carried), rows)
        span = self.traces.round(model, mode.value, carried, rows=rows) if self.traces.on else None
        return RoundWatch(self, rounds, rows, span)

    def party(self, party: str) -> Calls:
        """Return what counts the calls to a party and the state of its link."""
        calls = self._calls.get(party)
        if calls is None:
            calls = self._calls[party] = self.serving.party(party)
        return calls


class ShareWatch:
    """What a participant tells of the shares that it gives."""

    def __init__(
        self,
        metrics: ParticipantMetrics = NO_PARTICIPANT_METRICS,
        traces: Traces = NO_TRACES,
        log: RequestLog | None = None,
    ) -> None:
        """Tell these three; by default nobody.

        Args:
            metrics: Counts.
            traces: Traces.
            log: Says which shares get a line.
        """
        self._metrics = metrics
        self.traces = traces
        self._log = log or RequestLog(LogSettings())

    def share(self, caller: str, query: ScoreQuery) -> WatchedShare:
        """Say that a sub-task is answered from now on; the result is to be told how it ended.

        Args:
            caller: The party that asks.
            query: What it asks for.
        """
        scores = self._metrics.score(caller, query.model_id)
        further = [self._metrics.score(caller, each.model_id) for each in query.further]
        model = SEVERAL if query.further else query.model_id
        span = self.traces.score(query.traceparent, caller, model) if query.traceparent else None
        return WatchedShare(query, (scores, *further), self._log, span)


class WatchedShare:
    """The answer to one sub-task under way."""

    __slots__ = ("_began", "_log", "_query", "_scores", "_span")

    def __init__(self, query: ScoreQuery, scores: Sequence[Scores], log: RequestLog, span: Span | None) -> None:
        self._began = perf_counter()
        self._query = query
        self._scores = scores
        self._log = log
        self._span = span

    def scored(self, reply: PartyReply) -> bool:
        """Count the share, each model's by itself; return whether it gets a line in the log."""
        seconds = perf_counter() - self._began
        if len(self._scores) == 1:
            outcome = self._scores[0].done(seconds, reply.share.status)
        else:
            outcome = self._scored_several(reply, seconds)
        if self._span is not None:
            self._span.end(outcome, **{"fedpredict.rows": len(reply.share.status)})
        return self._log.wants(outcome)

    def failed(self, error: BaseException) -> None:
        """Count the error instead, for every model; `CancelledError` where the caller waits no more."""
        outcome = outcome_of(error)
        for scores in self._scores:
            scores.failed(outcome, perf_counter() - self._began)
        if self._span is not None:
            self._span.end(outcome)

    def _scored_several(self, reply: PartyReply, seconds: float) -> Outcome:
        """Count each model's share, and return the outcome of all: "ok", or the first that is not."""
        if reply.share.all_ok:
            for scores, n_rows in zip(self._scores, self._query.model_rows, strict=True):
                scores.done_in_full(seconds, n_rows)
            return "ok"
        worst: Outcome = "ok"
        for place, (scores, rows) in enumerate(zip(self._scores, rows_of_models(self._query), strict=True)):
            error = reply.failures.get(place)
            if error is None:
                outcome = scores.done(seconds, reply.share.status[rows])
            else:
                outcome = outcome_of(error)
                scores.failed(outcome, seconds)
            worst = outcome if worst == "ok" else worst
        return worst


def outcome_of_prediction(prediction: Prediction) -> Outcome:
    """Return "ok" where every sample has a number, else "partial"."""
    statuses = prediction.status.tobytes()
    return "ok" if statuses.count(_OK) == len(statuses) else "partial"
