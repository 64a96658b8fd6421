"""Calls to an initiator -> lines of its audit log: who asked what of which model, at every edge."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from typing_extensions import override

from fedpredict.initiator.predict import Predicts
from fedpredict.initiator.submit import Done, GiveUp
from fedpredict.model.offline import OfflineTask, Upload
from fedpredict.model.prediction import Prediction, PredictTask
from fedpredict.observe.metrics import Edge
from fedpredict.security.audit_calls import AuditedCalls
from fedpredict.security.audit_line import AuditedCall, is_unlisted, outcome_of
from fedpredict.security.audit_waiting import Audit
from fedpredict.security.identity import Identity

_LIST = "ids "
"""What `NewTask.asked_for` begins with where a list was sent."""

WHAT: Mapping[Edge, str] = {
    "grpc": "Predict",
    "stream": "PredictStream",
    "http": "POST /v1/predict",
    "oip_grpc": "ModelInfer",
    "oip_http": "POST /v2/models/infer",
}
"""Edge -> the method, as lines name it."""


class RequestAudit(AuditedCalls):
    """Writes down what users ask an initiator for, where there is an audit log."""

    def predictor(self, predictor: Predicts, edge: Edge) -> Predicts:
        """Return `predictor`, whose every task that comes through an edge is written down; itself without a log."""
        return predictor if self._log is None else _Audited(predictor, WHAT[edge], self._log, self)

    @contextmanager
    def refusals(self, what: str, caller: Identity, request_id: str = "", model_id: str = "") -> Iterator[None]:
        """Write down what the block refuses; it is not begun while nothing can be written down."""
        try:
            self.check()
            yield
        except BaseException as error:
            self.other(what, caller, request_id, model_id, error)
            raise

    def uploaded(self, caller: Identity, request_id: str, upload: Upload) -> None:
        """Write down a list of ids that was taken for a task to come; the task's line has a hash of them."""
        if self._log is not None:
            call = AuditedCall("UploadSamples", "", request_id, rows=upload.rows, population=str(upload.population))
            self.write(call, caller, None)

    def task(self, what: str, caller: Identity, request_id: str, task: OfflineTask) -> None:
        """Write down what was asked of a task, and is answered: whose ids, how many, and of a list a hash of all."""
        if self._log is None:
            return
        new = task.new
        is_list = new.asked_for.startswith(_LIST)
        call = AuditedCall(
            what,
            "",
            request_id or task.task_id,
            new.manifest.model_id,
            new.manifest.manifest_sha256,
            new.mode.value,
            new.rows,
            # the digest of a short list could be guessed: it is written as its keyed hash alone
            ids_sha256=new.asked_for.removeprefix(_LIST) if is_list else "",
            population="" if is_list else new.asked_for,
        )
        self.write(call, caller, None)


class _Audited(Predicts):
    def __init__(self, predictor: Predicts, what: str, log: Audit, calls: AuditedCalls) -> None:
        self._predictor = predictor
        self._what = what
        self._log = log
        self._calls = calls

    @override
    async def predict(self, task: PredictTask, caller: Identity, *, deadline_s: float | None) -> Prediction:
        try:
            self._log.check()
            prediction = await self._predictor.predict(task, caller, deadline_s=deadline_s)
        except BaseException as error:
            self._add(task, caller, error)
            raise
        self._add(task, caller, prediction)
        await self._calls.safe()
        return prediction

    @override
    def submit(self, task: PredictTask, caller: Identity, *, deadline_s: float | None, done: Done) -> GiveUp:
        is_over = False

        def ended(outcome: Prediction | BaseException) -> None:
            nonlocal is_over
            is_over = True
            self._add(task, caller, outcome)
            done(outcome)

        held = _Held(self._log, done) if self._log.holds_answers else None
        if held is not None:
            done = held.done
        try:
            self._log.check()
            give_up = self._predictor.submit(task, caller, deadline_s=deadline_s, done=ended)
        except BaseException as error:
            self._add(task, caller, error)
            raise

        def left() -> None:
            nonlocal is_over
            give_up()
            if held is not None:
                held.is_left = True
            if not is_over:
                is_over = True
                self._add(task, caller, CancelledError())

        return left

    def _add(self, task: PredictTask, caller: Identity, outcome: Prediction | BaseException) -> None:
        if not isinstance(outcome, BaseException):
            self._calls.answered(
                self._what,
                caller,
                task.request_id,
                model_id=task.model_id,
                manifest_sha256=outcome.manifest_sha256,
                mode=task.mode,
                epoch=0,
                sample_ids=task.sample_ids,
                status=outcome.status,
            )
            return
        ids = None if is_unlisted(outcome) else task.sample_ids
        call = AuditedCall(
            self._what,
            "",
            task.request_id,
            task.model_id,
            mode=task.mode.value,
            rows=len(task.sample_ids),
            outcome=outcome_of(outcome),
            sample_ids=ids,
        )
        self._calls.write(call, caller, outcome)


class _Held:
    """A call whose answer waits for its line, and whose caller may leave meanwhile."""

    def __init__(self, log: Audit, done: Done) -> None:
        self._log = log
        self._done = done
        self.is_left = False

    def done(self, outcome: Prediction | BaseException) -> None:
        """Hand the outcome on once its line is safe; an error at once."""
        if isinstance(outcome, BaseException):
            self._done(outcome)
        else:
            self._log.when_safe(lambda error: None if self.is_left else self._done(error or outcome))
