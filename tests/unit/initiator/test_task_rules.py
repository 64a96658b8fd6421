"""Tasks are held to the rule of whoever asks for them, not only of who submitted them; and leave the right lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from fedpredict.errors import NotPermittedError, StateError, TooManySamplesError
from fedpredict.initiator.admission import Access
from fedpredict.initiator.audited import RequestAudit
from fedpredict.initiator.offline.desk import TaskDesk
from fedpredict.initiator.offline.service import OfflineService
from fedpredict.initiator.settings import ClientSettings
from fedpredict.initiator.task_settings import InitiatorTaskSettings
from fedpredict.model.offline import OfflineState
from fedpredict.model.sample_ids import SampleIds
from fedpredict.model.share import Mode
from fedpredict.observe.tasks import TaskMetrics
from fedpredict.security.audit_line import AuditedCall
from fedpredict.security.identity import Identity, IdentityKind
from fedpredict.security.tokens import TokenFile, TokenHolder, Tokens
from fedpredict.state.task_base import Why
from fedpredict.wire.offline_codec import Submission, submission_to_wire
from tests.unit.initiator.test_offline_fetch import Call
from tests.unit.initiator.test_offline_runner import Bench

DESK, NOW, FEW = (Identity(IdentityKind.CLIENT, name) for name in ("desk", "now", "few"))


class Kept:
    """An audit log that keeps its calls."""

    holds_answers = False

    def __init__(self) -> None:
        self.calls: list[AuditedCall] = []

    def check(self) -> None:
        pass

    def add(self, call: AuditedCall) -> None:
        self.calls.append(call)


class World:
    """A desk with a client for everything, one for realtime alone and one for few rows; and its log."""

    def __init__(self, folder: Path) -> None:
        self.bench, self.log = Bench(folder, {}), Kept()

    @contextmanager
    def serving(self, caller: Identity) -> Iterator[tuple[TaskDesk, OfflineService]]:
        rules: dict[str, dict[str, object]] = {
            "desk": {},
            "now": {"modes": ["realtime"]},
            "few": {"max_offline_rows": 1},
        }
        clients = {name: ClientSettings.model_validate({"models": ["m"], **rule}) for name, rule in rules.items()}
        desk = TaskDesk(
            store=self.bench.store,
            warehouse=self.bench.warehouse,
            catalogue=self.bench.catalogue,
            access=Access(clients),
            uploads=self.bench.uploads,
            settings=InitiatorTaskSettings(),
            own_party="bank",
            look=lambda: None,
        )
        audit = RequestAudit(cast("Any", self.log))
        service = OfflineService(desk, lambda _: caller, TaskMetrics(lambda problem, _: problem), audit)
        with closing(desk), closing(service):
            yield desk, service

    def failed(self) -> str:
        """Return a task that failed."""
        task_id = self.bench.submit()
        claim = self.bench.store.claim("w")
        assert claim is not None
        self.bench.store.settle(claim, OfflineState.FAILED, Why(problem="lab is away", detail="away"))
        assert self.bench.store.task(task_id).state is OfflineState.FAILED
        return task_id


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_another_clients_task_is_held_to_the_mode_and_rows_of_who_asks(world: World) -> None:
    task_id = world.failed()

    for caller, error in ((NOW, NotPermittedError), (FEW, TooManySamplesError)):
        call = Call(task_id, 0, 0)
        with world.serving(caller) as (desk, service):
            with pytest.raises(error):
                await service.fetch(cast("Any", call))
            with pytest.raises(error):
                await desk.retry(task_id, caller)
            assert (await desk.get(task_id, caller)).state is OfflineState.FAILED  # it may know of it
        assert call.answered == []
    assert world.bench.store.task(task_id).state is OfflineState.FAILED

    other = world.bench.submit()
    with world.serving(NOW) as (desk, _), pytest.raises(NotPermittedError):
        await desk.cancel(other, NOW)
    assert world.bench.store.task(other).state is OfflineState.QUEUED
    with world.serving(FEW) as (desk, _):  # to end a task takes no rows
        assert (await desk.cancel(other, FEW)).state is OfflineState.CANCELLED
    with world.serving(DESK) as (desk, _):
        assert (await desk.retry(task_id, DESK)).state is OfflineState.QUEUED


async def test_a_token_for_less_reaches_no_further_at_the_desk(world: World, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    TokenFile(file).create("desk", models=("*",), modes=(Mode.REALTIME,), lasts=timedelta(days=1), by="ada")
    holder = TokenHolder(DESK.kind, DESK.name, TokenFile(file).all()[0], Tokens(file))
    task_id = world.failed()
    with world.serving(holder) as (desk, service):
        for asked in (service.fetch(cast("Any", Call(task_id, 0, 0))), desk.retry(task_id, holder)):
            with pytest.raises(NotPermittedError):
                await asked
        with pytest.raises(NotPermittedError):
            await desk.cancel(task_id, holder)
    assert world.bench.store.task(task_id).state is OfflineState.FAILED


async def test_a_task_that_was_queued_has_its_line_whatever_fails_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = world.bench.uploads.store([SampleIds.of([b"u1", b"u2"])], str(DESK))
    world.bench.store.add_upload(upload)

    def fails(*_: object) -> None:
        raise StateError("the database is away")

    asked = Submission(request_id="r-1", model_id="m", mode=Mode.NEARLINE, upload_id=upload.upload_id)
    monkeypatch.setattr(type(world.bench.store), "before", fails)
    with world.serving(DESK) as (_, service), pytest.raises(StateError):
        await service.submit(submission_to_wire(asked), cast("Any", None))
    (queued,) = world.bench.store.tasks(["m"], limit=10)
    assert [(call.what, call.outcome, call.rows) for call in world.log.calls] == [("SubmitTask", "ok", 2)]
    assert queued.state is OfflineState.QUEUED
